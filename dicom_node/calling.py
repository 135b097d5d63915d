"""Calling a destination: one association for whatever service, in the clear or over TLS, with bounded reads.

The same guard as on the listener stands in front of what an answer may cost: the length of each PDU and the time it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pynetdicom import _config as pynetdicom_config
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from dicom_node.ae import requestor
from dicom_node.guard import HEADER_BYTES, INVALID_PDU_PARAMETER, GuardedSocket, PduLimits
from dicom_node.settings import Destination
from dicom_node.tls import CallingContext, TlsFilesError

ANSWER_PDU_BYTES = 128 * 1024
"""The longest PDU announced to a destination, which sends objects on C-GET alone."""
PDU_MARGIN_BYTES = 1024
ANSWERS_BYTES = 16 * 1024 * 1024
"""All that a destination may say on one association that asks for no object: 50,000 answers to C-STORE."""


class NotSecured(Exception):
    """Raised when there is no TLS connection to the destination; the message says why."""


def associate(
    destination: Destination,
    calling_ae_title: str,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    answer_bytes: int = ANSWERS_BYTES,
) -> Any:
    """pynetdicom's association with the destination, established or not. Raises NotSecured where TLS failed.

    `answer_bytes` is all that the destination may send over it.
    """
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    entity = requestor(calling_ae_title, destination.timeout_s)
    entity.maximum_pdu_size = ANSWER_PDU_BYTES
    context = _context(destination)
    limits = PduLimits(ANSWER_PDU_BYTES + PDU_MARGIN_BYTES, destination.timeout_s)
    association = entity.associate(
        destination.host,
        destination.port,
        contexts=list(contexts),
        ext_neg=list(roles),
        ae_title=destination.ae_title,
        max_pdu=ANSWER_PDU_BYTES,
        evt_handlers=[(evt.EVT_CONN_OPEN, _guard, [limits, answer_bytes]), *handlers],
        tls_args=None if context is None else (context, destination.tls_name or destination.host),
    )
    if context is not None and context.failure is not None:
        raise NotSecured(f"no TLS with {destination.address}: {context.failure}")
    return association


def _context(destination: Destination) -> CallingContext | None:
    if not destination.tls:
        return None
    try:
        return CallingContext.for_destination(destination)
    except TlsFilesError as error:
        raise NotSecured(str(error)) from error


def _guard(event: Any, limits: PduLimits, answer_bytes: int) -> None:
    """Put the guard in place. It turns Nagle's algorithm off too, with which each instance waits 40 ms for an acknowledgement."""
    association = event.assoc
    association.dul.socket = AnsweredSocket(association.dul.socket, limits, answer_bytes)


class AnsweredSocket(GuardedSocket):
    """The guard on a connection that we opened; what the destination says in all is bounded too."""

    def __init__(self, wrapped: AssociationSocket, limits: PduLimits, answer_bytes: int) -> None:
        super().__init__(wrapped, limits)
        self.has_association = True  # it is for us to ask for one
        self._budget = answer_bytes

    def header(self) -> tuple[int, int] | None:
        """As of any guarded socket. Raises ConnectionAbortedError too where all answers together are too long."""
        found = super().header()
        if found is not None:
            self._budget -= HEADER_BYTES + found[1]
            if self._budget < 0:
                self._abort(INVALID_PDU_PARAMETER, "the answers are longer than anything that could be meant")
        return found
