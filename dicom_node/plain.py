"""C-STORE over pynetdicom's public events and one of its timers: the reference for `dicom_node.dimse`, and what to fall back to.

`EVT_C_STORE` brings regular requests once they are whole in memory. Two further events close what pynetdicom leaves open:
`EVT_PDU_RECV` bounds what a message may hold, and `EVT_DIMSE_RECV` answers the requests that never reach a handler (no SOP
Instance UID, an illegal one, no data set, a class that the library does not know as storage).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicom_node.dimse import MAXIMUM_COMMAND_BYTES, StoreRequest, command_elements, store_request
from dicom_node.intake import Command, Refused, Status, is_uid
from dicom_node.store import Answer, Source, StoreService


class PlainStore:
    """The handlers of one listener's C-STORE service."""

    def __init__(self, service: StoreService, source_of: Callable[[Any], Source | None]) -> None:
        self._service = service
        self._source_of = source_of

    def handlers(self) -> list[Any]:
        """What `start_server` binds."""
        return [
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_DIMSE_RECV, self._on_message),
            (evt.EVT_C_STORE, self._on_store),
        ]

    def _on_pdu(self, event: Any) -> None:
        """Hold a message's fragments to their order and bounds before pynetdicom adds them up; it does neither."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        message: DIMSEMessage | None = event.assoc.dimse.message
        fragments = _Fragments(message, self._service.maximum_object_bytes)
        items: list[Any] = event.pdu.presentation_data_value_items
        for item in items:
            if not fragments.may_follow(item.presentation_context_id, item.presentation_data_value):
                items.clear()
                event.assoc.dul.event_queue.put("Evt19")  # as pynetdicom does for a message it cannot read
                return
            item.presentation_data_value = fragments.bounded(item.presentation_data_value)

    def _on_message(self, event: Any) -> None:
        """Answer what would never be answered, and take it out of pynetdicom's way."""
        message = event.message
        if not isinstance(message, C_STORE_RQ) or message.context_id is None:
            return
        request = store_request(message.context_id, command_elements(message.encoded_command_set.getvalue()))
        context = next((one for one in event.assoc.accepted_contexts if one.context_id == request.context_id), None)
        if context is None or _reaches_handler(request, str(context.abstract_syntax)):
            return  # pynetdicom aborts where the context was not accepted
        for keyword in ("AffectedSOPInstanceUID", "AffectedSOPClassUID"):
            if keyword in message.command_set:
                delattr(message.command_set, keyword)  # so that it is no valid request any more
        data = message.data_set.getvalue() if request.has_data_set and message.data_set is not None else b""
        answer = self._answer(event.assoc, request, context.as_tuple, data)
        event.assoc.dimse.send_msg(_response(request, answer), request.context_id)

    def _on_store(self, event: Any) -> Dataset:
        """Answer a regular request."""
        wanted = event.request
        uids = str(wanted.AffectedSOPClassUID), str(wanted.AffectedSOPInstanceUID)
        request = StoreRequest(event.context.context_id, event.message_id, *uids, has_data_set=True)
        answer = self._answer(event.assoc, request, event.context, event.encoded_dataset(include_meta=False))
        status = Dataset()
        status.Status = answer.status
        if answer.comment:
            status.ErrorComment = answer.comment[:64]
        if answer.offending is not None:
            status.OffendingElement = answer.offending
        return status

    def _answer(self, association: Any, request: StoreRequest, context: Any, data: bytes) -> Answer:
        source = self._source_of(association)
        if source is None:
            return Answer(Status.OUT_OF_RESOURCES, "association has ended")
        command = Command(request.sop_class_uid, request.sop_instance_uid, str(context.transfer_syntax))
        incoming = self._service.begin(command, source)
        if request.sop_class_uid != context.abstract_syntax:
            incoming.refuse(Refused.other_class())
        incoming.write(data)
        try:
            return incoming.finish()
        finally:
            association.dul._idle_timer.restart()  # the peer's silence begins with our answer, which may have taken long


class _Fragments:
    """How far the message has come that a PDU's fragments belong to (PS3.8 E.1)."""

    def __init__(self, message: DIMSEMessage | None, maximum_object_bytes: int) -> None:
        self._maximum_object_bytes = maximum_object_bytes
        self._context_id = None if message is None else message.context_id
        self._command_bytes = 0 if message is None else message.encoded_command_set.tell()
        self._data_bytes = 0 if message is None or message.data_set is None else message.data_set.tell()

    def may_follow(self, context_id: int, fragment: bytes) -> bool:
        """False for a command within a data set, a command without end, or data on another context than its command's."""
        if not fragment[0] & 1:
            return self._context_id in (None, context_id)
        if self._context_id is not None:
            return False
        self._command_bytes += len(fragment)
        return self._command_bytes <= MAXIMUM_COMMAND_BYTES

    def bounded(self, fragment: bytes) -> bytes:
        """The fragment; only its control byte where the object is above the limit already."""
        if fragment[0] & 1:
            return fragment
        is_above = self._data_bytes > self._maximum_object_bytes
        self._data_bytes += len(fragment) - 1
        return fragment[:1] if is_above else fragment


def _reaches_handler(request: StoreRequest, abstract_syntax: str) -> bool:
    """True where pynetdicom triggers EVT_C_STORE, with everything the request said."""
    is_complete = request.has_data_set and is_uid(request.sop_instance_uid)
    is_known = uid_to_service_class(request.sop_class_uid) is StorageServiceClass
    return is_complete and is_known and request.sop_class_uid == abstract_syntax


def _response(request: StoreRequest, answer: Answer) -> C_STORE:
    response: Any = C_STORE()  # typed as if every element were absent
    response.MessageIDBeingRespondedTo = request.message_id
    response.Status = answer.status
    if is_uid(request.sop_class_uid):
        response.AffectedSOPClassUID = request.sop_class_uid
    if is_uid(request.sop_instance_uid):
        response.AffectedSOPInstanceUID = request.sop_instance_uid
    response.ErrorComment = answer.comment[:64] or None
    response.OffendingElement = answer.offending
    made: C_STORE = response
    return made
