"""C-STORE requests taken from their P-DATA as they come, answered from a template (PS3.7 9.1.1 and 9.3.1, PS3.8 E.2).

pynetdicom negotiates and serves every other service; its own C-STORE path holds the whole object in memory, never answers a
request without SOP Instance UID, and spends most of its time on encoding eight elements. `StoreDimse` replaces an association's
public `dimse` attribute and gets its fragments from `dicom_node.upper_layer`; what is no C-STORE request goes on to pynetdicom.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from dicom_node.intake import Command, Refused, Status
from dicom_node.store import Answer, Incoming, Source, StoreService

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101
MAXIMUM_COMMAND_BYTES = 65536
"""A C-STORE command set has about 300 bytes."""
_COMMAND_FIELD, _MESSAGE_ID, _DATA_SET_TYPE = 0x0100, 0x0110, 0x0800
_AFFECTED_CLASS, _AFFECTED_INSTANCE = 0x0002, 0x1000


class UnreadableCommand(Exception):
    """Raised when a command set is no implicit little endian group 0000 (PS3.7 6.3.1)."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """The command set of a C-STORE-RQ as far as it matters here."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


class User(Protocol):
    """The association's own loop, which serves everything but C-STORE."""

    def rest_user(self) -> None:
        """Let it rest unless something waits for it."""

    def wake_user(self) -> None:
        """There is something for it."""


class StoreDimse(DIMSEServiceProvider):
    """The DIMSE service provider of one accepted association, which serves C-STORE itself."""

    def __init__(self, association: Any, service: StoreService, source_of: Callable[[Any], Source | None], user: User) -> None:
        super().__init__(association)
        self._user = user
        self._contexts: dict[int, PresentationContext] = {}
        self._service = service
        self._source_of = source_of
        self._command = bytearray()
        self._request: StoreRequest | None = None
        self._incoming: Incoming | None = None

    def take(self, context_id: int, control: int, fragment: memoryview) -> bool:
        """Take one fragment of a message (PS3.8 E.2); False where it ends the association.

        Runs in the association's network thread, so that one message is answered before the next is read.
        """
        if control & 1:
            return self._take_command(context_id, fragment, is_last=bool(control & 2))
        if self._request is None:
            self._pass_on(context_id, bytes((control,)) + fragment)
            return True
        return self._take_data(context_id, fragment, is_last=bool(control & 2))

    def discard(self) -> None:
        """Forget an object whose association ended before its last byte."""
        self._request = None
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _take_command(self, context_id: int, fragment: memoryview, *, is_last: bool) -> bool:
        if self._request is not None or len(self._command) + len(fragment) > MAXIMUM_COMMAND_BYTES:
            return self._abort()  # PS3.8 E.1: a message's fragments are not mixed with another's
        self._command += fragment
        if not is_last:
            return True
        command, self._command = bytes(self._command), bytearray()
        try:
            elements = command_elements(command)
        except UnreadableCommand:
            return self._abort()
        if _unsigned(elements, _COMMAND_FIELD) != C_STORE_RQ:
            self._pass_on(context_id, b"\x03" + command)
            return True
        return self._begin(store_request(context_id, elements))

    def _begin(self, request: StoreRequest) -> bool:
        source = self._source_of(self.assoc)
        if not self._contexts:
            self._contexts = {one.context_id or 0: one for one in self.assoc.accepted_contexts}
        context = self._contexts.get(request.context_id)
        if source is None or context is None:
            return self._abort()  # PS3.8 9.3.5: no P-DATA on a context that was not accepted
        command = Command(request.sop_class_uid, request.sop_instance_uid, str(context.transfer_syntax[0]))
        self._incoming = self._service.begin(command, source)
        self._request = request
        self._user.rest_user()
        if request.sop_class_uid != context.abstract_syntax:
            self._incoming.refuse(Refused.other_class())
        if not request.has_data_set:
            self._finish()
        return True

    def _take_data(self, context_id: int, fragment: memoryview, *, is_last: bool) -> bool:
        request, incoming = self._request, self._incoming
        if request is None or incoming is None or context_id != request.context_id:
            return self._abort()
        incoming.write(fragment)
        if is_last:
            self._finish()
        return True

    def _finish(self) -> None:
        request, incoming = self._request, self._incoming
        self._request = self._incoming = None
        if request is None or incoming is None:
            return
        answer = incoming.finish()
        connection = self.dul.socket
        if connection is not None:
            connection.send(b"".join(response_pdus(request, answer, self.maximum_pdu_size)))

    def _pass_on(self, context_id: int, fragment: bytes) -> None:
        """Give pynetdicom a fragment of a message that is no C-STORE request."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, fragment))
        super().receive_primitive(primitive)
        self._user.wake_user()

    def _abort(self) -> bool:
        """End the association as pynetdicom does for a message it cannot read: an invalid PDU was received."""
        self.discard()
        self._command = bytearray()
        self.dul.event_queue.put("Evt19")
        return False


def command_elements(command: bytes) -> dict[int, bytes]:
    """The values of a command set by element number. Raises UnreadableCommand."""
    elements: dict[int, bytes] = {}
    position = 0
    while position < len(command):
        if len(command) - position < 8:
            raise UnreadableCommand("bytes left over")
        group, number, length = struct.unpack_from("<HHI", command, position)
        position += 8
        if group != 0 or length > len(command) - position:
            raise UnreadableCommand("no element of group 0000")
        elements[number] = command[position : position + length]
        position += length
    return elements


def store_request(context_id: int, elements: dict[int, bytes]) -> StoreRequest:
    """The request in a command set; UIDs as they are written, so that illegal ones can be told from missing ones."""
    return StoreRequest(
        context_id=context_id,
        message_id=_unsigned(elements, _MESSAGE_ID),
        sop_class_uid=_uid(elements.get(_AFFECTED_CLASS, b"")),
        sop_instance_uid=_uid(elements.get(_AFFECTED_INSTANCE, b"")),
        has_data_set=_unsigned(elements, _DATA_SET_TYPE) != NO_DATA_SET,
    )


def response_pdus(request: StoreRequest, answer: Answer, maximum_length: int) -> Iterator[bytes]:
    """The C-STORE-RSP as P-DATA-TF PDUs, none longer than the peer takes (PS3.8 D.1; 0 is no limit)."""
    command = response_command(request, answer)
    size = max(maximum_length - 6, 1) if maximum_length else len(command)
    for start in range(0, len(command), size):
        part = command[start : start + size]
        control = 0x03 if start + size >= len(command) else 0x01
        header = struct.pack(">BxIIBB", 0x04, len(part) + 6, len(part) + 2, request.context_id, control)
        yield header + part


def response_command(request: StoreRequest, answer: Answer) -> bytes:
    """The command set of the C-STORE-RSP (PS3.7 table 9.3-2); an illegal UID is not sent back."""
    elements = [
        (_AFFECTED_CLASS, _padded(request.sop_class_uid, b"\0")),
        (_COMMAND_FIELD, struct.pack("<H", C_STORE_RSP)),
        (0x0120, struct.pack("<H", request.message_id)),
        (_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (0x0900, struct.pack("<H", answer.status)),
    ]
    if answer.offending is not None:
        elements.append((0x0901, struct.pack("<HH", answer.offending >> 16, answer.offending & 0xFFFF)))
    if answer.comment:
        elements.append((0x0902, _padded(answer.comment[:64], b" ")))
    if answer.status != Status.INVALID_SOP_INSTANCE:
        elements.append((_AFFECTED_INSTANCE, _padded(request.sop_instance_uid, b"\0")))
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in elements if value)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _padded(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    return raw + padding if len(raw) & 1 else raw


def _uid(value: bytes) -> str:
    """The UID without its one padding NUL (or the spaces that some senders write instead)."""
    return value.removesuffix(b"\0").rstrip(b" ").decode("latin-1")


def _unsigned(elements: dict[int, bytes], number: int) -> int:
    value = elements.get(number, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else 0
