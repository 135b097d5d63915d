"""The files that the node keeps what it receives in (PS3.10 7.1): its own file meta information before the data set as received.

`pixel_digest` reads such a file once more, where a SOP Instance UID came a second time with other bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from io import FileIO
from pathlib import Path

from dicom_node.ae import IMPLEMENTATION_CLASS_UID, implementation_version_name
from dicom_node.intake import Command, pixel_data
from storage.spool import Spool, SpoolError

HEAD_BYTES = 128 + 4 + 12
"""Preamble, prefix and File Meta Information Group Length (0002,0000)."""
_PIECE_BYTES = 256 * 1024
_VERSION_NAME = implementation_version_name()


def file_meta(command: Command, peer: str) -> bytes:
    """Preamble and file meta information, with the sender's AE title as Source Application Entity Title."""
    body = b"".join(
        (
            struct.pack("<HH2s2xI2s", 2, 1, b"OB", 2, b"\x00\x01"),
            _element(0x02, b"UI", command.sop_class_uid),
            _element(0x03, b"UI", command.sop_instance_uid),
            _element(0x10, b"UI", command.transfer_syntax_uid),
            _element(0x12, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x13, b"SH", _VERSION_NAME),
            _element(0x16, b"AE", peer[:16]),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def data_set_offset(head: bytes) -> int:
    """Where the data set begins in a file that the node wrote, of which these are the first HEAD_BYTES."""
    return HEAD_BYTES + int.from_bytes(head[-4:], "little")


def data_set_of(path: Path) -> bytes:
    """The data set of a file that the node wrote, as it was received. Raises OSError."""
    with path.open("rb") as file:
        file.seek(data_set_offset(file.read(HEAD_BYTES)))
        return file.read()


def pixel_digest(spool: Spool, relative: str, transfer_syntax_uid: str) -> str | None:
    """SHA-256 (hex) of the value of the pixel data element in a kept file; None without one.

    The value is as it was sent: the same pixels in another transfer syntax have another digest. Raises SpoolError where the
    file cannot be read.
    """
    try:
        with (
            spool.path(relative).open("rb", buffering=0) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[data_set_offset(whole[:HEAD_BYTES].tobytes()) :] as data_set,
            pixel_data(data_set, transfer_syntax_uid) as (held, span),
        ):
            if span is None:
                return None
            if held is data_set:  # through the map every page of it would count as the node's own memory
                return _digest_in(file, len(whole) - len(data_set) + span.start, span.stop - span.start)
            with memoryview(held) as inflated, inflated[span.start : span.stop] as value:
                return hashlib.sha256(value).hexdigest()
    except (OSError, ValueError) as error:
        raise SpoolError("a kept file cannot be read") from error


def _digest_in(file: FileIO, offset: int, size: int) -> str:
    digest = hashlib.sha256()
    piece = memoryview(bytearray(min(_PIECE_BYTES, size)))
    file.seek(offset)
    while size:
        count = file.readinto(piece[: min(len(piece), size)])
        if not count:
            raise SpoolError("a kept file ends too early")
        digest.update(piece[:count])
        size -= count
    return digest.hexdigest()


def _element(element: int, vr: bytes, value: str) -> bytes:
    """One short element of group 0002, padded to even length: UIDs with NUL, text with a space."""
    raw = value.encode("ascii", "replace")
    if len(raw) & 1:
        raw += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(raw)) + raw
