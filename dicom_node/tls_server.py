"""The TLS port's connections until they are associations: the handshake, in a thread of its own and under a deadline.

pynetdicom makes the handshake in the thread that accepts connections, where one silent client keeps everybody out. Here the
number of handshakes at once is bounded, for each address and in all; the oldest makes room for a newcomer.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.tls import ServerCredentials, why

HANDSHAKES_AT_ONCE = 64
HANDSHAKES_PER_ADDRESS = 8


@dataclass(frozen=True, slots=True)
class Handshaking:
    """How handshakes are made, and who is told of failed ones (address, reason in words) and of silent connections (address)."""

    credentials: ServerCredentials
    timeout_s: float
    on_failure: Callable[[str, str], None]
    on_silence: Callable[[str], None]


class TlsAssociationServer(ThreadedAssociationServer):
    """An association server whose connections are TLS from the first byte."""

    handshaking: Handshaking
    request_queue_size = 128

    def __init__(self, *args: Any, handshaking: Handshaking, **options: Any) -> None:
        self.handshaking = handshaking
        self._lock = threading.Lock()
        self._in_progress: dict[Any, tuple[socket.socket, str]] = {}
        """By the connection that was accepted: the socket it is now, and the address it came from."""
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, make room for it, and leave the rest to its thread."""
        address = str(client_address[0])
        with self._lock:
            everybody = [one for one, _ in self._in_progress.values()]
            of_address = [one for one, other in self._in_progress.values() if other == address]
            oldest = _surplus(of_address, HANDSHAKES_PER_ADDRESS) or _surplus(everybody, HANDSHAKES_AT_ONCE)
            self._in_progress[request] = (request, address)
        if oldest is not None:
            _shut(oldest)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make the handshake; only then is there an association to serve."""
        try:
            secured = self._secured(request, str(client_address[0]))
        finally:
            with self._lock:
                self._in_progress.pop(request, None)
        if secured is not None:
            super().process_request_thread(secured, client_address)

    def end_handshakes(self) -> None:
        """Close what is still shaking hands."""
        with self._lock:
            left = [one for one, _ in self._in_progress.values()]
        for one in left:
            _shut(one)

    def server_close(self) -> None:
        """Close the port, and what is still shaking hands."""
        self.end_handshakes()
        super().server_close()

    def _secured(self, request: socket.socket, address: str) -> ssl.SSLSocket | None:
        """The connection as TLS; None where the handshake failed, which was told and the connection closed."""
        is_silent = True
        secured: ssl.SSLSocket | None = None
        try:
            deadline = time.monotonic() + self.handshaking.timeout_s
            is_silent = not _has_data(request, deadline)
            if is_silent:
                raise TimeoutError
            secured = self.handshaking.credentials.context().wrap_socket(
                request, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            with self._lock:
                self._in_progress[request] = (secured, address)  # the accepted socket object is an empty shell now
            _shake_hands(secured, deadline)
            return secured
        except (OSError, ValueError) as error:  # ValueError: it was shut from outside meanwhile
            if is_silent:
                self.handshaking.on_silence(address)
            else:
                self.handshaking.on_failure(address, why(error) if isinstance(error, OSError) else "connection closed")
            (secured or request).close()
            return None


def _has_data(request: socket.socket, deadline: float) -> bool:
    """True where the other side says anything before the deadline; a probe connects and goes."""
    readable, _, _ = select.select([request], [], [], max(0.0, deadline - time.monotonic()))
    return bool(readable) and request.recv(1, socket.MSG_PEEK) != b""


def _shake_hands(secured: ssl.SSLSocket, deadline: float) -> None:
    """Raises OSError; TimeoutError where it is not done at the deadline, however often a byte comes."""
    secured.setblocking(False)
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        try:
            secured.do_handshake()
            break
        except ssl.SSLWantReadError:
            select.select([secured], [], [], remaining)
        except ssl.SSLWantWriteError:
            select.select([], [secured], [], remaining)
    secured.setblocking(True)


def _surplus(connections: list[socket.socket], limit: int) -> socket.socket | None:
    return connections[0] if len(connections) >= limit else None


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # closed already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
