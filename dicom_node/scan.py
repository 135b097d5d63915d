"""One pass over the bytes of a data set: where the wanted elements lie, and whether the structure is whole (PS3.5 7).

Every length is checked against what encloses it, nesting is bounded, and no value is copied or decoded, so that the time
is proportional to the number of elements whatever the sender wrote. Works on bytes, memory views and memory maps alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from mmap import mmap
from struct import Struct
from typing import NamedTuple, TypeAlias

from pydicom._dicom_dict import DicomDictionary

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap

MAXIMUM_DEPTH = 64
"""Sequences within sequences; the deepest IOD of PS3.3 needs fewer than ten."""
MAXIMUM_ELEMENTS = 4_000_000
"""Elements and items of one object; an enhanced series of 10,000 frames has about 600,000."""

UNDEFINED = 0xFFFFFFFF
FIRST_GROUP = 0x0008
"""Groups below belong to commands, file meta information and directories (PS3.5 7.1), never to a stored object."""
DELIMITERS = 0xFFFE
"""Group of items and their delimiters, which stand in sequences and nowhere else."""
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITER_BYTES = 8

# PS3.5 table 7.1-2: VRs with a 16-bit length; every other VR, also a future one, has a 32-bit length
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
FRAGMENT_VRS = frozenset((b"OB", b"OW"))
SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")


class Malformed(Exception):
    """Raised when the bytes are no data set: the message says what is wrong at which element."""


class TooManyElements(Exception):
    """Raised when an object has more elements than any real one."""


class Span(NamedTuple):
    """Where an element's value lies; for encapsulated pixel data all items without the closing delimiter."""

    start: int
    stop: int


class Element(NamedTuple):
    """A top-level element and where its value lies."""

    tag: int
    vr: bytes
    """Implicit: `SQ` or `UN`."""
    start: int
    stop: int


class Coding(NamedTuple):
    """One of the three ways an element header is written."""

    explicit: bool
    header: Struct
    """Explicit: group, element, VR, 16-bit length. Implicit: group, element, 32-bit length."""
    item: Struct
    """Group, element, 32-bit length: items and delimiters."""
    length: Struct
    """32-bit length after an explicit header."""


EXPLICIT_LITTLE = Coding(True, Struct("<HH2sH"), Struct("<HHI"), Struct("<I"))
EXPLICIT_BIG = Coding(True, Struct(">HH2sH"), Struct(">HHI"), Struct(">I"))
IMPLICIT_LITTLE = Coding(False, Struct("<HHI"), Struct("<HHI"), Struct("<I"))


class _Frame(NamedTuple):
    holds_items: bool
    stop: int
    is_open: bool
    """True with undefined length: a delimiter must come before `stop`."""
    coding: Coding


class _Header(NamedTuple):
    tag: int
    vr: bytes
    length: int
    start: int


def scan(data: Buffer, coding: Coding, wanted: Collection[int]) -> dict[int, Span]:
    """The spans of the wanted top-level elements that are present, in a data set that is whole to its last byte.

    Raises Malformed for a length beyond what encloses it, an odd length, a missing delimiter, too deep a nesting, an
    impossible VR, or a wanted element that comes twice; TooManyElements beyond MAXIMUM_ELEMENTS.
    """
    found: dict[int, Span] = {}
    end = len(data)
    position = count = start = stop = 0
    unpack, last_header = coding.header.unpack_from, end - 8
    while position < end:
        group = number = length = 0
        vr = b""
        if coding.explicit and position <= last_header:
            group, number, vr, length = unpack(data, position)
            start = position + 8
            stop = start + length
        if vr in SHORT_VRS and stop <= end and not length & 1 and FIRST_GROUP <= group != DELIMITERS:  # nearly all
            tag, count, position = group << 16 | number, count + 1, stop
        else:
            tag, start, stop, position, inner = _unusual(data, position, end, coding)
            count += inner + 1
        if count > MAXIMUM_ELEMENTS:
            raise TooManyElements(f"more than {MAXIMUM_ELEMENTS} elements")
        if tag in wanted:
            if tag in found:
                raise Malformed(f"element {_name(tag)} comes twice")
            found[tag] = Span(start, stop)
    return found


def _unusual(data: Buffer, position: int, end: int, coding: Coding) -> tuple[int, int, int, int, int]:
    """Any top-level element: tag, start and end of its value, where the next one begins, and the number of elements within."""
    header = _element(data, position, end, coding)
    if header.tag >> 16 < FIRST_GROUP:
        raise Malformed(f"element {_name(header.tag)} does not belong in a stored data set")
    if (header.vr == b"SQ" and header.length) or header.length == UNDEFINED:
        stop, following, inner = _compound(data, header, end, coding)
        return header.tag, header.start, stop, following, inner
    stop = header.start + header.length
    return header.tag, header.start, stop, stop, 0


def elements(data: Buffer, position: int, coding: Coding, stop_at: int) -> Iterator[Element]:
    """The top-level elements from a position on, up to the first whose tag is `stop_at` or higher.

    The value of a sequence of undefined length ends before its delimiter. Raises Malformed as `scan` does, and for
    anything else of undefined length.
    """
    end = len(data)
    while position < end:
        header = _element(data, position, end, coding)
        if header.tag >= stop_at:
            return
        if header.length != UNDEFINED:
            position = stop = header.start + header.length
        elif header.vr == b"SQ":
            position, _ = _sequence(data, header.start, _frame(header, end, coding))
            stop = position - DELIMITER_BYTES
        else:
            raise Malformed(f"element {_name(header.tag)} has an undefined length")
        yield Element(header.tag, header.vr, header.start, stop)


def _element(data: Buffer, position: int, stop: int, coding: Coding) -> _Header:
    """The element header at a position; its value, unless of undefined length, ends at `stop` or before."""
    if stop - position < 8:
        raise Malformed(f"{stop - position} bytes left over after the last element")
    if coding.explicit:
        group, number, vr, length = coding.header.unpack_from(data, position)
        tag = group << 16 | number
        position += 8
        if vr not in SHORT_VRS:
            if not (vr.isalpha() and vr.isupper()):
                raise Malformed(f"element {_name(tag)} has no value representation")
            if stop - position < 4:
                raise Malformed(f"element {_name(tag)} is cut off")
            (length,) = coding.length.unpack_from(data, position)
            position += 4
    else:
        group, number, length = coding.header.unpack_from(data, position)
        tag = group << 16 | number
        position += 8
        vr = b"SQ" if tag in SEQUENCE_TAGS else b"UN"
    if group == DELIMITERS:
        raise Malformed(f"{_name(tag)} stands outside of a sequence")
    if length != UNDEFINED:
        if length > stop - position:
            raise Malformed(f"element {_name(tag)} ends beyond what holds it")
        if length & 1:
            raise Malformed(f"element {_name(tag)} has an odd length")
    return _Header(tag, vr, length, position)


def _compound(data: Buffer, header: _Header, end: int, coding: Coding) -> tuple[int, int, int]:
    """End of the value, start of the next element, and number of elements within, of a sequence or of fragments."""
    if header.vr in FRAGMENT_VRS:
        return _fragments(data, header, end, coding)
    following, elements = _sequence(data, header.start, _frame(header, end, coding))
    return following, following, elements


def _frame(header: _Header, end: int, coding: Coding) -> _Frame:
    """How to read a sequence's items. An UN of undefined length is implicit little endian inside (PS3.5 6.2.2 note 2).

    An element that is known to be no sequence has a length.
    """
    is_open = header.length == UNDEFINED
    if header.vr == b"UN" and (header.tag in SEQUENCE_TAGS or header.tag not in DicomDictionary):
        coding = IMPLICIT_LITTLE
    elif header.vr != b"SQ":
        raise Malformed(f"element {_name(header.tag)} has an undefined length")
    return _Frame(True, end if is_open else header.start + header.length, is_open, coding)


def _fragments(data: Buffer, header: _Header, end: int, coding: Coding) -> tuple[int, int, int]:
    """Items of encapsulated pixel data up to their delimiter (PS3.5 A.4)."""
    position = header.start
    count = 0
    while end - position >= 8:
        group, number, length = coding.item.unpack_from(data, position)
        tag = group << 16 | number
        if tag == SEQUENCE_END and length == 0:
            return position, position + 8, count
        if tag != ITEM or length > end - position - 8 or length & 1:
            raise Malformed(f"element {_name(header.tag)} holds a broken fragment")
        position += 8 + length
        count += 1
        if count > MAXIMUM_ELEMENTS:
            raise TooManyElements(f"more than {MAXIMUM_ELEMENTS} fragments")
    raise Malformed(f"element {_name(header.tag)} has no delimiter")


def _sequence(data: Buffer, position: int, outermost: _Frame) -> tuple[int, int]:
    """The position after a sequence and the number of elements in it; a stack instead of recursion, so depth costs nothing."""
    frames = [outermost]
    elements = 0
    while frames:
        frame = frames[-1]
        if position >= frame.stop and not frame.is_open:
            frames.pop()
            continue
        elements += 1
        if elements > MAXIMUM_ELEMENTS:
            raise TooManyElements(f"more than {MAXIMUM_ELEMENTS} elements")
        step = _item if frame.holds_items else _nested_element
        position, inner = step(data, position, frame)
        if inner is None:
            frames.pop()
        elif inner is not frame:
            if len(frames) >= 2 * MAXIMUM_DEPTH:
                raise Malformed(f"sequences nested more than {MAXIMUM_DEPTH} deep")
            frames.append(inner)
    return position, elements


def _item(data: Buffer, position: int, frame: _Frame) -> tuple[int, _Frame | None]:
    """After an item's header: its content's frame. After the sequence's delimiter: None."""
    if frame.stop - position < 8:
        raise Malformed("a sequence is cut off")
    group, number, length = frame.coding.item.unpack_from(data, position)
    tag = group << 16 | number
    position += 8
    if tag == SEQUENCE_END and length == 0 and frame.is_open:
        return position, None
    if tag != ITEM:
        raise Malformed(f"a sequence holds {_name(tag)} instead of an item")
    if length == UNDEFINED:
        return position, _Frame(False, frame.stop, True, frame.coding)
    if length > frame.stop - position or length & 1:
        raise Malformed("an item ends beyond its sequence or has an odd length")
    return position, _Frame(False, position + length, False, frame.coding)


def _nested_element(data: Buffer, position: int, frame: _Frame) -> tuple[int, _Frame | None]:
    """After an element of an item: the same frame, or the frame of the sequence it is. After the item's delimiter: None."""
    if frame.is_open and frame.stop - position >= 8:
        group, number, length = frame.coding.item.unpack_from(data, position)
        if group << 16 | number == ITEM_END and length == 0:
            return position + 8, None
    header = _element(data, position, frame.stop, frame.coding)
    if header.length == UNDEFINED and header.vr in FRAGMENT_VRS:
        return _fragments(data, header, frame.stop, frame.coding)[1], frame
    if header.length == UNDEFINED or (header.vr == b"SQ" and header.length):
        return header.start, _frame(header, frame.stop, frame.coding)
    return header.start + header.length, frame


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
