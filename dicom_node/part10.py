"""The header of a Part 10 file in one pass, values undecoded (PS3.10 section 7): several times faster than reading all of it.

Whatever is out of the ordinary (deflated, big endian, without a preamble, not well-formed) is left to pydicom, which is
slower and more patient.
"""

from __future__ import annotations

import mmap
import warnings
from functools import lru_cache
from pathlib import Path
from struct import error as struct_error

from pydicom import DataElement, Dataset, dcmread
from pydicom.charset import convert_encodings, default_encoding, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.scan import EXPLICIT_LITTLE, IMPLICIT_LITTLE, Buffer, Coding, Malformed, elements

PREAMBLE = 128
META = PREAMBLE + 4
META_GROUP_LENGTH = 12
"""Bytes of the element that says how long the rest of the meta information is."""
FIRST_PIXELS = 0x7FE00008
"""Float Pixel Data, the first of the three elements that hold pixels."""
TRANSFER_SYNTAX_UID = 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
UNDECLARED, UTF_8 = default_encoding, python_encoding["ISO_IR 192"]
"""What pydicom calls the default repertoire, read as Latin-1, and UTF-8."""
TEXT = (0x00080050, 0x00080080, 0x00080090, 0x00081030, 0x0008103E, 0x00100010, 0x00100020, 0x00100021, 0x00104000)
"""Accession Number, institution, referring physician, descriptions, and the patient's name, identifiers and comments."""


def read_header(path: Path) -> Dataset:
    """Everything before the pixels. Raises what `pydicom.dcmread` raises where the file is none."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an unknown character set, say, costs no image
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(data)
        except (Malformed, struct_error, ValueError, LookupError):
            return dcmread(path, stop_before_pixels=True)


def _header(data: mmap.mmap) -> Dataset:
    if data[PREAMBLE:META] != b"DICM" or data[META : META + 8] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Malformed("no preamble, or no length of the file meta information")
    start = META + META_GROUP_LENGTH + int.from_bytes(data[META + 8 : META + META_GROUP_LENGTH], "little")
    meta = _raw(data[META:start], 0, EXPLICIT_LITTLE)
    syntax = UID((meta[_tag(TRANSFER_SYNTAX_UID)].value or b"").decode("ascii").rstrip("\0 "))
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian) or syntax.is_private:
        raise Malformed("an encoding that is not walked through here")
    coding = IMPLICIT_LITTLE if syntax == ImplicitVRLittleEndian else EXPLICIT_LITTLE
    found = _raw(data, start, coding)
    header = Dataset(found)
    header.set_original_encoding(not coding.explicit, True, list(_encodings(found)))
    header.file_meta = FileMetaDataset(meta)
    return header


def _encodings(found: dict[BaseTag, DataElement | RawDataElement]) -> tuple[str, ...]:
    """The declared character sets; what is undeclared, unknown or wrongly called UTF-8 is UTF-8 if it can be, else Latin-1."""
    held = found.get(_tag(SPECIFIC_CHARACTER_SET))
    declared = _known_encodings(held.value or b"") if isinstance(held, RawDataElement) else ()
    if declared not in ((), (UNDECLARED,), (UTF_8,)):
        return declared
    text = b"".join(one.value or b"" for tag in map(_tag, TEXT) if (one := found.get(tag)) is not None)
    if text.isascii():
        return declared
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return (UNDECLARED,)
    return (UTF_8,)


@lru_cache(maxsize=64)
def _known_encodings(terms: bytes) -> tuple[str, ...]:
    """What Python calls the character sets of Specific Character Set; nothing where none is given."""
    names = terms.decode("ascii", "replace").rstrip("\0 ")
    return tuple(convert_encodings([name.strip() for name in names.split("\\")])) if names else ()


def _raw(data: Buffer, start: int, coding: Coding) -> dict[BaseTag, DataElement | RawDataElement]:
    explicit = coding.explicit
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    for number, vr, begin, end in elements(data, start, coding, FIRST_PIXELS):
        tag = _tag(number)
        name = _vr(vr) if explicit else None
        found[tag] = RawDataElement(tag, name, end - begin, bytes(data[begin:end]), begin, not explicit, True)
    return found


@lru_cache(maxsize=4096)
def _tag(number: int) -> BaseTag:
    """One object for each tag: dictionaries find it without comparing."""
    return BaseTag(number)


@lru_cache(maxsize=64)
def _vr(name: bytes) -> str:
    return name.decode("ascii")
