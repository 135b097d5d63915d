"""Syslog messages (RFC 5424) and three ways to send them: TLS (RFC 5425), TCP (RFC 6587, octet counting) and UDP (RFC 5426).

Syslog acknowledges nothing. Over TLS and TCP a batch counts as taken only when the receiver, told that nothing more comes, has
closed its side in order (or keeps it open, but has acknowledged every byte); a connection that breaks before that makes the
whole batch go again. Over UDP a message may be lost without anybody knowing.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import select
import socket
import ssl
import termios
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dicom_node.settings_audit import Audit
from dicom_node.tls import TlsFilesError, repository_context, why

FACILITY = 10
"""Security and authorization messages (RFC 5424 table 1)."""
NOTICE, WARNING = 5, 4
MESSAGE_ID = "DICOM+RFC3881"
APPLICATION = "fovea"
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


ACCEPTANCE_S = 0.5
"""How long a receiver without session tickets may take to refuse us."""


class NotTaken(Exception):
    """Raised when the receiver did not take the messages; the reason in words that carry nothing of theirs."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where messages go: `udp`, `tcp` or `tls`, a host, and a port."""

    transport: str
    host: str
    port: int


def endpoint_of(url: str) -> Endpoint:
    """The endpoint that a setting such as `tls://audit.example:6514` names."""
    transport, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    return Endpoint(transport, host.strip("[]"), int(port))


def syslog_message(body: bytes, *, at: datetime, is_warning: bool) -> bytes:
    """The body with the header of RFC 5424 6.2."""
    priority = FACILITY * 8 + (WARNING if is_warning else NOTICE)
    stamp = at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    host = _NOT_PRINTABLE.sub("-", socket.gethostname())[:255] or "-"
    return f"<{priority}>1 {stamp}Z {host} {APPLICATION} {os.getpid()} {MESSAGE_ID} - ".encode("ascii") + body


def send(audit: Audit, messages: Sequence[bytes]) -> None:
    """Have the receiver take the messages, in this order. Raises NotTaken: then it may have taken some of them."""
    endpoint = endpoint_of(audit.repository)
    try:
        if endpoint.transport == "udp":
            _send_datagrams(endpoint, messages)
        else:
            _send_stream(endpoint, audit, messages)
    except TlsFilesError as error:
        raise NotTaken(str(error)) from error
    except ssl.SSLError as error:
        raise NotTaken(why(error)) from error
    except TimeoutError as error:
        raise NotTaken("no answer in time") from error
    except OSError as error:
        raise NotTaken(error.strerror or type(error).__name__) from error


def _send_datagrams(endpoint: Endpoint, messages: Iterable[bytes]) -> None:
    family, kind, protocol, _, address = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sender:
        sender.connect(address)  # connected, it hears that nobody listens, if the other machine says so
        for message in messages:
            sender.send(message)


def _send_stream(endpoint: Endpoint, audit: Audit, messages: Iterable[bytes]) -> None:
    with socket.create_connection((endpoint.host, endpoint.port), audit.repository_timeout_s) as plain:
        plain.settimeout(audit.repository_timeout_s)
        if endpoint.transport == "tcp":
            plain.sendall(_framed(messages))
            plain.shutdown(socket.SHUT_WR)
            _await_close(plain)
            return
        name = audit.repository_tls_name or endpoint.host
        with repository_context(audit).wrap_socket(plain, server_hostname=name) as secured:
            _await_acceptance(secured)
            secured.settimeout(audit.repository_timeout_s)
            secured.sendall(_framed(messages))
            try:
                secured.unwrap()  # returns with the receiver's own close_notify, which comes after all that it has read
            except (ssl.SSLEOFError, TimeoutError):  # it closed without one, or keeps its side open
                if _unacknowledged(secured):
                    raise


def _await_acceptance(secured: ssl.SSLSocket) -> None:
    """Return when the receiver has let us in. Raises ssl.SSLError or OSError where it has not.

    From TLS 1.3 on the handshake is over for us before the receiver has looked at our certificate, and what is sent meanwhile is
    lost without a word. Its first session ticket tells that it is over for both (RFC 8446 4.6.1); one that gives none is
    taken to agree when it has said nothing for ACCEPTANCE_S.
    """
    deadline = time.monotonic() + ACCEPTANCE_S
    secured.setblocking(False)
    poller = select.poll()
    poller.register(secured, select.POLLIN)
    while secured.version() == "TLSv1.3" and not (secured.session is not None and secured.session.has_ticket):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        try:
            if not secured.recv(1):
                raise OSError("closed during the handshake")
        except ssl.SSLWantReadError:
            poller.poll(left * 1000)


def _framed(messages: Iterable[bytes]) -> bytes:
    """RFC 5425 4.3: each message after its length in octets and a space."""
    return b"".join(b"%d %s" % (len(message), message) for message in messages)


def _await_close(connection: socket.socket) -> None:
    """Return when the receiver has closed in order, or when it keeps its side open and has acknowledged every byte.

    Raises OSError where the connection broke, TimeoutError where bytes are still on their way.
    """
    try:
        while connection.recv(4096):
            continue
    except TimeoutError:
        if _unacknowledged(connection):
            raise


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other machine's TCP has not acknowledged (Linux)."""
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    return count[0]
