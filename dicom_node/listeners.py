"""Several listener processes on one port: the parent binds it, every child accepts from it, a child that dies is started again.

The children inherit the socket itself (and that of the TLS port), so that a connection which waits is served by whichever of them
is free, and is not lost with one that dies. They share the database and the spool; each has its part of every limit.
"""

from __future__ import annotations

import gc
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from pynetdicom import AE
from pynetdicom.transport import AssociationServer, ThreadedAssociationServer

from dicom_node.tls_server import Handshaking, TlsAssociationServer

COLLECT_S = 60.0
BACKLOG = 128
"""Connections the system holds while threads are started; pynetdicom asks for 5."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many listeners a process is."""

    number: int = 0
    """Number 0 also keeps the spool in order for all."""
    count: int = 1
    descriptor: int | None = None
    """The inherited socket; None where the listener is alone and binds its own."""
    tls_descriptor: int | None = None
    """As `descriptor`, of the TLS port."""

    def name(self, ae_title: str) -> str:
        """The listener's name in the rows of its associations."""
        return f"{ae_title}#{self.number}" if self.number else ae_title

    def share(self, limit: int) -> int:
        """This listener's part of a limit for all; never less than one."""
        return -(-limit // self.count)


class OwnServer(ThreadedAssociationServer):
    """pynetdicom's server, which collects what is left of ended associations by the clock: the library does it every sixty
    connections, and stops them all for the while."""

    _collected_at = 0.0

    def service_actions(self) -> None:
        """Called at each connection, and twice a second without any."""
        if time.monotonic() - self._collected_at >= COLLECT_S:
            gc.collect()
            self._collected_at = time.monotonic()


class SharedServer(OwnServer):
    """pynetdicom's server on a socket that other processes accept from too."""

    def __init__(self, *given: Any, descriptor: int, **named: Any) -> None:
        self._descriptor = descriptor
        super().__init__(*given, **named)

    def server_bind(self) -> None:
        """Take the inherited socket. It never blocks: another process may be faster to accept."""
        assert self.socket is not None
        self.socket.close()
        self.socket = socket.socket(fileno=self._descriptor)
        self.socket.setblocking(False)
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """It listens already."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection, whose own socket blocks as usual."""
        found, address = super().get_request()
        found.setblocking(True)
        return found, address

    def shutdown(self) -> None:
        """Stop accepting here; the others go on."""
        super(AssociationServer, self).shutdown()
        self.server_close()

    def server_close(self) -> None:
        """Let go of this process's handle of the socket."""
        if self.socket is not None:
            self.socket.close()


class SharedTlsServer(SharedServer, TlsAssociationServer):
    """The TLS port's server on a socket that other processes accept from too."""

    def server_close(self) -> None:
        """Let go of this process's handle of the socket, and of what is still shaking hands."""
        self.end_handshakes()
        super().server_close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket that children may inherit. Raises OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(True)
    return bound


def start_server(entity: AE, place: Place, address: tuple[str, int], handlers: list[Any]) -> OwnServer:
    """The running server of one listener. Raises OSError."""
    if place.descriptor is None:
        alone: Any = entity.make_server(address, evt_handlers=handlers, server_class=OwnServer)
        alone.socket.listen(BACKLOG)
        entity._servers.append(alone)  # as `AE.start_server` does; the server's `shutdown` takes it out again
        return _serving(alone, "acceptor")
    shared = entity.make_server(address, evt_handlers=handlers, server_class=SharedServer, descriptor=place.descriptor)
    return _serving(shared, "shared server")


def start_tls_server(
    entity: AE, place: Place, address: tuple[str, int], handlers: list[Any], handshaking: Handshaking
) -> TlsAssociationServer:
    """The running server of one listener's TLS port. Raises OSError."""
    own: dict[str, Any] = {"server_class": TlsAssociationServer}
    if place.tls_descriptor is not None:
        own = {"server_class": SharedTlsServer, "descriptor": place.tls_descriptor}
    server: Any = entity.make_server(address, evt_handlers=handlers, handshaking=handshaking, **own)
    if place.tls_descriptor is None:
        entity._servers.append(server)  # as `AE.start_server` does; the server's `shutdown` takes it out again
    tls_server: TlsAssociationServer = _serving(server, "TLS acceptor")
    return tls_server


def _serving(server: Any, name: str) -> Any:
    threading.Thread(target=server.serve_forever, name=name, daemon=True).start()
    return server
