"""What of certificates and revocation lists is read without a handshake: the fingerprint, and the day they expire.

Python's ssl module tells neither for a file, so the few fields are read from the DER encoding (RFC 5280 4.1 and 5.1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dicom_node.settings import Settings

_PEM = re.compile(rb"-----BEGIN (CERTIFICATE|X509 CRL)-----(.*?)-----END \1-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _EXPLICIT_0 = 0x02, 0x30, 0x17, 0x18, 0xA0


class NoCertificate(Exception):
    """Raised when a file holds no readable certificate or revocation list; the message names the file."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """When the first of a file's certificates (or its revocation list) is no longer valid."""

    setting: str
    """Key path of the file, e.g. `tls.certificate_file`."""
    at: datetime

    def days_left(self, now: datetime) -> float:
        """Days until then; negative afterwards."""
        return (self.at - now) / timedelta(days=1)


def configured_files(settings: Settings) -> dict[str, Path]:
    """Every certificate file and revocation list of the configuration, by its key path."""
    files: dict[str, Path | None] = {
        f"tls.{key}": getattr(settings.tls, key) for key in ("certificate_file", "ca_file", "crl_file")
    }
    files["web.certificate_file"] = settings.web.certificate_file
    files |= {f"audit.repository_{key}": getattr(settings.audit, f"repository_{key}") for key in ("certificate_file", "ca_file")}
    for one in settings.destinations:
        files |= {f"destinations.{one.name}.{key}": getattr(one, key) for key in ("certificate_file", "ca_file")}
    return {key: path for key, path in files.items() if path is not None}


def expiries(settings: Settings) -> list[Expiry]:
    """The expiry of each configured file. Raises NoCertificate."""
    return [Expiry(key, first_expiry(path)) for key, path in configured_files(settings).items()]


def first_expiry(path: Path) -> datetime:
    """The earliest expiry in a PEM file. Raises NoCertificate."""
    try:
        found = [_expiry(kind, der) for kind, der in pem_blocks(path.read_bytes())]
    except OSError as error:
        raise NoCertificate(f"{path}: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise NoCertificate(f"{path}: not a certificate") from error
    if not found:
        raise NoCertificate(f"{path}: holds no certificate")
    return min(found)


def pem_blocks(content: bytes) -> list[tuple[str, bytes]]:
    """Kind (`CERTIFICATE` or `X509 CRL`) and DER bytes of each block. Raises ValueError."""
    try:
        return [(kind.decode(), base64.b64decode(b"".join(body.split()), validate=True)) for kind, body in _PEM.findall(content)]
    except binascii.Error as error:
        raise ValueError("not base64") from error


def fingerprint(der: bytes) -> str:
    """SHA-256 (hex) of a certificate, as `openssl x509 -fingerprint -sha256` shows it without colons."""
    return hashlib.sha256(der).hexdigest()


def _expiry(kind: str, der: bytes) -> datetime:
    """notAfter of a certificate, nextUpdate of a revocation list."""
    fields = _children(_children(_element(der, 0)[1])[0][1])
    if kind == "CERTIFICATE":
        skipped = 1 if fields[0][0] == _EXPLICIT_0 else 0  # version
        return _time(*_children(fields[skipped + 3][1])[1])  # serial, signature, issuer, validity
    skipped = 1 if fields[0][0] == _INTEGER else 0
    return _time(*fields[skipped + 3])  # signature, issuer, thisUpdate, nextUpdate


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _GENERALIZED_TIME:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    if tag != _UTC_TIME:
        raise ValueError("no time")
    century = "20" if int(text[:2]) < 50 else "19"  # RFC 5280 4.1.2.5.1
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _children(body: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element in a constructed one."""
    found, position = [], 0
    while position < len(body):
        tag, content, position = _element(body, position)
        found.append((tag, content))
    return found


def _element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the element at a position. Raises ValueError, IndexError."""
    tag, length, position = data[position], data[position + 1], position + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[position : position + count], "big")
        position += count
    end = position + length
    if end > len(data):
        raise ValueError("truncated")
    return tag, data[position:end], end
