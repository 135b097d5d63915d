"""Header values as text and numbers, whatever the sender wrote: wrong character sets, controls and numbers never raise.

Character sets follow PS3.3 C.12.1.1.2 with pydicom's tables. Text comes out without NUL and control characters, so that
every database and every page can hold it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from pydicom.charset import decode_bytes, python_encoding

MAXIMUM_VALUE_BYTES = 4096
"""Longest header value looked at; the longest VR read here (LT) may have 10,240 characters, but no rule needs them."""

_DELIMITERS = {0x5C, 0x5E, 0x3D}  # backslash, caret, equals sign: they reset the code extension (PS3.5 6.1.2.5.3)
_CONTROLS = {code: None for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A, 0x0D)}
_MISSPELLED = (
    (re.compile(r"^ISO.IR.(\d+)$"), r"ISO_IR \1"),
    (re.compile(r"^ISO.2022.IR.(\d+)$"), r"ISO 2022 IR \1"),
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_INT32 = range(-(2**31), 2**31)


@lru_cache(maxsize=64)  # the same for all images of a study
def encodings(specific_character_set: str) -> tuple[str, ...]:
    """Python codecs of a Specific Character Set (0008,0005); unknown terms are left out, never empty."""
    found = []
    for term in specific_character_set.split("\\"):
        term = term.strip()
        for pattern, spelling in _MISSPELLED:
            term = pattern.sub(spelling, term)
        codec = python_encoding.get(term)
        if codec is not None:
            found.append(codec)
    return tuple(found) or ("utf-8",)


def text(value: bytes, codecs: Sequence[str] = ("ascii",)) -> str:
    """The value as text without padding. Undecodable bytes are replaced."""
    value = value[:MAXIMUM_VALUE_BYTES]
    is_plain = value.isascii() and b"\x1b" not in value
    decoded = value.decode("ascii") if is_plain else _decoded(value, codecs)
    if not (is_plain and decoded.isprintable()):
        decoded = decoded.translate(_CONTROLS)
    return decoded.strip()


def uid(value: bytes) -> str:
    """A UID without its padding, every other byte as it is: what is illegal in it must be seen, not mended (PS3.5 9.1)."""
    return value.rstrip(b"\0 ").decode("latin-1")


def _decoded(value: bytes, codecs: Sequence[str]) -> str:
    if b"\x1b" in value:
        try:
            return str(decode_bytes(value, list(codecs), _DELIMITERS))
        except (UnicodeError, LookupError, ValueError, Warning):
            return value.decode("latin-1")
    for codec in (codecs[0], "utf-8"):
        try:
            return value.decode(codec)
        except (UnicodeError, LookupError):
            continue
    return value.decode("latin-1")


def strings(value: str) -> tuple[str, ...]:
    """The values of a multi-valued text without padding; none for an empty one."""
    return tuple(map(str.strip, value.split("\\"))) if value else ()


def decimals(value: str) -> tuple[float, ...] | None:
    """The numbers of a DS value; None where one is no finite number, or where there is none."""
    try:
        numbers = tuple(map(float, value.split("\\")))
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def decimal(value: str) -> float | None:
    """The first number of a DS value, or None."""
    numbers = decimals(value) if value else None
    return numbers[0] if numbers else None


def integer(value: str) -> int | None:
    """The number of an IS value within 32 bits (PS3.5 6.2), or None."""
    first = value.split("\\", 1)[0].strip()
    if not _INTEGER.fullmatch(first):
        return None
    number = int(first)
    return number if number in _INT32 else None
