"""The state machines of study, job and delivery, as dictionaries `(state, event) -> state`.

The words of the job are the Procedure Step States of the Unified Procedure Step (PS3.4 CC.1.1) plus FAILED. Pure: the
standard library only. Rows are moved by `storage.queue.move` and by nothing else.
"""

from __future__ import annotations

from enum import StrEnum


class InvalidMove(Exception):
    """Raised when a row is not in a state from which the event leads anywhere."""


class StudyState(StrEnum):
    """Where a study stands between its first instance and the deletion of its files."""

    RECEIVING = "RECEIVING"
    SETTLED = "SETTLED"
    QUARANTINED = "QUARANTINED"
    PURGED = "PURGED"


class StudyEvent(StrEnum):
    """What can happen to a study."""

    SETTLE = "settle"
    LATE_INSTANCE = "late instance"
    CORRECT_IDENTITY = "correct identity"
    CONFLICT = "identity conflict"
    POISON = "workers died"
    RELEASE = "release"
    DISCARD = "discard"
    EXPIRE = "expire"


class JobState(StrEnum):
    """Procedure Step States, plus FAILED for a job that was given up."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class JobEvent(StrEnum):
    """What can happen to a job."""

    CLAIM = "claim"
    FINISH = "finish"
    RETRY = "retry"
    LEASE_EXPIRED = "lease expired"
    GIVE_UP = "give up"
    CANCEL = "cancel"
    RESUBMIT = "resubmit"


class DeliveryState(StrEnum):
    """Where one job's result set stands on its way to one destination."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    STORED = "STORED"
    COMMITTED = "COMMITTED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class DeliveryEvent(StrEnum):
    """What can happen to a delivery."""

    CLAIM = "claim"
    ALL_STORED = "all stored"
    RETRY = "retry"
    LEASE_EXPIRED = "lease expired"
    REFUSED = "refused for good"
    COMMIT = "committed"
    COMMIT_FAILED = "commitment failed"
    CANCEL = "cancel"
    RESUBMIT = "resubmit"
    EXTEND = "extend"


STUDY_MOVES: dict[tuple[StudyState, StudyEvent], StudyState] = {
    (StudyState.RECEIVING, StudyEvent.SETTLE): StudyState.SETTLED,
    (StudyState.RECEIVING, StudyEvent.CONFLICT): StudyState.QUARANTINED,
    (StudyState.RECEIVING, StudyEvent.CORRECT_IDENTITY): StudyState.RECEIVING,
    (StudyState.SETTLED, StudyEvent.LATE_INSTANCE): StudyState.RECEIVING,
    (StudyState.SETTLED, StudyEvent.CORRECT_IDENTITY): StudyState.RECEIVING,
    (StudyState.SETTLED, StudyEvent.CONFLICT): StudyState.QUARANTINED,
    (StudyState.SETTLED, StudyEvent.POISON): StudyState.QUARANTINED,
    (StudyState.SETTLED, StudyEvent.EXPIRE): StudyState.PURGED,
    (StudyState.PURGED, StudyEvent.LATE_INSTANCE): StudyState.RECEIVING,
    (StudyState.PURGED, StudyEvent.CONFLICT): StudyState.QUARANTINED,
    (StudyState.QUARANTINED, StudyEvent.RELEASE): StudyState.RECEIVING,
    (StudyState.QUARANTINED, StudyEvent.DISCARD): StudyState.PURGED,
}

JOB_MOVES: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.SCHEDULED, JobEvent.CLAIM): JobState.IN_PROGRESS,
    (JobState.SCHEDULED, JobEvent.CANCEL): JobState.CANCELED,
    (JobState.IN_PROGRESS, JobEvent.FINISH): JobState.COMPLETED,
    (JobState.IN_PROGRESS, JobEvent.RETRY): JobState.SCHEDULED,
    (JobState.IN_PROGRESS, JobEvent.LEASE_EXPIRED): JobState.SCHEDULED,
    (JobState.IN_PROGRESS, JobEvent.GIVE_UP): JobState.FAILED,
    (JobState.IN_PROGRESS, JobEvent.CANCEL): JobState.CANCELED,
    (JobState.FAILED, JobEvent.RESUBMIT): JobState.SCHEDULED,
    # a study that reopened and settled again with the same images wants the very job that its reopening cancelled
    (JobState.CANCELED, JobEvent.RESUBMIT): JobState.SCHEDULED,
}

DELIVERY_MOVES: dict[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (DeliveryState.PENDING, DeliveryEvent.CLAIM): DeliveryState.SENDING,
    (DeliveryState.PENDING, DeliveryEvent.CANCEL): DeliveryState.CANCELED,
    (DeliveryState.SENDING, DeliveryEvent.ALL_STORED): DeliveryState.STORED,
    (DeliveryState.SENDING, DeliveryEvent.RETRY): DeliveryState.PENDING,
    (DeliveryState.SENDING, DeliveryEvent.LEASE_EXPIRED): DeliveryState.PENDING,
    (DeliveryState.SENDING, DeliveryEvent.REFUSED): DeliveryState.FAILED,
    (DeliveryState.SENDING, DeliveryEvent.CANCEL): DeliveryState.CANCELED,
    (DeliveryState.STORED, DeliveryEvent.COMMIT): DeliveryState.COMMITTED,
    (DeliveryState.STORED, DeliveryEvent.COMMIT_FAILED): DeliveryState.PENDING,
    # an archive that answers Success time and again and never keeps what it was sent
    (DeliveryState.STORED, DeliveryEvent.REFUSED): DeliveryState.FAILED,
    (DeliveryState.FAILED, DeliveryEvent.RESUBMIT): DeliveryState.PENDING,
    # a job that a person resubmitted gave a new report, which goes the way the failure report went
    (DeliveryState.STORED, DeliveryEvent.EXTEND): DeliveryState.PENDING,
    (DeliveryState.COMMITTED, DeliveryEvent.EXTEND): DeliveryState.PENDING,
    (DeliveryState.FAILED, DeliveryEvent.EXTEND): DeliveryState.PENDING,
    (DeliveryState.CANCELED, DeliveryEvent.EXTEND): DeliveryState.PENDING,
}


def next_study_state(state: StudyState, event: StudyEvent) -> StudyState:
    """The state after the event. Raises InvalidMove where the table has no such pair."""
    try:
        return STUDY_MOVES[state, event]
    except KeyError:
        raise InvalidMove(f"a study in state {state} knows no event '{event}'") from None


def next_job_state(state: JobState, event: JobEvent) -> JobState:
    """The state after the event. Raises InvalidMove where the table has no such pair."""
    try:
        return JOB_MOVES[state, event]
    except KeyError:
        raise InvalidMove(f"a job in state {state} knows no event '{event}'") from None


def next_delivery_state(state: DeliveryState, event: DeliveryEvent) -> DeliveryState:
    """The state after the event. Raises InvalidMove where the table has no such pair."""
    try:
        return DELIVERY_MOVES[state, event]
    except KeyError:
        raise InvalidMove(f"a delivery in state {state} knows no event '{event}'") from None
