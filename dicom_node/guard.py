"""What a stranger may cost: the length of a PDU, the time it may take, and connections that never ask for an association.

A `GuardedSocket` takes the place of an association's public `dul.socket`; it reads PDUs in large pieces under a deadline,
refuses lengths above the cap by the header alone (PS3.8 9.3.1; provider reason 6, invalid PDU parameter value), and looks at an
association request before anybody parses it. A PDU that the state does not know is aborted with reason 2, unexpected PDU.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.transport import AssociationSocket

from dicom_node.request import MalformedRequest, check_request

HEADER_BYTES = 6
_HEADER = struct.Struct(">BxI")
FIRST_BUFFER_BYTES = 16 * 1024
"""Enough for most association requests; it grows to the announced PDU length once an association stands."""
ASSOCIATE_BYTES = 1024 * 1024
"""Longest PDU before an association stands: 128 contexts of 16 syntaxes need 150 kB."""
WAIT_FOR_DATA_S = 0.003
"""How long one look for data may block: short enough for what waits to be sent, long enough to be woken by the data itself."""
SERVICE_PROVIDER, UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PDU_PARAMETER = 2, 1, 2, 6  # PS3.8 9.3.8
NO_ASSOCIATION = ("Sta1", "Sta2", "Sta13")
AWAITING_REQUEST, ARTIM_EXPIRED = "Sta2", "Evt18"  # PS3.8 tables 9-1 and 9-10
ASSOCIATE_RQ = 1
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only


# What pynetdicom aborts for when a PDU comes that the state does not know: PS3.8 table 9-10, actions AA-1 and AA-8
_REASONS = {
    **dict.fromkeys(("Evt3", "Evt4", "Evt6", "Evt10", "Evt12", "Evt13"), UNEXPECTED_PDU),
    "Evt19": INVALID_PDU_PARAMETER,
}


class Ended(StrEnum):
    """Why a connection was ended from our side; a word of a metric."""

    SILENT = "silent"
    """No association request within the ARTIM time."""
    SLOW = "slow"
    """A PDU that was not whole at its deadline."""
    UNRECOGNIZED = "unrecognized pdu"
    UNEXPECTED = "unexpected pdu"
    INVALID = "invalid pdu"
    EVICTED = "evicted"
    """The oldest silent one, to make room for a newcomer."""


_ENDED = {UNRECOGNIZED_PDU: Ended.UNRECOGNIZED, UNEXPECTED_PDU: Ended.UNEXPECTED, INVALID_PDU_PARAMETER: Ended.INVALID}


@dataclass(frozen=True, slots=True)
class PduLimits:
    """The longest P-DATA taken, and the seconds one PDU may take from its first byte to its last."""

    maximum_bytes: int
    deadline_s: float


class GuardedSocket(AssociationSocket):
    """pynetdicom's socket wrapper with bounded reads into one buffer; each PDU has a cap and a deadline."""

    def __init__(self, wrapped: AssociationSocket, limits: PduLimits, note: Callable[[Ended], None] = lambda _: None) -> None:
        # Not super().__init__: that would tell the state machine of a second connection (Evt5).
        self.__dict__.update(vars(wrapped))
        self.note = note
        """Told why, where the connection is ended from our side."""
        self.abort_reason: int | None = None
        """The reason of an A-ABORT that pynetdicom sends now; None where it aborts for the local user."""
        self.refused_pdus = 0
        """PDUs that were answered by an abort."""
        self._limits = limits
        self._deadline = 0.0
        self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        self._start = self._stop = 0
        self._unread = 0
        """Bytes of the present PDU that `recv` has not given out yet."""
        self.has_association = False
        """Set once an association request was accepted: only then may a PDU be as long as announced."""
        self.patience_s = WAIT_FOR_DATA_S
        """How long one look for data may block."""
        if self.socket is not None:
            self.socket.setblocking(False)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def ready(self) -> bool:
        """True where data waits, or comes within `patience_s`: data wakes the reader at once."""
        if self._stop > self._start or self._is_pending():
            return True
        if self.socket is not None:
            with suppress(OSError, ValueError):  # closed meanwhile: the look below tells
                if self._wait(select.POLLIN, self.patience_s) == select.POLLIN:
                    return self._is_data()
        return bool(super().ready) and self._is_data()

    def _is_data(self) -> bool:
        """True unless what came over TLS is no data at all, or not yet: a session ticket, a key update, half a record."""
        if not isinstance(self.socket, ssl.SSLSocket) or self._is_pending():
            return True
        self._start = self._stop = 0
        try:
            self._stop = self.socket.recv_into(self._buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError):
            return True  # the read that follows meets it again and closes
        return True

    def header(self) -> tuple[int, int] | None:
        """Type and length of the PDU that comes next, which stays unread; None where the peer closed.

        Raises TimeoutError at its deadline, ConnectionAbortedError for an unknown type, a length above the cap, or a malformed
        association request, which is looked at as a whole.
        """
        if not self._unread:
            self._deadline = time.monotonic() + self._limits.deadline_s
            if not self._fill(HEADER_BYTES):
                return None
            kind, length = self._check_header()
            if kind == ASSOCIATE_RQ:
                if not self._fill(HEADER_BYTES + length):
                    return None
                self._check_request(length)
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        return kind, length

    def body(self, length: int) -> memoryview | None:
        """The content of the PDU after `header`; valid until the next read. None where the peer closed. Raises TimeoutError."""
        if not self._fill(HEADER_BYTES + length):
            return None
        start = self._start + HEADER_BYTES
        self._start = start + length
        self._unread = 0
        return self._buffer[start : self._start]

    def recv(self, nr_bytes: int) -> bytearray:
        """Exactly `nr_bytes`, or fewer where the peer closed. Raises TimeoutError at the deadline, OSError above the cap."""
        if nr_bytes == 0:
            return bytearray()
        if not self._unread:
            found = self.header()
            if found is None:
                return bytearray()
            self._unread = HEADER_BYTES + found[1]
        if not self._fill(nr_bytes):
            return bytearray()
        received = bytearray(self._buffer[self._start : self._start + nr_bytes])
        self._start += nr_bytes
        self._unread -= nr_bytes
        return received

    def _is_pending(self) -> bool:
        pending = getattr(self.socket, "pending", None)
        return bool(pending and pending())

    def _check_header(self) -> tuple[int, int]:
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        cap = self._limits.maximum_bytes if self.has_association else ASSOCIATE_BYTES
        if not 1 <= kind <= 7:
            self._abort(UNRECOGNIZED_PDU, f"PDU of unknown type {kind}")
        if length > cap:
            self._abort(INVALID_PDU_PARAMETER, f"PDU of {length} bytes, at most {cap} are taken")
        return kind, length

    def _check_request(self, length: int) -> None:
        start = self._start + HEADER_BYTES
        try:
            check_request(self._buffer[start : start + length])
        except MalformedRequest as error:
            self._abort(INVALID_PDU_PARAMETER, str(error))

    def _abort(self, reason: int, text: str) -> None:
        self._refused(reason)
        self.abort_reason = None
        self._start = self._stop = self._unread = 0  # nothing that came after it is looked at
        self.send(_abort_pdu(reason))
        raise ConnectionAbortedError(text)

    def _refused(self, reason: int) -> None:
        self.refused_pdus += 1
        self.note(_ENDED[reason])

    def refuse(self, reason: int) -> None:
        """Send an A-ABORT of the service provider and shut the connection."""
        with suppress(ConnectionAbortedError):
            self._abort(reason, "")
        if self.socket is not None:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # as in `shut`

    def send(self, bytestream: bytes) -> None:
        """Send all bytes; the peer has as long to take them as it has to send a PDU. What fails is told as Evt17."""
        reason, self.abort_reason = self.abort_reason, None
        if reason is not None and bytestream[:1] == _ABORT:
            self._refused(reason)
            bytestream = _abort_pdu(reason)
        rest = memoryview(bytestream)
        deadline = time.monotonic() + self._limits.deadline_s
        try:
            while rest:
                rest = rest[self._sent(rest, deadline) :]
        except (OSError, AttributeError, ValueError):  # closed meanwhile, in this thread or another
            self.event_queue.put("Evt17")

    def _sent(self, data: memoryview, deadline: float) -> int:
        sock: Any = self.socket
        try:
            count: int = sock.send(data)
            return count
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wait(select.POLLOUT, deadline - time.monotonic())
        except ssl.SSLWantReadError:
            self._wait(select.POLLIN, deadline - time.monotonic())
        if time.monotonic() >= deadline:
            raise TimeoutError("peer does not take what it is sent")
        return 0

    def _fill(self, count: int) -> bool:
        """Have `count` bytes in the buffer; False where the peer closed before. Raises TimeoutError at the deadline.

        A PDU that does not come whole is the connection's end: what came of it is forgotten.
        """
        is_whole = False
        try:
            is_whole = self._received(count)
        finally:
            if not is_whole:
                self._start = self._stop = self._unread = 0
        return is_whole

    def _received(self, count: int) -> bool:
        if self._start == self._stop:
            self._start = self._stop = 0
        if self._start + count > len(self._buffer):
            self._make_room(count)
        sock: Any = self.socket
        while self._stop - self._start < count:
            if sock is None:
                return False
            try:
                size = sock.recv_into(self._buffer[self._stop :])
            except (BlockingIOError, ssl.SSLWantReadError):
                self._await(select.POLLIN)
                continue
            except ssl.SSLWantWriteError:
                self._await(select.POLLOUT)
                continue
            if size == 0:
                return False
            self._stop += size
            if _QUICKACK is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)  # the flag does not stay
            if self._stop - self._start < count and time.monotonic() >= self._deadline:
                raise self._late()
        return True

    def _make_room(self, count: int) -> None:
        """Move what is unread to the front, of a larger buffer where `count` bytes need one."""
        size = count
        if self.has_association:
            size = max(size, self._limits.maximum_bytes + HEADER_BYTES)
        unread = self._buffer[self._start : self._stop]
        if size > len(self._buffer):
            larger = memoryview(bytearray(size))
            larger[: len(unread)] = unread
            self._buffer = larger
        else:
            self._buffer[: len(unread)] = bytes(unread)
        self._start, self._stop = 0, len(unread)

    def _await(self, what: int) -> None:
        self._wait(what, self._deadline - time.monotonic())
        if time.monotonic() >= self._deadline:
            raise self._late()

    def _late(self) -> TimeoutError:
        self.note(Ended.SLOW)
        return TimeoutError("PDU not complete at its deadline")

    def _wait(self, what: int, seconds: float) -> int:
        """The events that came (poll(2)); 0 where none came in time."""
        sock = self.socket
        if sock is None or sock.fileno() < 0:
            raise ConnectionAbortedError("closed meanwhile")
        poller = select.poll()
        poller.register(sock, what)
        found = poller.poll(max(0.0, seconds) * 1000)
        return found[0][1] if found else 0


_ABORT = b"\x07"


def _abort_pdu(reason: int) -> bytes:
    """An A-ABORT of the service provider (PS3.8 9.3.8)."""
    return struct.pack(">BxIxxBB", _ABORT[0], 4, SERVICE_PROVIDER, reason)


class GuardedStateMachine(StateMachine):
    """pynetdicom's upper layer state machine, which ends the association where the library stumbles over what a peer sent.

    Without it an exception ends the network thread alone: the peer is never answered and the connection never closed.
    """

    def do_action(self, event: str) -> None:
        """Do what PS3.8 table 9-10 says; on an exception abort (provider, invalid PDU parameter) and close."""
        guarded = self.dul.socket
        if isinstance(guarded, GuardedSocket):
            guarded.abort_reason = _REASONS.get(event)
            if event == ARTIM_EXPIRED and self.current_state == AWAITING_REQUEST:
                guarded.note(Ended.SILENT)
        try:
            super().do_action(event)
        except Exception:  # the loop's rim: whatever a peer's bytes lead to in the library
            connection = self.dul.socket
            if isinstance(connection, GuardedSocket):
                connection.refuse(INVALID_PDU_PARAMETER)
            if self.current_state not in NO_ASSOCIATION:  # before, the user waits for a request and for nothing else
                self.dul.to_user_queue.put(A_P_ABORT())
            self.current_state = "Sta1"
            self.dul.kill_dul()


class PendingConnections:
    """Connections that have no association yet; beyond the limit the oldest is closed, so that a newcomer is always heard."""

    def __init__(self, maximum: int, note: Callable[[Ended], None] = lambda _: None) -> None:
        self._maximum = maximum
        self._note = note
        self._lock = threading.Lock()
        self._pending: dict[Any, None] = {}

    def add(self, association: Any) -> None:
        """Note a new connection."""
        with self._lock:
            self._pending[association] = None
            oldest = next(iter(self._pending)) if len(self._pending) > self._maximum else None
            if oldest is not None:
                del self._pending[oldest]
        if oldest is not None:
            self._note(Ended.EVICTED)
            shut(oldest)

    def remove(self, association: Any) -> bool:
        """It asked for an association, or is gone; True where it was still waited for."""
        with self._lock:
            return self._pending.pop(association, self) is None


def shut(association: Any) -> None:
    """Shut the association's connection from outside its threads: their reads end at once."""
    wrapper = association.dul.socket
    sock = None if wrapper is None else wrapper.socket
    if sock is not None:
        with suppress(OSError):  # closed already
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS too, whose own would let the other threads go on in the clear
