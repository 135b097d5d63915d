"""Who may open an association: AE titles, addresses, certificates (PS3.8 9.3.4 names the answers).

A peer of `[[peers]]` may do everything. A destination that reports on storage commitment with the roles reversed calls under its
own AE title from its own host: it may report and verify, nothing else.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from dicom_node.settings import Destination, Settings
from dicom_node.tls import PeerCertificate, is_bound

RESOLVED_FOR_S = 60.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21), and the sentence for the event."""

    result: int
    source: int
    reason: int
    text: str
    is_unauthenticated: bool = False
    """True where somebody came with another node's AE title."""


CALLED_UNKNOWN = Rejection(1, 1, 7, "called AE title is not this node's")
CALLING_UNKNOWN = Rejection(1, 1, 3, "calling AE title is not known")
ADDRESS_UNKNOWN = Rejection(1, 1, 3, "AE title is known, but not from this address", is_unauthenticated=True)
CERTIFICATE_UNKNOWN = Rejection(1, 1, 3, "certificate is not bound to this AE title", is_unauthenticated=True)
CLEAR_TEXT = Rejection(1, 1, 3, "AE title has a certificate, but came without TLS", is_unauthenticated=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an association, as far as that is known before it is answered."""

    calling: str
    called: str
    address: str
    certificate: PeerCertificate | None
    """None where the connection is in the clear."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The caller may open an association; `reports_only`: for storage commitment reports and C-ECHO."""

    reports_only: bool


class Admission:
    """The rules of one configuration. Host names of destinations are looked up at most once a minute."""

    def __init__(self, settings: Settings) -> None:
        self._ae_title = settings.node.ae_title
        self._peers = settings.peers
        self._reporters = tuple(one for one in settings.destinations if one.kind == "dimse" and one.proof == "commitment")
        self._lock = threading.Lock()
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}

    def judge(self, caller: Caller) -> Admitted | Rejection:
        """Whether the caller may open an association; the most lasting reason where it may not."""
        if caller.called != self._ae_title:
            return CALLED_UNKNOWN
        entries = [peer for peer in self._peers if peer.ae_title == caller.calling]
        near = [peer for peer in entries if comes_from(caller.address, peer.addresses)]
        if any(is_bound(peer, caller.certificate) for peer in near):
            return Admitted(reports_only=False)
        named = [one for one in self._reporters if one.ae_title == caller.calling]
        if any(self._is_reporter(one, caller) for one in named):
            return Admitted(reports_only=True)
        if near:
            return CLEAR_TEXT if caller.certificate is None else CERTIFICATE_UNKNOWN
        return ADDRESS_UNKNOWN if entries or named else CALLING_UNKNOWN

    def _is_reporter(self, destination: Destination, caller: Caller) -> bool:
        if _plain(caller.address) not in self._addresses(destination.host):
            return False
        if not destination.tls:
            return caller.certificate is None
        name = (destination.tls_name or destination.host).lower()
        return caller.certificate is not None and name in caller.certificate.names

    def _addresses(self, host: str) -> frozenset[str]:
        with self._lock:
            known = self._resolved.get(host)
        if known is not None and time.monotonic() - known[0] < RESOLVED_FOR_S:
            return known[1]
        found: frozenset[str] = frozenset()
        with suppress(OSError, UnicodeError):
            found = frozenset(str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        with self._lock:
            self._resolved[host] = (time.monotonic(), found)
        return found


def comes_from(address: str, networks: Iterable[str]) -> bool:
    """True where the address lies in one of the networks."""
    source = _parsed(address)
    return source is not None and any(source in ip_network(one, strict=False) for one in networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        source = ip_address(address)
    except ValueError:
        return None
    return getattr(source, "ipv4_mapped", None) or source


def _plain(address: str) -> str:
    return str(_parsed(address) or address)
