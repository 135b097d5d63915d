"""Settings of delivery: where results go, how their arrival is proven, and how often they are sent again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_node.settings_values import HttpUrl, Name, OptionalAeTitle, Port, ResultWords, Section


class Destination(Section):
    """One archive, viewer or workstation that gets results, over DICOM (DIMSE) or DICOMweb (STOW-RS)."""

    name: Name = Field(description="name that rules use")
    kind: Literal["dimse", "stow"] = Field("dimse", description="how it is sent to: dimse (C-STORE) or stow (STOW-RS)")
    ae_title: OptionalAeTitle = Field("", description="called AE title; required for dimse")
    host: str = Field("", description="host name or address; required for dimse")
    port: Port = Field(0, description="DICOM port; required for dimse")
    url: HttpUrl = Field("", description="address of the DICOMweb service, e.g. https://pacs/dicom-web; required for stow")
    token_file: Path | None = Field(None, description="stow: file that holds a bearer token; read at each association")
    password_file: Path | None = Field(None, description="stow: file that holds user:password for basic authentication")
    tls: bool = Field(False, description="dimse: over TLS (BCP 195); stow: say so by https in the url")
    ca_file: Path | None = Field(None, description="PEM file of the authority that signed the server; empty: the system's")
    tls_name: str = Field("", description="dimse over TLS: the name that its certificate must carry; empty: the host")
    certificate_file: Path | None = Field(None, description="PEM file of the certificate shown to it")
    key_file: Path | None = Field(None, description="PEM file of that certificate's key, without passphrase, mode 0600")
    timeout_s: float = Field(30.0, gt=0, description="wait for one answer")
    objects: ResultWords | None = Field(
        None, description="which of output.objects go there, seg and sr among them; empty: all that are made"
    )
    proof: Literal["none", "commitment", "query"] = Field(
        "none",
        description="how arrival is proven: storage commitment (query where the archive has none), by query with the content "
        "compared, or not at all",
    )
    without_seg: Literal["key-images", "key-images-always", "nothing"] = Field(
        "key-images",
        description="what it gets where it takes no segmentations: pictures of the findings as Secondary Capture, also where it "
        "refuses one for another lasting reason (always), or nothing, and a dead letter tells",
    )
    proof_timeout_s: float = Field(
        3600.0, gt=0, description="wait for a commitment report before asking by query, and for a query to show everything"
    )

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Destination:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self

    @model_validator(mode="after")
    def _has_an_address(self) -> Destination:
        if self.kind == "dimse":
            missing = [key for key in ("ae_title", "host", "port") if key not in self.model_fields_set]
            if missing:
                raise ValueError(f"{', '.join(missing)} required for kind dimse")
            return self
        if not self.url:
            raise ValueError("url is required for kind stow")
        if self.proof == "commitment":
            raise ValueError("proof = commitment is a DIMSE service; take query for kind stow")
        if self.token_file and self.password_file:
            raise ValueError("token_file and password_file exclude each other")
        if (self.token_file or self.password_file) and not _is_private(self.url):
            raise ValueError("credentials are sent over https only")
        return self

    @property
    def address(self) -> str:
        """How people call where it is."""
        return self.url if self.kind == "stow" else f"{self.ae_title} at {self.host}:{self.port}"


def _is_private(url: str) -> bool:
    return url.startswith("https://") or re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(:|/|$)", url) is not None


class Delivering(Section):
    """How results are sent."""

    retry_after_s: float = Field(
        10.0, gt=0, description="first wait before a failed delivery is tried again; doubles each time, with jitter"
    )
    retry_at_most_s: float = Field(900.0, gt=0, description="longest wait between two attempts")
    give_up_after_attempts: int = Field(
        1000, ge=1, description="attempts before a delivery becomes a dead letter; about ten days"
    )
    lease_s: float = Field(120.0, gt=1, description="a sender that is silent for this long has lost its delivery")
    circuit_opens_after: int = Field(
        5, ge=1, description="connection failures in a row after which only a probe goes out to a destination"
    )
    probe_every_s: float = Field(
        30.0, gt=0, description="time between two probes of a destination that is down; never more than retry_at_most_s"
    )
    give_up_after_failed_proofs: int = Field(
        3, ge=1, description="times an archive may turn out not to have kept what it acknowledged before it is a dead letter"
    )
    report_wait_s: float = Field(
        2.0, ge=0, description="how long the association of a commitment request stays open for a report on it"
    )
