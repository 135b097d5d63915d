"""Objects that come over STOW-RS (PS3.18 10.5): from the parts of a request to what became of each.

No HTTP in here, and no whole object in memory: a part's file meta information tells class, instance and transfer syntax, and its
data set goes the way of a C-STORE's, through the same checks to the same disk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dicom_node.ae import Acceptance
from dicom_node.intake import Command, Refused, Status
from dicom_node.multipart import Event, NotMultipart, PartBegins, PartData, PartEnds
from dicom_node.store import Answer, Incoming, Source, StoreService

DICOM = "application/dicom"
MAXIMUM_META_BYTES = 1024 * 1024
"""File meta information of one object; 300 bytes are usual, private information may make it longer."""
SYNTAX_NOT_SUPPORTED = 0xC122
"""Failure Reason of PS3.18 table 10.5.3-2 for a transfer syntax that is not taken."""
_GROUP_LENGTH_END = 128 + 4 + 12
_CLASS, _INSTANCE, _SYNTAX = 0x0002, 0x0003, 0x0010
_LONG = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR", b"OF", b"OD", b"OL", b"OV")


class NoPart10(Exception):
    """Raised when a part is no DICOM file (PS3.10 7.1)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one part; without UIDs where it did not tell any."""

    sop_class_uid: str
    sop_instance_uid: str
    answer: Answer

    @property
    def is_success(self) -> bool:
        """True where the object is kept."""
        return self.answer.status == Status.SUCCESS


@dataclass(slots=True)
class _Part:
    head: bytearray = field(default_factory=bytearray)
    """The bytes of the file until its meta information is complete."""
    incoming: Incoming | None = None
    failure: Answer | None = None
    command: Command = Command("", "", "")  # noqa: RUF009  # frozen

    def forget(self) -> None:
        """Give back what it holds."""
        self.head.clear()
        if self.incoming is not None:
            self.incoming.discard()


class StowRequest:
    """One request's objects; `results` grows with each part that ends."""

    def __init__(self, service: StoreService, source: Source, acceptance: Acceptance, *, maximum_parts: int) -> None:
        self.results: list[Stored] = []
        self._service, self._source, self._acceptance = service, source, acceptance
        self._maximum_parts = maximum_parts
        self._part: _Part | None = None

    def take(self, event: Event) -> None:
        """Take what the splitter found. Raises NotMultipart where the request as a whole cannot go on."""
        match event:
            case PartBegins(content_type):
                self._begin(content_type)
            case PartData(content):
                self._write(content)
            case PartEnds():
                self._end()

    def end(self, *, is_complete: bool) -> None:
        """The body is over; a part that was not finished is a failure."""
        if self._part is not None and not is_complete:
            self._fail(self._part, "object is not complete")
            self._end()

    def discard(self) -> None:
        """The request broke off: nothing of the unfinished part stays, what was stored stays."""
        if self._part is not None:
            self._part.forget()
            self._part = None

    def _begin(self, content_type: str) -> None:
        if len(self.results) >= self._maximum_parts:
            raise NotMultipart(f"more than {self._maximum_parts} objects in one request")
        self._part = _Part()
        if content_type not in ("", DICOM):
            self._fail(self._part, f"a part is not {DICOM}")

    def _write(self, content: bytes) -> None:
        part = self._part
        if part is None or part.failure is not None:
            return
        if part.incoming is not None:
            part.incoming.write(content)
            return
        part.head += content
        try:
            length = meta_length(part.head)
            if length is None or len(part.head) < length:
                return
            part.command = command_of(bytes(part.head[_GROUP_LENGTH_END:length]))
        except NoPart10 as error:
            self._fail(part, str(error))
            return
        part.incoming = self._service.begin(part.command, self._source)
        self._check_context(part, part.incoming)
        part.incoming.write(bytes(part.head[length:]))
        part.head = bytearray()

    def _check_context(self, part: _Part, incoming: Incoming) -> None:
        """What the negotiation of presentation contexts refuses on an association."""
        if part.command.sop_class_uid not in self._acceptance.classes:
            incoming.refuse(Refused(Status.SOP_CLASS_NOT_SUPPORTED, "SOP class is not supported"))
        elif part.command.transfer_syntax_uid not in self._acceptance.syntaxes:
            incoming.refuse(Refused(Status.SOP_CLASS_NOT_SUPPORTED, "transfer syntax is not supported"))
            part.failure = Answer(SYNTAX_NOT_SUPPORTED, "transfer syntax is not supported")

    def _end(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if part.incoming is None:
            answer = part.failure or Answer(Status.CANNOT_UNDERSTAND, "not a DICOM file")
        elif part.failure is not None and part.failure.status != SYNTAX_NOT_SUPPORTED:
            part.incoming.refuse(Refused(Status.CANNOT_UNDERSTAND, part.failure.comment))
            answer = part.incoming.finish()
        else:
            told = part.incoming.finish()
            answer = part.failure or told
        part.forget()
        self.results.append(Stored(part.command.sop_class_uid, part.command.sop_instance_uid, answer))

    def _fail(self, part: _Part, reason: str) -> None:
        part.forget()
        part.failure = Answer(Status.CANNOT_UNDERSTAND, reason)


def meta_length(head: bytearray) -> int | None:
    """Where the data set begins in a DICOM file of which these are the first bytes; None while that cannot be told.

    Raises NoPart10.
    """
    if len(head) < _GROUP_LENGTH_END:
        return None
    group, element, vr, length, value = struct.unpack_from("<HH2sHI", head, 132)
    if head[128:132] != b"DICM" or (group, element, vr, length) != (2, 0, b"UL", 4):
        raise NoPart10("not a DICOM file")
    if value > MAXIMUM_META_BYTES:
        raise NoPart10(f"file meta information of more than {MAXIMUM_META_BYTES} bytes")
    return int(_GROUP_LENGTH_END + value)


def command_of(meta: bytes) -> Command:
    """Class, instance and transfer syntax in file meta information behind its group length. Raises NoPart10."""
    values: dict[int, str] = {}
    position = 0
    while position + 8 <= len(meta):
        group, element, vr, length = struct.unpack_from("<HH2sH", meta, position)
        position += 8
        if vr in _LONG:
            if position + 4 > len(meta):
                break
            (length,) = struct.unpack_from("<I", meta, position)
            position += 4
        if group != 2 or length > len(meta) - position:
            raise NoPart10("file meta information cannot be read")
        if vr == b"UI":
            values[element] = meta[position : position + length].rstrip(b"\0 ").decode("latin-1")
        position += length
    if position != len(meta) or not all(values.get(one) for one in (_CLASS, _INSTANCE, _SYNTAX)):
        raise NoPart10("file meta information lacks class, instance or transfer syntax")
    return Command(values[_CLASS], values[_INSTANCE], values[_SYNTAX])


def response_of(results: Sequence[Stored]) -> tuple[int, dict[str, Any]]:
    """HTTP status (PS3.18 table 10.5.3-1) and the Store Instances Response Module as DICOM JSON."""
    stored = [one for one in results if one.is_success]
    failed = [one for one in results if not one.is_success and one.sop_instance_uid]
    other = [one for one in results if not one.is_success and not one.sop_instance_uid]
    body: dict[str, Any] = {}
    if stored:
        body["00081199"] = _sequence([_reference(one) for one in stored])
    if failed:
        body["00081198"] = _sequence([{**_reference(one), **_reason(one)} for one in failed])
    if other:
        body["0008119A"] = _sequence([_reason(one) for one in other])
    if stored:
        return (202 if failed or other else 200), body
    is_busy = bool(failed) and all(one.answer.status == Status.OUT_OF_RESOURCES for one in failed)
    return (503 if is_busy and not other and not _is_too_large(failed) else 409), body


def _is_too_large(failed: Sequence[Stored]) -> bool:
    """An object above the limit is out of resources as well, but coming back with it is no use."""
    return any("exceeds limit" in one.answer.comment for one in failed)


def _sequence(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"vr": "SQ", "Value": items}


def _reference(one: Stored) -> dict[str, Any]:
    return {
        "00081150": {"vr": "UI", "Value": [one.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [one.sop_instance_uid]},
    }


def _reason(one: Stored) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [int(one.answer.status)]}}
