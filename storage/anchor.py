"""Anchors: the chain's head written where the owner of the database cannot change it, with a MAC nobody can make without the key.

One line each, to a file that is only appended to and to syslog. `storage.seal.verify` compares the chain with them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


class AnchorError(Exception):
    """Raised when an anchor file cannot be read as one, with the number of the line."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last link of the chain."""

    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the head was at a moment; `mac` is HMAC-SHA-256 (hex) over time, sequence and digest."""

    at: datetime
    sequence: int
    digest: str
    mac: str


_LINE = re.compile(r"(\S+) sequence=(\d+) digest=([0-9a-f]{64}) mac=([0-9a-f]{64})")
_WHOLE = re.compile(r" mac=[0-9a-f]{64}$")


def make_anchor(key: bytes, head: Head, at: datetime) -> Anchor:
    """The anchor of this head, with its MAC."""
    return Anchor(at, head.sequence, head.digest, _mac(key, at, head.sequence, head.digest))


def is_authentic(anchor: Anchor, key: bytes) -> bool:
    """True where the anchor was made with this key and not changed since."""
    expected = _mac(key, anchor.at, anchor.sequence, anchor.digest)
    return hmac.compare_digest(anchor.mac.encode(), expected.encode())


def append_anchor(path: Path, anchor: Anchor) -> None:
    """Append the anchor's line and have it on disk when this returns. Raises OSError."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        line = f"{'' if _ends_a_line(descriptor) else chr(10)}{_written(anchor)}\n".encode()
        if os.write(descriptor, line) != len(line):
            raise OSError("the anchor's line was written only in part")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        _sync_folder(path.parent)


def write_anchor(path: Path, key: bytes, head: Head, at: datetime) -> Anchor:
    """Make the anchor of this head and append it to the file. Raises OSError."""
    anchor = make_anchor(key, head, at)
    append_anchor(path, anchor)
    return anchor


def read_anchors(path: Path) -> list[Anchor]:
    """The file's anchors in its order. Raises AnchorError, OSError.

    A line cut short is passed over: the machine stopped while it was being written.
    """
    lines = path.read_bytes().decode("ascii", "replace").split("\n")
    return [_parsed(line, number) for number, line in enumerate(lines, start=1) if _WHOLE.search(line)]


def anchor_line(anchor: Anchor) -> str:
    """What follows priority and version in a syslog message (RFC 5424): time, no host, application, message."""
    return f"{_time(anchor.at)} - fovea - anchor - {_written(anchor)}"


def _mac(key: bytes, at: datetime, sequence: int, digest: str) -> str:
    return hmac.new(key, f"{_time(at)} {sequence} {digest}".encode(), hashlib.sha256).hexdigest()


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _written(anchor: Anchor) -> str:
    return f"{_time(anchor.at)} sequence={anchor.sequence} digest={anchor.digest} mac={anchor.mac}"


def _parsed(line: str, number: int) -> Anchor:
    match = _LINE.fullmatch(line)
    if match is None:
        raise AnchorError(f"line {number} is not an anchor")
    try:
        at = datetime.fromisoformat(match[1])
    except ValueError:
        raise AnchorError(f"line {number} has no time") from None
    if at.tzinfo is None:
        raise AnchorError(f"line {number} has a time without zone")
    return Anchor(at, int(match[2]), match[3], match[4])


def _ends_a_line(descriptor: int) -> bool:
    """False where the file ends with a line cut short."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
