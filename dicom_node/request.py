"""The shape of an association request, looked at before pynetdicom parses it (PS3.8 9.3.2, PS3.7 annex D.3.3).

pynetdicom builds objects for every item whatever their number, in quadratic time, and takes presentation contexts and user
items that are empty. One pass here bounds both: what a request needs is counted, and each length must lie in what encloses it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

FIXED_BYTES = 68
"""Protocol version, AE titles and reserved bytes before the first item."""
MAXIMUM_CONTEXTS = 128
"""Odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""
MAXIMUM_SYNTAXES = 64
"""Of one context; the standard knows about fifty transfer syntaxes, retired ones included."""
MAXIMUM_USER_ITEMS = 512
"""Two role and extended negotiation items for each context, the five general ones, and a margin."""
MAXIMUM_ITEMS = MAXIMUM_CONTEXTS + 64
"""Contexts, the two others, and some of a later edition, which are passed over (PS3.8 9.3.1)."""
APPLICATION_CONTEXT, PRESENTATION_CONTEXT, USER_INFORMATION = 0x10, 0x20, 0x50
ABSTRACT_SYNTAX, TRANSFER_SYNTAX, MAXIMUM_LENGTH = 0x30, 0x40, 0x51
_CONTEXT_BYTES = 4


class MalformedRequest(Exception):
    """Raised when an A-ASSOCIATE-RQ is none, or larger than any honest one."""


def check_request(body: bytes | bytearray | memoryview) -> None:
    """Raise MalformedRequest where the PDU (without its six bytes of header) is no association request of a bearable size."""
    counted: Counter[int] = Counter()
    for kind, value in _items(memoryview(body), FIXED_BYTES):
        counted[kind] += 1
        if counted.total() > MAXIMUM_ITEMS:
            raise MalformedRequest(f"more than {MAXIMUM_ITEMS} items")
        if kind == PRESENTATION_CONTEXT:
            if counted[kind] > MAXIMUM_CONTEXTS:
                raise MalformedRequest(f"more than {MAXIMUM_CONTEXTS} presentation contexts")
            _check_context(value)
        elif kind == USER_INFORMATION:
            _check_user_information(value)
    for kind in (APPLICATION_CONTEXT, USER_INFORMATION):
        if counted[kind] != 1:
            raise MalformedRequest(f"{counted[kind]} items of type 0x{kind:02X}, one is needed")


def _check_context(value: memoryview) -> None:
    kinds = Counter(kind for kind, inner in _items(value, _CONTEXT_BYTES) if len(inner))
    if kinds[ABSTRACT_SYNTAX] != 1 or not 1 <= kinds[TRANSFER_SYNTAX] <= MAXIMUM_SYNTAXES:
        raise MalformedRequest("a presentation context without one abstract and some transfer syntaxes")


def _check_user_information(value: memoryview) -> None:
    for count, (kind, inner) in enumerate(_items(value, 0), 1):
        if count > MAXIMUM_USER_ITEMS:
            raise MalformedRequest(f"more than {MAXIMUM_USER_ITEMS} user items")
        if kind == MAXIMUM_LENGTH and len(inner) != 4:
            raise MalformedRequest("a maximum length that is no number")


def _items(data: memoryview, start: int) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the items that follow each other from `start` to the very end."""
    position = start
    if len(data) < start:
        raise MalformedRequest("cut off before its items")
    while position < len(data):
        if len(data) - position < 4:
            raise MalformedRequest("bytes left over after the last item")
        kind, length = struct.unpack_from(">BxH", data, position)
        position += 4
        if length > len(data) - position:
            raise MalformedRequest("an item ends beyond what holds it")
        yield kind, data[position : position + length]
        position += length


def is_well_formed(contexts: Iterable[Any]) -> bool:
    """True for 1 to 128 contexts with different odd numbers, a SOP class and a transfer syntax each (PS3.8 9.3.2.2).

    pynetdicom's negotiation raises on others, and the peer would never be answered.
    """
    proposed = list(contexts)
    numbers = {context.context_id for context in proposed if context.context_id % 2}
    is_complete = all(context.abstract_syntax and context.transfer_syntax for context in proposed)
    return is_complete and 1 <= len(proposed) == len(numbers)
