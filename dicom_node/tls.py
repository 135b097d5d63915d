"""DICOM over TLS by PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325): what is offered, who is trusted, whose certificate is whose.

TLS 1.3 and 1.2 with ephemeral keys and authenticated encryption, nothing older, no fallback, both sides authenticated. Files are
read again when they change, so that a renewed certificate or a new revocation list needs no restart.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.certificates import fingerprint
from dicom_node.settings import Destination, Peer, Web
from dicom_node.settings_audit import Audit
from dicom_node.settings_doors import Tls

# RFC 9325 4.2; the suites of TLS 1.3 are all of this kind.
TLS_1_2_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    )
)


class TlsFilesError(Exception):
    """Raised when certificate, key, authorities or revocation lists cannot be used; the message names what is wrong."""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that the other side of a connection proved to own; its chain and dates are checked already."""

    fingerprint: str
    """SHA-256 (hex)."""
    names: frozenset[str]
    """Subject alternative names (DNS, IP address, URI), in lower case."""


def certificate_of(connection: object) -> PeerCertificate | None:
    """The peer's certificate of a TLS connection; None where the connection is in the clear."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    der = connection.getpeercert(binary_form=True)
    if der is None:
        return None
    told: dict[str, Any] = connection.getpeercert() or {}
    names = frozenset(str(value).lower() for _, value in told.get("subjectAltName", ()))
    return PeerCertificate(fingerprint(der), names)


def is_bound(peer: Peer, certificate: PeerCertificate | None) -> bool:
    """True where the peer may come with this certificate, or without any: over TLS only a bound one will do."""
    if certificate is None:
        return peer.clear_text or not (peer.certificates or peer.certificate_names)
    if certificate.fingerprint in peer.certificates:
        return True
    return any(name.lower() in certificate.names for name in peer.certificate_names)


class ServerCredentials:
    """The TLS port's context, made anew when one of its files changes."""

    def __init__(self, settings: Tls, *, on_change: Callable[[str], None], on_fault: Callable[[str], None]) -> None:
        self._settings = settings
        self._files = [
            path for path in (settings.certificate_file, settings.key_file, settings.ca_file, settings.crl_file) if path
        ]
        self._on_change, self._on_fault = on_change, on_fault
        self._lock = threading.Lock()
        self._seen = _signature(self._files)
        self._context = server_context(settings)

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are now; the former one while new files do not fit together."""
        with self._lock:
            seen = _signature(self._files)
            if seen == self._seen:
                return self._context
            self._seen = seen
            try:
                self._context = server_context(self._settings)
            except TlsFilesError as error:
                self._on_fault(str(error))
            else:
                self._on_change("certificate files were read again")
            return self._context


def server_context(settings: Tls) -> ssl.SSLContext:
    """What the TLS port offers and whom it trusts. Raises TlsFilesError."""
    context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.num_tickets = 0  # no resumption: every association shows its certificate
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, settings.certificate_file, settings.key_file, settings.ca_file)
    if settings.crl_file is not None:
        _load_authorities(context, settings.crl_file)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def page_context(web: Web) -> ssl.SSLContext:
    """What the web port offers to browsers and programs, who show tokens and no certificate. Raises TlsFilesError.

    The files are read again when they change; new ones that do not fit together leave the former in use.
    """
    files = [path for path in (web.certificate_file, web.key_file) if path]
    seen, current = _signature(files), _page_context(web)

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext) -> None:
        nonlocal seen, current
        if (now := _signature(files)) != seen:
            seen = now
            with suppress(TlsFilesError):
                current = _page_context(web)
        connection.context = current

    first = _page_context(web)
    first.sni_callback = choose  # called in every handshake, whether the client names a host or not
    return first


def _page_context(web: Web) -> ssl.SSLContext:
    context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(context, web.certificate_file, web.key_file, None)
    return context


def repository_context(audit: Audit) -> ssl.SSLContext:
    """How the audit repository is called: its authority trusted, our certificate shown. Raises TlsFilesError."""
    context = _profile(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if audit.repository_ca_file is None:
        context.load_default_certs()
    _load(context, audit.repository_certificate_file, audit.repository_key_file, audit.repository_ca_file)
    return context


class CallingContext(ssl.SSLContext):
    """The context of one call to a destination, which remembers why the handshake failed: pynetdicom only logs it."""

    failure: str | None = None

    @classmethod
    def for_destination(cls, destination: Destination) -> CallingContext:
        """Trust the destination's authority (the system's where none is named) and show our certificate. Raises TlsFilesError."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        _profile(context)
        context.sslsocket_class = _CallingSocket
        if destination.ca_file is None:
            context.load_default_certs()
        _load(context, destination.certificate_file, destination.key_file, destination.ca_file)
        return context


class _CallingSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            if isinstance(self.context, CallingContext):
                self.context.failure = why(error)
            raise


def why(error: OSError) -> str:
    """A handshake's failure in a few words, without anything that the other side chose to say."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "handshake failed").replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return "handshake not complete in time"
    return "connection closed during the handshake"


def _profile(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _load(context: ssl.SSLContext, certificate: Path | None, key: Path | None, authorities: Path | None) -> None:
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise TlsFilesError(f"{certificate} and its key {key} cannot be used: {_reason(error)}") from error
    if authorities is not None:
        _load_authorities(context, authorities)


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise TlsFilesError(f"{path} cannot be used: {_reason(error)}") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, and nobody is there to type it")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)


def _signature(files: Iterable[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file is written or replaced."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
