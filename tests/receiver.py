"""A syslog receiver as an audit repository has one: TLS with client certificates, TCP or UDP, that can go down and come back."""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from xml.etree import ElementTree as Xml

from tests.authority import Authority, Pair


@dataclass(slots=True)
class Receiver:
    """Listens on the same loopback port each time it is started; `received` holds every message in the order of its coming."""

    context: ssl.SSLContext | None = None
    """None: in the clear."""
    breaks_after: int = 0
    """Bytes after which the next connection is reset; 0: never."""
    is_curt: bool = False
    """Closes without a close_notify."""
    received: list[bytes] = field(default_factory=list)
    port: int = 0
    _listener: socket.socket | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(self._listener,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; who calls is refused."""
        if self._listener is not None and self._thread is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join(10)
            self._listener = None

    @property
    def sequences(self) -> list[int]:
        """Each message's place in the hash chain."""
        return [int(link(one).get("ParticipantObjectID", "")) for one in self.received]

    @property
    def digests(self) -> list[str]:
        """Each message's digest in the hash chain."""
        return [details(one)["digest"] for one in self.received]

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                try:
                    self._take(connection)
                except OSError:
                    continue

    def _take(self, plain: socket.socket) -> None:
        connection = plain if self.context is None else self.context.wrap_socket(plain, server_side=True)
        buffer, count = b"", 0
        with connection:
            while piece := connection.recv(4096):
                count += len(piece)
                buffer = self._split(buffer + piece)
                if self.breaks_after and count > self.breaks_after:
                    self.breaks_after = 0
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by RST
                    return
            if isinstance(connection, ssl.SSLSocket) and not self.is_curt:
                connection.unwrap()

    def _split(self, buffer: bytes) -> bytes:
        """Keep the whole messages (RFC 5425 4.3); what is left."""
        while b" " in buffer:
            length, _, rest = buffer.partition(b" ")
            if len(rest) < int(length):
                break
            self.received.append(rest[: int(length)])
            buffer = rest[int(length) :]
        return buffer


def server_context(authority: Authority, pair: Pair) -> ssl.SSLContext:
    """TLS that asks for a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority.certificate)
    return context


def xml_of(message: bytes) -> Xml.Element:
    """The audit message inside a syslog message."""
    header, _, body = message.partition(b" DICOM+RFC3881 - ")
    assert body, header
    return Xml.fromstring(body)


def link(message: bytes) -> Xml.Element:
    """The object that tells the event's place in the hash chain."""
    objects = xml_of(message).findall("ParticipantObjectIdentification")
    return next(one for one in objects if one.find("ParticipantObjectIDTypeCode[@csd-code='hash-chain']") is not None)


def details(message: bytes) -> dict[str, str]:
    """The details of that object, decoded."""
    found = link(message).findall("ParticipantObjectDetail")
    return {one.get("type", ""): base64.b64decode(one.get("value", "")).decode() for one in found}
