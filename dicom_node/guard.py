"""What a stranger may cost: the length of a PDU, the time it may take, and connections that never ask for an association.

A `GuardedSocket` takes the place of an association's public `dul.socket`; it reads PDUs in large pieces under a deadline and
refuses lengths above the cap by the header alone (PS3.8 9.3.1; provider reason 6, invalid PDU parameter value).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.transport import AssociationSocket

HEADER_BYTES = 6
_HEADER = struct.Struct(">BxI")
FIRST_BUFFER_BYTES = 16 * 1024
"""Enough for most association requests; it grows to the announced PDU length once an association stands."""
ASSOCIATE_BYTES = 1024 * 1024
"""Longest PDU before an association stands: 128 contexts of 16 syntaxes need 150 kB."""
WAIT_FOR_DATA_S = 0.003
"""How long one look for data may block: short enough for what waits to be sent, long enough to be woken by the data itself."""
SERVICE_PROVIDER, UNRECOGNIZED_PDU, INVALID_PDU_PARAMETER = 2, 1, 6  # PS3.8 9.3.8
NO_ASSOCIATION = ("Sta1", "Sta2", "Sta13")
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux only


@dataclass(frozen=True, slots=True)
class PduLimits:
    """The longest P-DATA taken, and the seconds one PDU may take from its first byte to its last."""

    maximum_bytes: int
    deadline_s: float


class GuardedSocket(AssociationSocket):
    """pynetdicom's socket wrapper with bounded reads into one buffer; each PDU has a cap and a deadline."""

    def __init__(self, wrapped: AssociationSocket, limits: PduLimits) -> None:
        # Not super().__init__: that would tell the state machine of a second connection (Evt5).
        self.__dict__.update(vars(wrapped))
        self._limits = limits
        self._deadline = 0.0
        self._buffer = memoryview(bytearray(FIRST_BUFFER_BYTES))
        self._start = self._stop = 0
        self._unread = 0
        """Bytes of the present PDU that `recv` has not given out yet."""
        self.has_association = False
        """Set once an association request was accepted: only then may a PDU be as long as announced."""
        self.refused_pdus = 0
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
                self._wait(select.POLLIN, self.patience_s)
        return bool(super().ready)

    def header(self) -> tuple[int, int] | None:
        """Type and length of the PDU that comes next, which stays unread; None where the peer closed.

        Raises TimeoutError at its deadline, ConnectionAbortedError for an unknown type or a length above the cap.
        """
        if not self._unread:
            self._deadline = time.monotonic() + self._limits.deadline_s
            if not self._fill(HEADER_BYTES):
                return None
            self._check_header()
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

    def _check_header(self) -> None:
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        cap = self._limits.maximum_bytes if self.has_association else ASSOCIATE_BYTES
        if not 1 <= kind <= 7:
            self._abort(UNRECOGNIZED_PDU, f"PDU of unknown type {kind}")
        if length > cap:
            self._abort(INVALID_PDU_PARAMETER, f"PDU of {length} bytes, at most {cap} are taken")

    def _abort(self, reason: int, text: str) -> None:
        self.refused_pdus += 1
        self.send(struct.pack(">BxIxxBB", 0x07, 4, SERVICE_PROVIDER, reason))
        raise ConnectionAbortedError(text)

    def refuse(self, reason: int) -> None:
        """Send an A-ABORT of the service provider and shut the connection."""
        with suppress(ConnectionAbortedError):
            self._abort(reason, "")
        if self.socket is not None:
            with suppress(OSError):  # closed already
                self.socket.shutdown(socket.SHUT_RDWR)

    def send(self, bytestream: bytes) -> None:
        """Send all bytes; the peer has as long to take them as it has to send a PDU. What fails is told as Evt17."""
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
                raise TimeoutError("PDU not complete at its deadline")
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
            raise TimeoutError("PDU not complete at its deadline")

    def _wait(self, what: int, seconds: float) -> None:
        sock = self.socket
        if sock is None or sock.fileno() < 0:
            raise ConnectionAbortedError("closed meanwhile")
        poller = select.poll()
        poller.register(sock, what)
        poller.poll(max(0.0, seconds) * 1000)


class GuardedStateMachine(StateMachine):
    """pynetdicom's upper layer state machine, which ends the association where the library stumbles over what a peer sent.

    Without it an exception ends the network thread alone: the peer is never answered and the connection never closed.
    """

    def do_action(self, event: str) -> None:
        """Do what PS3.8 table 9-10 says; on an exception abort (provider, invalid PDU parameter) and close."""
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

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._lock = threading.Lock()
        self._pending: dict[Any, None] = {}
        self.evicted = 0

    def add(self, association: Any) -> None:
        """Note a new connection."""
        with self._lock:
            self._pending[association] = None
            oldest = next(iter(self._pending)) if len(self._pending) > self._maximum else None
            if oldest is not None:
                del self._pending[oldest]
                self.evicted += 1
        if oldest is not None:
            shut(oldest)

    def remove(self, association: Any) -> None:
        """It asked for an association, or is gone."""
        with self._lock:
            self._pending.pop(association, None)


def shut(association: Any) -> None:
    """Shut the association's connection from outside its threads: their reads end at once."""
    wrapper = association.dul.socket
    sock = None if wrapper is None else wrapper.socket
    if sock is not None:
        with suppress(OSError):  # closed already
            sock.shutdown(socket.SHUT_RDWR)
