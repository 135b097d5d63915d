"""Settings of the doors beside plain DICOM: the TLS port, STOW-RS in, and what an alert is raised for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from dicom_node.settings_values import Network, Section


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").replace(" ", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("a certificate's SHA-256 fingerprint has 64 hexadecimal digits, with or without colons")
    return plain


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]


class Tls(Section):
    """The DICOM TLS port (BCP 195, TLS 1.2 and 1.3) with mutual authentication. Without certificate_file it is shut."""

    host: str = Field("", description="address to listen on; empty: node.host")
    port: int = Field(2762, ge=0, le=65535, description="DICOM TLS port; 0 takes a free one")
    certificate_file: Path | None = Field(None, description="PEM file of the node's certificate, followed by intermediate ones")
    key_file: Path | None = Field(None, description="PEM file of its private key, without passphrase, mode 0600")
    ca_file: Path | None = Field(None, description="PEM file of the authorities whose certificates peers may show")
    crl_file: Path | None = Field(
        None, description="PEM file of revocation lists, one for each authority that signs peers; an outdated list admits nobody"
    )
    handshake_timeout_s: float = Field(10.0, gt=0, description="time for the whole TLS handshake")
    warn_days: float = Field(30.0, gt=0, description="warn this many days before a certificate or revocation list expires")

    @property
    def is_open(self) -> bool:
        """True where the port is to be served."""
        return self.certificate_file is not None

    @model_validator(mode="after")
    def _files_go_together(self) -> Tls:
        required = {"certificate_file": self.certificate_file, "key_file": self.key_file, "ca_file": self.ca_file}
        missing = [name for name, value in required.items() if value is None]
        if 0 < len(missing) < len(required) or (missing and self.crl_file):
            raise ValueError(f"{', '.join(missing)} required: the TLS port needs certificate, key and authorities")
        return self


class StowClient(Section):
    """One client that may store over STOW-RS. No clients: nobody may."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,15}$", description="what it is called in rules (from_peers) and in the audit"
    )
    token_file: Path = Field(description="file with its bearer token of 32 characters or more, mode 0600")
    addresses: tuple[Network, ...] = Field(min_length=1, description="addresses or networks it may come from")


class Stow(Section):
    """STOW-RS in (POST /dicom-web/studies on the web port): what a request may cost."""

    maximum_request_mb: float = Field(8192.0, gt=0, description="largest request, in MB")
    maximum_parts: int = Field(20_000, ge=1, description="most objects in one request")
    requests_at_once: int = Field(4, ge=1, description="requests served at once; more are told to come back")
    request_timeout_s: float = Field(3600.0, gt=0, description="time for one whole request")
    idle_timeout_s: float = Field(30.0, gt=0, description="wait for the next bytes of a request")
    minimum_rate_kb_s: float = Field(4.0, ge=0, description="slowest mean rate, in kB a second, after the first idle_timeout_s")


class Alerts(Section):
    """When refused strangers become a security alert, and how many rows a flood of them may cost."""

    per_minute: int = Field(
        10, ge=1, description="refusals or unreadable connections of one address in a minute that raise a security alert; "
        "beyond it they are only counted",
    )  # fmt: skip
    rows_per_minute: int = Field(120, ge=1, description="audit rows a minute that all refused strangers together may cost")
    probes: tuple[Network, ...] = Field((), description="addresses of monitoring probes whose empty connections are no news")
