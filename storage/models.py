"""The tables: what was received, what was decided, what was computed, what was sent, and the events that tell of it.

No logic here. Times are timezone-aware UTC. States are written by `storage.queue.move` only; events are written by
`storage.events.append` only and are never changed afterwards (triggers in the database refuse it).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

# What a JSON column holds; parsed into a type where it is read.
JsonObject: TypeAlias = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time, on SQLite too, where the column itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without zone cannot be stored: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the stored UTC time its zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """The declarative base of every table."""

    type_annotation_map = {datetime: UtcDateTime(), JsonObject: JSON, str: Text()}  # noqa: RUF012


class Association(Base):
    """One DICOM association with a peer, or one HTTP request that stored something."""

    __tablename__ = "association"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    called_ae_title: Mapped[str] = mapped_column(String(16))
    address: Mapped[str]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    """`released`, `aborted`, `interrupted` (the node stopped); None while open."""
    listener: Mapped[str]
    """Which listener process served it, so that a restarted one can close what the old one left open."""


class Study(Base):
    """One study as the PACS knows it, with the newest identity received for it."""

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    revision: Mapped[int] = mapped_column(default=1)
    """Counts up when instances come late or the identity is corrected after the study had settled."""
    patient_id: Mapped[str] = mapped_column(Text, index=True, default="")
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")
    patient_name: Mapped[str] = mapped_column(default="")
    patient_birth_date: Mapped[str] = mapped_column(default="")
    patient_sex: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(Text, index=True, default="")
    study_date: Mapped[str] = mapped_column(default="")
    study_description: Mapped[str] = mapped_column(default="")
    received_from: Mapped[str] = mapped_column(default="")
    """AE title of the peer that sent the newest instance."""
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    quiet_s: Mapped[float] = mapped_column(Float, default=0.0)
    """Seconds of node running time since the newest instance, added up by the settle tick; survives restarts and clock jumps."""
    age_s: Mapped[float] = mapped_column(Float, default=0.0)
    """Seconds of node running time since RECEIVING began, for the maximum age."""
    settled_at: Mapped[datetime | None]
    forced: Mapped[bool] = mapped_column(default=False)
    """True where it was closed by force at its maximum age."""
    waits: Mapped[bool] = mapped_column(default=False)
    """True where it is past its maximum age and a rule waits until it is quiet."""
    interrupted_by: Mapped[str | None] = mapped_column(String(16))
    """AE title whose last association that brought something of it ended without a release; None where none did."""
    incomplete: Mapped[str | None]
    """Why instances may be missing, as it was known when it settled; None where nothing spoke for it."""
    reason: Mapped[str | None]
    """Why it is quarantined, or how it was settled."""
    series: Mapped[list[Series]] = relationship(back_populates="study", cascade="all, delete-orphan")
    jobs: Mapped[list[Job]] = relationship(back_populates="study")


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16), default="")
    series_number: Mapped[int | None]
    description: Mapped[str] = mapped_column(default="")
    study: Mapped[Study] = relationship(back_populates="series")
    instances: Mapped[list[Instance]] = relationship(back_populates="series", cascade="all, delete-orphan")

    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)


class Instance(Base):
    """One SOP instance that was answered with Success: its file, its digests and the header facts rules look at."""

    __tablename__ = "instance"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None]
    """Relative to the spool; None once purged."""
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 (hex) of the data set as received (file meta information excluded)."""
    pixel_digest: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 (hex) of the pixel data element's value bytes; None without any, and until its UID comes again with other bytes."""
    identity_digest: Mapped[str] = mapped_column(String(64), default="")
    """SHA-256 (hex) of the patient and study attributes it carries, to tell a correction from a mere repetition."""
    held: Mapped[bool] = mapped_column(default=False)
    """True where it carries another patient than the rest of its study: kept, never analysed until released."""
    own: Mapped[bool] = mapped_column(default=False)
    """True where it is one of this node's own results, come back."""
    received_at: Mapped[datetime]
    header: Mapped[JsonObject] = mapped_column(default=dict)
    """`dicom_node.header.InstanceHeader` as JSON: the attributes that rules and refusals look at."""
    series: Mapped[Series] = relationship(back_populates="instances")


class Rejected(Base):
    """An object that was not taken into a study but is kept for a person to look at (same SOP Instance UID, other pixels)."""

    __tablename__ = "rejected"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    association_id: Mapped[int | None] = mapped_column(ForeignKey("association.id"))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    path: Mapped[str | None]
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str]
    received_at: Mapped[datetime]


class Job(Base):
    """One analysis of chosen series of one study by one model, or the report that it was refused."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    revision: Mapped[int]
    rule: Mapped[str]
    model: Mapped[str]
    """Name and version, `name version`."""
    model_digest: Mapped[str] = mapped_column(String(64))
    recipe: Mapped[str]
    recipe_digest: Mapped[str] = mapped_column(String(64))
    """Digest of recipe name, run options and output options; part of what makes a job unique."""
    input_digest: Mapped[str] = mapped_column(String(64))
    """Over the analysed instances' SOP Instance UIDs and digests, sorted, and the identity the results carry."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    priority: Mapped[int] = mapped_column(default=0)
    """Higher runs first."""
    not_before: Mapped[datetime]
    attempt: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    """Counts up with every claim; a result that carries an older epoch is dropped."""
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    """Reason code of a refusal or failure."""
    detail: Mapped[str | None]
    plan: Mapped[JsonObject] = mapped_column(default=dict)
    """`dicom_node.routing.Plan` as JSON: analysed series, passed-over series with reasons, destinations, refusal if any."""
    summary: Mapped[JsonObject | None]
    """`dicom_node.outcome.Summary` as JSON: findings, study score, cost, pictures."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    study: Mapped[Study] = relationship(back_populates="jobs")
    attempts: Mapped[list[Attempt]] = relationship(back_populates="job", cascade="all, delete-orphan")
    results: Mapped[list[Result]] = relationship(back_populates="job")
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="job")

    __table_args__ = (
        UniqueConstraint("study_id", "input_digest", "model_digest", "recipe_digest"),
        Index("job_claim", "state", "not_before", "priority"),
    )


class Attempt(Base):
    """One run of a job by one worker."""

    __tablename__ = "attempt"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    number: Mapped[int]
    epoch: Mapped[int]
    worker: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    """`completed`, `refused`, `died`, `crashed`, `timed out`, `out of memory`, `lease expired`, `superseded`."""
    detail: Mapped[str | None]
    peak_memory_mb: Mapped[float | None]
    job: Mapped[Job] = relationship(back_populates="attempts")


class Result(Base):
    """One result object of a job, on disk."""

    __tablename__ = "result"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """`SEG`, `SR` or another value of `dicom_node.outcome.KIND_OF_OBJECT`."""
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None]
    size: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 (hex) of the file."""
    superseded: Mapped[bool] = mapped_column(default=False)
    """True once a later revision's report names this one as its predecessor."""
    created_at: Mapped[datetime]
    job: Mapped[Job] = relationship(back_populates="results")


class Delivery(Base):
    """One job's result set on its way to one destination."""

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    destination: Mapped[str]
    state: Mapped[str] = mapped_column(String(16), index=True)
    not_before: Mapped[datetime]
    attempt: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    job: Mapped[Job] = relationship(back_populates="deliveries")
    items: Mapped[list[DeliveryItem]] = relationship(back_populates="delivery", cascade="all, delete-orphan")

    __table_args__ = (UniqueConstraint("job_id", "destination"), Index("delivery_claim", "state", "not_before"))


class DeliveryItem(Base):
    """The state of one result object at one destination."""

    __tablename__ = "delivery_item"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), index=True)
    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"))
    stored_at: Mapped[datetime | None]
    status: Mapped[str | None] = mapped_column(String(16))
    """The last DIMSE status as `0xNNNN`, or None before the first answer."""
    detail: Mapped[str | None]
    delivery: Mapped[Delivery] = relationship(back_populates="items")
    result: Mapped[Result] = relationship()

    __table_args__ = (UniqueConstraint("delivery_id", "result_id"),)


class Commitment(Base):
    """One request to an archive to prove that it has what it acknowledged: storage commitment (PS3.4 J) or a query."""

    __tablename__ = "commitment"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    """Transaction UID (0008,1195) by which a report on any association finds its request."""
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), index=True)
    epoch: Mapped[int]
    """The delivery's epoch when it was stored; a report about an earlier sending moves nothing."""
    kind: Mapped[str] = mapped_column(String(16))
    """`commitment`, or `query` where the archive has no commitment or did not report in time."""
    state: Mapped[str] = mapped_column(String(16))
    """`storage.commitments.CommitmentState`."""
    not_before: Mapped[datetime]
    """When to ask (again)."""
    attempt: Mapped[int] = mapped_column(default=0)
    requested_at: Mapped[datetime]
    deadline: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    delivery: Mapped[Delivery] = relationship()

    __table_args__ = (Index("commitment_due", "state", "not_before"),)


class Pledge(Base):
    """One request of a peer that this node commits to what it was sent (PS3.4 J.3.2), until its report was taken."""

    __tablename__ = "pledge"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    peer: Mapped[str] = mapped_column(String(16))
    """AE title that asked and gets the report."""
    address: Mapped[str]
    transaction_uid: Mapped[str] = mapped_column(String(64), index=True)
    items: Mapped[JsonObject] = mapped_column(default=dict)
    """SOP Instance UID to SOP Class UID."""
    is_duplicate: Mapped[bool] = mapped_column(default=False)
    """True where the peer used the transaction for other objects before: everything is answered with 0x0131."""
    state: Mapped[str] = mapped_column(String(16))
    """`storage.pledges.PledgeState`."""
    not_before: Mapped[datetime]
    """When to report (again)."""
    attempt: Mapped[int] = mapped_column(default=0)
    requested_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    reason: Mapped[str | None]

    __table_args__ = (Index("pledge_due", "state", "not_before"),)


class Circuit(Base):
    """How a destination's connection fares; open after several failures in a row, when only a probe goes out now and then."""

    __tablename__ = "circuit"

    destination: Mapped[str] = mapped_column(Text, primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    """Connection failures in a row."""
    opened_at: Mapped[datetime | None]
    """Since when nothing but probes goes out; None while closed."""
    next_probe_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    """The last failure's code."""
    changed_at: Mapped[datetime]


class Event(Base):
    """One thing that happened: history and audit alike. Append-only."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(48), index=True)
    """`storage.events.EventKind`."""
    outcome: Mapped[str] = mapped_column(String(16))
    """`success`, `minor failure`, `serious failure` (PS3.15 A.5 EventOutcomeIndicator 0, 4, 8)."""
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    patient_id: Mapped[str | None] = mapped_column(Text, index=True)
    accession_number: Mapped[str | None] = mapped_column(Text, index=True)
    peer: Mapped[str | None] = mapped_column(Text, index=True)
    """AE title or destination name on the other side."""
    address: Mapped[str | None]
    user: Mapped[str | None]
    model: Mapped[str | None] = mapped_column(Text, index=True)
    model_digest: Mapped[str | None] = mapped_column(String(64))
    job_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    detail: Mapped[JsonObject] = mapped_column(default=dict)


class Seal(Base):
    """One link of the hash chain over the events: digest = SHA-256(previous digest, canonical event)."""

    __tablename__ = "seal"

    sequence: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    """1, 2, 3 … without holes."""
    event_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    sealed_at: Mapped[datetime]


class Repository(Base):
    """How far the audit repository has the events, in the order of the hash chain."""

    __tablename__ = "repository"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    """Of the last event that it took; 0 before the first."""
    failing_since: Mapped[datetime | None]
    """Since when it takes nothing; None while it does."""
    reason: Mapped[str | None]
    alerted: Mapped[bool] = mapped_column(default=False)
    """True where an event tells that it takes nothing."""
    changed_at: Mapped[datetime]


class Clock(Base):
    """The node's running time: what the settle tick adds to quiet times is measured against this row."""

    __tablename__ = "clock"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str]
    """Boot identity of the machine whose monotonic clock is kept here."""
    monotonic_s: Mapped[float] = mapped_column(Float)
    beat_at: Mapped[datetime]
