"""multipart/related as it arrives (RFC 2046 5.1, RFC 2387): parts without their whole ever being in memory.

`Splitter.feed` takes the bytes of a request body in pieces of any size and gives back what they complete.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto

MAXIMUM_HEAD_BYTES = 8192
"""Header fields of one part, or what stands before the first."""
# RFC 2046 5.1.1 allows 70 characters; Orthanc sends 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,127}[0-9A-Za-z'()+_,./:=?-]")


class NotMultipart(Exception):
    """Raised when a content type or a body does not follow RFC 2046."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    """A part's header fields are complete."""

    content_type: str
    """Media type in lower case, without parameters; empty where there is none."""


@dataclass(frozen=True, slots=True)
class PartData:
    """Bytes of the part that began last."""

    content: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The part is complete."""


Event = PartBegins | PartData | PartEnds


class _Where(Enum):
    BEFORE = auto()
    HEAD = auto()
    BODY = auto()
    AFTER = auto()


def boundary_of(content_type: str, wanted: str) -> str:
    """The boundary of a multipart/related content type with this `type`. Raises NotMultipart."""
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() != "multipart/related":
        raise NotMultipart("not multipart/related")
    told = header.get_param("type")
    if told is not None and str(told).lower() != wanted:
        raise NotMultipart(f"not of type {wanted}")
    boundary = header.get_boundary() or ""
    if not _BOUNDARY.fullmatch(boundary):
        raise NotMultipart("no boundary")
    return boundary


class Splitter:
    """The parts of one body."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._held = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._where = _Where.BEFORE

    @property
    def is_complete(self) -> bool:
        """True once the closing delimiter was seen."""
        return self._where is _Where.AFTER

    def feed(self, piece: bytes) -> Iterator[Event]:
        """What these bytes complete, to be used before the next piece is fed. Raises NotMultipart."""
        if self.is_complete:
            return
        self._held += piece
        while not self.is_complete:
            if self._where is not _Where.HEAD:
                is_found = yield from self._to_delimiter()
                if not is_found:
                    return
            elif (begins := self._head()) is not None:
                yield begins
            else:
                return

    def _to_delimiter(self) -> Generator[Event, None, bool]:
        """Hand out what stands before the next delimiter; True (by `yield from`) where it was found."""
        start = 0
        while (at := self._held.find(self._delimiter, start)) >= 0:
            after = at + len(self._delimiter)
            line_end = self._held.find(b"\r\n", after, after + 128)
            is_last = self._held[after : after + 2] == b"--"
            if is_last or (line_end >= 0 and not self._held[after:line_end].strip(b" \t")):
                yield from self._data(at)
                if self._where is _Where.BODY:
                    yield PartEnds()
                del self._held[: len(self._held) if is_last else line_end]
                self._where = _Where.AFTER if is_last else _Where.HEAD
                return True
            if len(self._held) < after + 2 or (line_end < 0 and len(self._held) < after + 128):
                yield from self._data(at)  # not enough to tell; what came before is certain
                del self._held[:at]
                return False
            start = after
        certain = max(0, len(self._held) - len(self._delimiter) + 1)
        if certain:
            yield from self._data(certain)
            del self._held[:certain]
        return False

    def _data(self, count: int) -> Iterator[Event]:
        if self._where is _Where.BODY and count:
            yield PartData(bytes(self._held[:count]))

    def _head(self) -> PartBegins | None:
        """The part's header fields; they end with an empty line. What is held begins with the delimiter's line end."""
        end = self._held.find(b"\r\n\r\n")
        if end < 0 or end > MAXIMUM_HEAD_BYTES:
            if len(self._held) > MAXIMUM_HEAD_BYTES:
                raise NotMultipart(f"header fields of more than {MAXIMUM_HEAD_BYTES} bytes")
            return None
        lines = bytes(self._held[:end]).decode("latin-1").split("\r\n")
        del self._held[: end + 4]
        self._where = _Where.BODY
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                return PartBegins(value.partition(";")[0].strip().lower())
        return PartBegins("")
