"""Read models: the plain values that `storage.queries` hands to the web page and the command line.

Frozen, detached from any session, and free of markup. Times are timezone-aware UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from storage.models import JsonObject
from storage.states import DeliveryState, JobState, StudyState


class Standing(StrEnum):
    """Where a study stands for the person who asks; of several jobs the one later in this list shows."""

    NEVER_SELECTED = "never selected"
    CANCELED = "canceled"
    NO_FINDING = "no finding"
    REFUSED = "refused"
    FINDINGS = "findings"
    WAITING = "waiting"
    RUNNING = "running"
    FAILED = "failed"
    RECEIVING = "receiving"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """Which studies to list; every field that is set must hold."""

    text: str = ""
    """Beginning of the accession number, patient ID or Study Instance UID, or part of the patient's name."""
    standing: Standing | None = None
    since: datetime | None = None
    """Newest instance received at or after this time."""
    until: datetime | None = None
    """Newest instance received before this time."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One analysis in a line."""

    id: int
    study_id: int
    rule: str
    model: str
    state: JobState
    standing: Standing
    findings: int
    reason: str | None
    attempt: int
    not_before: datetime
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study in a line."""

    id: int
    study_instance_uid: str
    state: StudyState
    standing: Standing
    revision: int
    patient_name: str
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_description: str
    received_from: str
    modalities: tuple[str, ...]
    instances: int
    first_received_at: datetime
    last_received_at: datetime
    settled_at: datetime | None
    reason: str | None
    forced: bool
    """Closed by force at its maximum age."""
    waits: bool
    """Past its maximum age, and a rule waits until it is quiet."""
    incomplete: str | None
    """Why instances may be missing; None where nothing speaks for it."""
    jobs: tuple[JobRow, ...]
    """The current job of each rule, oldest first."""
    deliveries: dict[DeliveryState, int]
    """Deliveries of the current jobs, counted by state."""


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One page of the list, newest first."""

    rows: tuple[StudyRow, ...]
    total: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One received series."""

    series_instance_uid: str
    modality: str
    series_number: int | None
    description: str
    instances: int
    size: int
    """Bytes received."""
    held: int
    """Instances that carry another patient than the study."""
    own: int
    """Instances that are this node's own results, come back."""


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """One object kept aside for a person to look at."""

    sop_instance_uid: str
    reason: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One run of a job."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    detail: str | None
    peak_memory_mb: float | None


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One result object."""

    kind: str
    sop_instance_uid: str
    series_instance_uid: str
    size: int
    digest: str
    superseded: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One result object at one destination."""

    kind: str
    sop_instance_uid: str
    stored_at: datetime | None
    status: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One result set on its way to one destination."""

    id: int
    job_id: int
    study_id: int
    study_instance_uid: str
    accession_number: str
    destination: str
    state: DeliveryState
    attempt: int
    not_before: datetime
    reason: str | None
    detail: str | None
    created_at: datetime
    ended_at: datetime | None
    items: tuple[ItemRow, ...]


@dataclass(frozen=True, slots=True)
class JobStory:
    """One analysis with everything it did."""

    row: JobRow
    revision: int
    model_digest: str
    recipe: str
    priority: int
    worker: str | None
    detail: str | None
    started_at: datetime | None
    plan: JsonObject
    summary: JsonObject | None
    attempts: tuple[AttemptRow, ...]
    results: tuple[ResultRow, ...]
    deliveries: tuple[DeliveryRow, ...]


@dataclass(frozen=True, slots=True)
class StudyStory:
    """One study from its first instance to the last answer of the last destination."""

    study: StudyRow
    series: tuple[SeriesRow, ...]
    rejected: tuple[RejectedRow, ...]
    jobs: tuple[JobStory, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """How much waits where, and since when."""

    studies: dict[StudyState, int]
    jobs: dict[JobState, int]
    deliveries: dict[DeliveryState, int]
    oldest_waiting_job: datetime | None
    oldest_waiting_delivery: datetime | None


@dataclass(frozen=True, slots=True)
class DestinationRow:
    """What goes to one destination."""

    destination: str
    deliveries: dict[DeliveryState, int]
    oldest_waiting: datetime | None
    last_stored_at: datetime | None
