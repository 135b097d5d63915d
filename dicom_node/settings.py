"""Every knob of the node: one TOML file plus environment variables, each with its unit, default and reason.

`FOVEA_CONFIG` names the file (default `fovea.toml` in the working folder); `FOVEA_RECEIVE__SETTLE_AFTER_S=30` overrides one key.
Unknown keys are errors, and each message names the key's path. `fovea settings` prints this page from the code.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.settings_audit import Audit
from dicom_node.settings_delivery import Delivering, Destination
from dicom_node.settings_doors import Alerts, Fingerprint, Stow, StowClient, Tls
from dicom_node.settings_values import AeTitle, Name, Network, Port, Range, ReceivePath, ResultWords, Section

__all__ = [
    "Audit",
    "Delivering",
    "Destination",
    "Fingerprint",
    "Model",
    "Node",
    "Output",
    "Peer",
    "Receive",
    "ReceivePath",
    "Retention",
    "Rule",
    "Run",
    "Settings",
    "SettingsError",
    "Storage",
    "Stow",
    "StowClient",
    "Ticks",
    "Tls",
    "Web",
    "load_settings",
]

CONFIG_VARIABLE = "FOVEA_CONFIG"
DEFAULT_CONFIG = "fovea.toml"
MAXIMUM_LISTENERS = 16


class SettingsError(Exception):
    """Raised when the configuration cannot be read; the message names file, key and what was expected."""


class Node(Section):
    """Who the node is on the DICOM network."""

    ae_title: AeTitle = Field("FOVEA", description="AE title that peers call, and that the node calls itself")
    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told otherwise")
    port: Port = Field(11112, description="DICOM port; 0 takes a free one")
    institution: str = Field("", description="Institution Name in result objects, where the source has none")
    station_name: str = Field("FOVEA", description="Station Name in result objects")


class Peer(Section):
    """One application entity that may send to the node. No peers: nobody may."""

    ae_title: AeTitle = Field(description="calling AE title")
    addresses: tuple[Network, ...] = Field(min_length=1, description="addresses or networks it may come from, e.g. 10.1.2.0/24")
    certificates: tuple[Fingerprint, ...] = Field(
        (), description="SHA-256 fingerprints of the certificates it may show over TLS; over TLS a peer needs these or the names"
    )
    certificate_names: tuple[str, ...] = Field(
        (), description="subject alternative names, any of which its certificate may carry instead"
    )
    clear_text: bool = Field(False, description="a peer with a certificate may also come without TLS")
    host: str = Field("", description="where it is called with reports on storage commitment; empty: as a destination")
    port: Port = Field(0, description="its DICOM port for these reports")


class Storage(Section):
    """Where files and rows are kept."""

    spool: Path = Field(Path("var/spool"), description="folder for received and result files; made with mode 0700")
    database_url: str = Field(
        "", description="SQLAlchemy URL, e.g. postgresql+psycopg://fovea@/fovea; empty: SQLite beside the spool"
    )
    reserve_mb: float = Field(
        500.0, ge=0, description="free space in MB that must remain; below it senders are told to try later"
    )

    def url(self) -> str:
        """The database's URL, the embedded one where none is set."""
        return self.database_url or f"sqlite:///{self.spool.parent / 'fovea.sqlite'}"


class Receive(Section):
    """How studies are received and when one counts as complete."""

    settle_after_s: float = Field(30.0, gt=0, description="a study is complete when nothing arrived for this many seconds")
    maximum_age_s: float = Field(
        3600.0,
        gt=0,
        description="a study that keeps receiving is closed by force after this many seconds, unless a rule waits on",
    )
    path: ReceivePath = Field(
        "stream",
        description="how C-STORE is taken: stream, as the bytes come, or plain, by pynetdicom's own handler: several times "
        "slower, and each object is held in memory twice, whatever its size",
    )
    listeners: int = Field(
        1,
        ge=1,
        le=MAXIMUM_LISTENERS,
        description="listener processes on the one port, each with its share of the limits; more help where many send at once",
    )
    maximum_associations: int = Field(32, ge=1, description="associations served at once; more are refused as temporary")
    maximum_associations_per_peer: int = Field(16, ge=1, description="associations served at once for one address")
    maximum_pdu_bytes: int = Field(131072, ge=16384, description="largest PDU announced; 128 kB measured best")
    maximum_object_mb: float = Field(2048.0, gt=0, description="largest object accepted, in MB")
    acse_timeout_s: float = Field(10.0, gt=0, description="wait for the association request after the connection opened")
    dimse_timeout_s: float = Field(60.0, gt=0, description="wait for the rest of a message")
    network_timeout_s: float = Field(60.0, gt=0, description="wait for the next message of an idle association")
    commitment_settle_s: float = Field(
        0.5,
        ge=0,
        description="seconds an association is left to the peer after its storage commitment request: most release at once, "
        "and a report would cross that; one that stays open gets the report on it",
    )


class Model(Section):
    """One installed model bundle."""

    name: Name = Field(description="name that rules use")
    path: Path | None = Field(None, description="bundle folder; empty: the one of this name shipped with the product")
    digest: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="pin: the card's SHA-256; a bundle that differs is not run")


class Rule(Section):
    """Which series of a study become a job of which model, and where its results go."""

    name: Name = Field(description="name shown by `fovea explain` and in the audit")
    model: Name = Field(description="an entry of [[models]]")
    destinations: tuple[Name, ...] = Field(min_length=1, description="entries of [[destinations]]")
    recipe: str = Field("", description="recipe of the model; empty: the card's first")
    priority: Literal["urgent", "normal", "off-peak"] = Field("normal", description="order in the queue")
    on_maximum_age: Literal["go on", "wait", "discard"] = Field(
        "go on",
        description="a study still being received after receive.maximum_age_s: analyse what is there, the report saying so; "
        "wait until it is quiet, all rules with it; or report that it was not analysed",
    )
    from_peers: tuple[AeTitle, ...] = Field((), description="only studies these AE titles sent; empty: any")
    modality: tuple[str, ...] = Field(("MR",), description="Modality (0008,0060)")
    body_part: tuple[str, ...] = Field((), description="Body Part Examined (0018,0015), any case; a series without one passes")
    orientation: tuple[Literal["axial", "coronal", "sagittal"], ...] = Field(
        (), description="nearest plane of the images; empty: any"
    )
    echo_time_ms: Range | None = Field(None, description="Echo Time (0018,0081) within, inclusive")
    repetition_time_ms: Range | None = Field(None, description="Repetition Time (0018,0080) within")
    inversion_time_ms: Range | None = Field(None, description="Inversion Time (0018,0082) within")
    slices: tuple[int, int] | None = Field(None, description="number of images in the series within")
    slice_spacing_mm: Range | None = Field(None, description="distance between slices within")
    pixel_spacing_mm: Range | None = Field(None, description="Pixel Spacing (0028,0030) within")
    scanning_sequence: tuple[str, ...] = Field((), description="Scanning Sequence (0018,0020) holds one of these")
    image_type_excludes: tuple[str, ...] = Field(
        ("LOCALIZER", "DERIVED"), description="Image Type (0008,0008) holds none of these"
    )
    contrast_agent: bool | None = Field(None, description="Contrast/Bolus Agent (0018,0010) present or absent; empty: either")
    description_matches: str = Field("", description="regular expression searched in Series Description, any case; last resort")
    description_excludes: str = Field("", description="regular expression that must not be found in Series Description")

    @model_validator(mode="after")
    def _expressions_compile(self) -> Rule:
        for key in ("description_matches", "description_excludes"):
            try:
                re.compile(getattr(self, key))
            except re.error as error:
                raise ValueError(f"{key} is not a regular expression: {error}") from None
        return self


class Run(Section):
    """How a run is held."""

    workers: int = Field(1, ge=1, description="runs at once on this machine")
    threads: int = Field(0, ge=0, description="CPU threads for one run; 0: all cores divided by the workers")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    memory_mb: float = Field(
        6144.0, ge=512, description="address space a run may take beyond what its libraries map; over it the run is killed"
    )
    timeout_s: float = Field(600.0, gt=0, description="wall-clock limit of one run; over it the run is killed")
    lease_s: float = Field(60.0, gt=1, description="a worker that is silent for this long has lost its job")
    maximum_attempts: int = Field(3, ge=1, description="attempts before a job is given up and a failure report is sent")
    quarantine_after_deaths: int = Field(
        3, ge=1, description="runs of one study that ended their whole process before the study is quarantined"
    )
    retry_after_s: float = Field(5.0, gt=0, description="first wait before a failed run is tried again; doubles each time")


class Output(Section):
    """How result objects look."""

    character_set: Literal["ISO_IR 192", "ISO_IR 100"] = Field(
        "ISO_IR 192", description="Specific Character Set of results; UTF-8 holds every name"
    )
    series_number_base: int = Field(
        9000, ge=1, description="results take series numbers from here on, free ones within the study"
    )
    report_language: Literal["en"] = Field("en", description="language of the report's text")
    objects: ResultWords = Field(
        ("seg", "sr"),
        description="result objects made; besides seg and sr: parametric-map, uncertainty, pseudo-healthy, capture, "
        "presentation-state, pdf. Only two by default: the others are large, or could be taken for acquired images",
    )
    map_values: Literal["float32", "uint16"] = Field(
        "float32",
        description="values of parametric maps: float32, or half the bytes at a 65535th of the largest, misdrawn by OHIF",
    )
    map_extent: Literal["whole", "brain"] = Field(
        "whole", description="pixels of parametric maps: all, or those in the brain's bounding box, which OHIF cannot draw"
    )
    segmentation: Literal["binary", "labelmap"] = Field(
        "binary", description="form of the segmentation; labelmap is smaller, and many archives and viewers do not know it yet"
    )


class Web(Section):
    """The read-only web page."""

    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told otherwise")
    port: Port = Field(8042, description="HTTP port; 0 takes a free one")
    token_file: Path | None = Field(
        None, description="file that holds the access token; empty: made at start beside the spool, mode 0600"
    )
    certificate_file: Path | None = Field(
        None, description="PEM file of the page's certificate, followed by intermediate ones; empty: http"
    )
    key_file: Path | None = Field(None, description="PEM file of its private key, without passphrase, mode 0600")
    host_names: tuple[str, ...] = Field(
        (), description="names the page is reached by, beside localhost and this machine's own name"
    )

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Web:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self

    @property
    def scheme(self) -> str:
        """`https` where there is a certificate."""
        return "http" if self.certificate_file is None else "https"


class Retention(Section):
    """When files go; rows and events stay."""

    keep_files_days: float = Field(
        14.0, gt=0, description="days after everything was delivered until a study's files are deleted"
    )


class Ticks(Section):
    """How often the scheduler looks."""

    settle_s: float = Field(1.0, gt=0, description="how often quiet times are counted and studies settled")
    submit_s: float = Field(0.5, gt=0, description="how often a free worker looks for a job")
    deliver_s: float = Field(0.5, gt=0, description="how often due deliveries are looked for")
    prove_s: float = Field(1.0, gt=0, description="how often proofs of arrival that are due are looked for")
    watchdog_s: float = Field(5.0, gt=0, description="how often expired leases are taken back")
    retention_s: float = Field(3600.0, gt=0, description="how often expired files are looked for")


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="FOVEA_", env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    node: Node = Node()
    peers: tuple[Peer, ...] = ()
    storage: Storage = Storage()
    receive: Receive = Receive()
    tls: Tls = Tls()
    stow: Stow = Stow()
    stow_clients: tuple[StowClient, ...] = ()
    alerts: Alerts = Alerts()
    models: tuple[Model, ...] = (Model(name="brain-flair"),)
    rules: tuple[Rule, ...] = ()
    destinations: tuple[Destination, ...] = ()
    run: Run = Run()
    delivering: Delivering = Delivering()
    output: Output = Output()
    web: Web = Web()
    audit: Audit = Audit()
    retention: Retention = Retention()
    ticks: Ticks = Ticks()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; no dotenv, no secrets folder."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_resolve(self) -> Settings:
        _unique("models", [model.name for model in self.models])
        _unique("rules", [rule.name for rule in self.rules])
        _unique("destinations", [destination.name for destination in self.destinations])
        _unique("stow_clients", [client.name for client in self.stow_clients])
        models = {model.name for model in self.models}
        destinations = {destination.name for destination in self.destinations}
        for index, rule in enumerate(self.rules):
            if rule.model not in models:
                raise ValueError(f"rules.{index}.model: no [[models]] entry is named {rule.model!r}")
            for name in rule.destinations:
                if name not in destinations:
                    raise ValueError(f"rules.{index}.destinations: no [[destinations]] entry is named {name!r}")
        for index, destination in enumerate(self.destinations):
            for word in destination.objects or ():
                if word not in self.output.objects:
                    raise ValueError(f"destinations.{index}.objects: {word} is not among output.objects and is never made")
        return self


def _unique(section: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{section}: two entries are named {name!r}")


def load_settings(path: Path | None = None) -> Settings:
    """The settings from the file and the environment. Raises SettingsError naming file, key path and what is wrong.

    Without a path, `FOVEA_CONFIG` or `fovea.toml` is read where it exists; relative folders count from the working folder.
    """
    chosen = path or Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))
    must_exist = path is not None or CONFIG_VARIABLE in os.environ
    values: dict[str, object] = {}
    if must_exist or chosen.exists():
        try:
            values = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{chosen}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{chosen}: not TOML: {error}") from error
    try:
        return Settings(**values)  # type: ignore[arg-type]  # parsed into types here, by pydantic
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in one['loc']) or '(file)'}: {one['msg']}" for one in error.errors()]
        raise SettingsError(f"{chosen if values else 'environment'}: " + "; ".join(lines)) from error
