"""The parts of a Segmentation that repeat for every frame, written as bytes: Explicit VR Little Endian (PS3.5 7.1.2, 7.5).

Frames differ in four values. As data sets they would cost as much time as everything else together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sr.coding import Code
from pydicom.tag import Tag

LONG_LENGTH = frozenset({"SQ", "OB", "OW", "UT", "UN"})
"""VRs of which we write some, and whose length has 32 bits after two reserved bytes (PS3.5 table 7.1-1)."""
ITEM = struct.pack("<HH", 0xFFFE, 0xE000)


def element(keyword: str, value: str | bytes) -> bytes:
    """One element; text is ASCII, padded to even length as its VR asks for."""
    head, padding, is_long = _head(keyword)
    data = value if isinstance(value, bytes) else value.encode("ascii")
    if len(data) % 2:
        data += padding
    return head + (struct.pack("<HI", 0, len(data)) if is_long else struct.pack("<H", len(data))) + data


@cache
def _head(keyword: str) -> tuple[bytes, bytes, bool]:
    """Tag and VR, what pads the value, and whether its length has 32 bits."""
    tag, vr = Tag(keyword), dictionary_VR(keyword)
    head = struct.pack("<HH2s", tag.group, tag.element, vr.encode("ascii"))
    return head, b"\0" if vr in ("UI", "OB") else b" ", vr in LONG_LENGTH


def items(contents: Iterable[bytes]) -> bytes:
    """The value of a sequence: each content as an item of defined length."""
    return b"".join(ITEM + struct.pack("<I", len(content)) + content for content in contents)


def sequence(keyword: str, *contents: bytes) -> bytes:
    """One sequence of these items."""
    return element(keyword, items(contents))


def coded(code: Code) -> bytes:
    """The content of the item of a code."""
    return b"".join(
        (
            element("CodeValue", code.value),
            element("CodingSchemeDesignator", code.scheme_designator),
            element("CodeMeaning", code.meaning),
        )
    )


def raw_sequence(keyword: str, contents: Iterable[bytes]) -> RawDataElement:
    """The sequence as pydicom holds one that it has not decoded."""
    value = items(contents)
    return RawDataElement(Tag(keyword), "SQ", len(value), value, 0, False, True)
