"""Settings of the audit: its hash chain, the anchor outside the database, and the repository that gets every event."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from dicom_node.settings_values import Section


def _repository_url(value: str) -> str:
    matched = re.fullmatch(r"(udp|tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", value)
    if value and (matched is None or not 1 <= int(matched.group(3)) <= 65535):
        raise ValueError("a repository looks like tls://audit.example:6514, tcp://… or udp://…")
    return value


RepositoryUrl = Annotated[str, AfterValidator(_repository_url)]


class Audit(Section):
    """The hash chain over the events, its anchor outside the database, and the repository that gets every event."""

    seal_every_s: float = Field(2.0, gt=0, description="how often new events are chained")
    anchor_file: Path | None = Field(
        None, description="file that the chain's head is appended to, best on another machine's share"
    )
    anchor_key_file: Path | None = Field(
        None, description="key (32 bytes or more) of the HMAC over each anchor; required with anchor_file"
    )
    anchor_syslog: str = Field("", description="host:port of a syslog server (UDP) that gets each anchor too")
    anchor_every_s: float = Field(60.0, gt=0, description="how often the head is anchored")

    repository: RepositoryUrl = Field(
        "", description="audit repository that gets each event by syslog: tls://host:port, tcp://… or udp://…; empty: none"
    )
    repository_ca_file: Path | None = Field(
        None, description="tls: PEM file of the authority that signed the repository's certificate; empty: the system's"
    )
    repository_certificate_file: Path | None = Field(None, description="tls: PEM file of the certificate shown to it")
    repository_key_file: Path | None = Field(None, description="tls: PEM file of that certificate's key, mode 0600")
    repository_tls_name: str = Field("", description="tls: the name that its certificate must carry; empty: the host")
    repository_timeout_s: float = Field(10.0, gt=0, description="wait for the connection, and for the repository to take a batch")
    repository_every_s: float = Field(2.0, gt=0, description="how often chained events are sent to it")
    source_id: str = Field("", description="Audit Source ID in its messages; empty: node.ae_title")
    enterprise_site_id: str = Field("", description="Audit Enterprise Site ID in its messages; empty: none")
    alert_after_s: float = Field(
        60.0, ge=0, description="the repository may be silent for this long before an alert (Audit Recording Stopped) is raised"
    )
    stop_work_after_s: float = Field(
        0.0, ge=0, description="associations are refused while an event waits for the repository this long; 0: never"
    )

    @model_validator(mode="after")
    def _repository_is_whole(self) -> Audit:
        if (self.repository_certificate_file is None) != (self.repository_key_file is None):
            raise ValueError("repository_certificate_file and repository_key_file go together")
        if self.stop_work_after_s and not self.repository:
            raise ValueError("stop_work_after_s needs a repository to wait for")
        if 0 < self.stop_work_after_s <= 2 * (self.seal_every_s + self.repository_every_s):
            raise ValueError("stop_work_after_s must be longer than twice seal_every_s and repository_every_s together")
        return self

    @model_validator(mode="after")
    def _anchor_has_a_key(self) -> Audit:
        if (self.anchor_file or self.anchor_syslog) and self.anchor_key_file is None:
            raise ValueError("anchor_key_file is required where the chain is anchored: an unkeyed digest could be recomputed")
        return self
