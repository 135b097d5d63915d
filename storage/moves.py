"""The only place where a state is written: compare-and-set on the row, and its event in the same transaction.

The tables are in `storage.states`. A move that the table does not know, or that somebody else was faster with, raises
InvalidMove with what happened to the row before.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import CursorResult, null, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from storage.events import EventKind, EventOutcome, append
from storage.models import Delivery, Event, Job, JsonObject, Study
from storage.states import (
    DeliveryEvent,
    DeliveryState,
    InvalidMove,
    JobEvent,
    JobState,
    StudyEvent,
    StudyState,
    next_delivery_state,
    next_job_state,
    next_study_state,
)

Row: TypeAlias = Study | Job | Delivery
_HISTORY_LENGTH = 12

_STUDY_KINDS = {
    StudyEvent.SETTLE: EventKind.STUDY_SETTLED,
    StudyEvent.LATE_INSTANCE: EventKind.STUDY_REOPENED,
    StudyEvent.CORRECT_IDENTITY: EventKind.STUDY_CORRECTED,
    StudyEvent.CONFLICT: EventKind.STUDY_QUARANTINED,
    StudyEvent.POISON: EventKind.STUDY_QUARANTINED,
    StudyEvent.RELEASE: EventKind.STUDY_RELEASED,
    StudyEvent.DISCARD: EventKind.STUDY_DISCARDED,
    StudyEvent.EXPIRE: EventKind.STUDY_PURGED,
}
_JOB_KINDS = {
    JobEvent.CLAIM: EventKind.JOB_STARTED,
    JobEvent.FINISH: EventKind.JOB_ENDED,
    JobEvent.RETRY: EventKind.JOB_RETRIED,
    JobEvent.LEASE_EXPIRED: EventKind.JOB_RETRIED,
    JobEvent.GIVE_UP: EventKind.JOB_ENDED,
    JobEvent.CANCEL: EventKind.JOB_CANCELED,
    JobEvent.RESUBMIT: EventKind.JOB_RESUBMITTED,
}
_DELIVERY_KINDS = {
    DeliveryEvent.CLAIM: EventKind.DELIVERY_ATTEMPTED,
    DeliveryEvent.ALL_STORED: EventKind.DELIVERY_SUCCEEDED,
    DeliveryEvent.RETRY: EventKind.DELIVERY_FAILED,
    DeliveryEvent.LEASE_EXPIRED: EventKind.DELIVERY_FAILED,
    DeliveryEvent.REFUSED: EventKind.DELIVERY_FAILED,
    DeliveryEvent.COMMIT: EventKind.DELIVERY_SUCCEEDED,
    DeliveryEvent.COMMIT_FAILED: EventKind.DELIVERY_FAILED,
    DeliveryEvent.CANCEL: EventKind.DELIVERY_CANCELED,
    DeliveryEvent.RESUBMIT: EventKind.DELIVERY_RESUBMITTED,
    DeliveryEvent.EXTEND: EventKind.DELIVERY_RESUBMITTED,
}
_MINOR = {JobEvent.RETRY, JobEvent.LEASE_EXPIRED, DeliveryEvent.RETRY, DeliveryEvent.LEASE_EXPIRED, DeliveryEvent.COMMIT_FAILED}
_SERIOUS = {StudyEvent.CONFLICT, StudyEvent.POISON, JobEvent.GIVE_UP, DeliveryEvent.REFUSED}


def move_study(
    session: Session,
    study: Study,
    event: StudyEvent,
    *,
    at: datetime,
    reason: str | None = None,
    user: str | None = None,
    peer: str | None = None,
    detail: JsonObject | None = None,
) -> None:
    """Move the study and write its event; quiet time, age and revision follow the move. Raises InvalidMove.

    Back to RECEIVING counts the revision up, except for a study that never settled and one of passive objects only
    (revision 0), whose first image makes revision 1.
    """
    old = StudyState(study.state)
    try:
        new = next_study_state(old, event)
    except InvalidMove as error:
        raise InvalidMove(f"{error}; {_study_history(session, study)}") from None
    values: dict[str, Any] = {"state": new.value}
    if event in (StudyEvent.SETTLE, StudyEvent.CONFLICT, StudyEvent.POISON):
        values["reason"] = reason
    if new is StudyState.SETTLED:
        values["settled_at"] = at
    if new is StudyState.RECEIVING:
        values |= {"quiet_s": 0.0, "reason": reason}
        if old is not StudyState.RECEIVING:
            values |= {"age_s": 0.0, "waits": False}
            values["revision"] = study.revision + 1 if study.settled_at is not None else study.revision
    if not compare_and_set(session, study, old.value, values):
        raise InvalidMove(f"study is not {old} any more, '{event}' came second; {_study_history(session, study)}")
    facts = {"from": old.value, "to": new.value, "revision": study.revision, "reason": reason, **(detail or {})}
    append(session, _STUDY_KINDS[event], at=at, outcome=_outcome(event), study=study, user=user, peer=peer, detail=_filled(facts))


def move_job(
    session: Session,
    job: Job,
    event: JobEvent,
    *,
    at: datetime,
    values: dict[str, Any] | None = None,
    user: str | None = None,
    detail: JsonObject | None = None,
) -> None:
    """Move the job, set the further columns in `values` with the state, and write the event. Raises InvalidMove."""
    old = JobState(job.state)
    try:
        new = next_job_state(old, event)
    except InvalidMove as error:
        raise InvalidMove(f"{error}; {_job_history(session, job.id)}") from None
    if not compare_and_set(session, job, old.value, {**(values or {}), "state": new.value}):
        raise InvalidMove(f"job {job.id} is not {old} any more, '{event}' came second; {_job_history(session, job.id)}")
    facts = {"from": old.value, "to": new.value, "attempt": job.attempt, "epoch": job.epoch, **(detail or {})}
    append(
        session,
        _JOB_KINDS[event],
        at=at,
        outcome=_outcome(event),
        study=job.study,
        user=user,
        model=job.model,
        model_digest=job.model_digest,
        job_id=job.id,
        detail=_filled(facts),
    )


def move_delivery(
    session: Session,
    delivery: Delivery,
    event: DeliveryEvent,
    *,
    at: datetime,
    values: dict[str, Any] | None = None,
    user: str | None = None,
    detail: JsonObject | None = None,
) -> None:
    """Move the delivery, set the further columns in `values` with the state, and write the event. Raises InvalidMove."""
    old = DeliveryState(delivery.state)
    try:
        new = next_delivery_state(old, event)
    except InvalidMove as error:
        raise InvalidMove(f"{error}; {_job_history(session, delivery.job_id)}") from None
    if not compare_and_set(session, delivery, old.value, {**(values or {}), "state": new.value}):
        history = _job_history(session, delivery.job_id)
        raise InvalidMove(f"delivery {delivery.id} is not {old} any more, '{event}' came second; {history}")
    facts = {
        "from": old.value,
        "to": new.value,
        "delivery": delivery.id,
        "attempt": delivery.attempt,
        "epoch": delivery.epoch,
        **(detail or {}),
    }
    job = delivery.job
    append(
        session,
        _DELIVERY_KINDS[event],
        at=at,
        outcome=_outcome(event),
        study=job.study,
        peer=delivery.destination,
        user=user,
        model=job.model,
        model_digest=job.model_digest,
        job_id=job.id,
        detail=_filled(facts),
    )


def compare_and_set(session: Session, row: Row, old_state: str, values: dict[str, Any]) -> bool:
    """Set the columns where the row still has the old state, in the database and on the object; False where it has not."""
    session.flush()
    table = type(row)
    result = session.execute(
        update(table)
        .where(table.id == row.id, table.state == old_state)
        .values({name: null() if value is None else value for name, value in values.items()})
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount != 1:
        return False
    for name, value in values.items():
        set_committed_value(row, name, value)
    return True


def _outcome(event: StudyEvent | JobEvent | DeliveryEvent) -> EventOutcome:
    if event in _SERIOUS:
        return EventOutcome.SERIOUS_FAILURE
    return EventOutcome.MINOR_FAILURE if event in _MINOR else EventOutcome.SUCCESS


def _filled(facts: JsonObject) -> JsonObject:
    return {key: value for key, value in facts.items() if value is not None}


def _study_history(session: Session, study: Study) -> str:
    rows = session.execute(
        select(Event.at, Event.kind, Event.job_id)
        .where(Event.study_instance_uid == study.study_instance_uid)
        .order_by(Event.id.desc())
        .limit(_HISTORY_LENGTH)
    ).all()
    steps = [_step(at, kind, job_id) for at, kind, job_id in reversed(rows)]
    return f"history of study {study.study_instance_uid}: {', '.join(steps) or 'none'}"


def _job_history(session: Session, job_id: int) -> str:
    rows = session.execute(
        select(Event.at, Event.kind).where(Event.job_id == job_id).order_by(Event.id.desc()).limit(_HISTORY_LENGTH)
    ).all()
    steps = [_step(at, kind, None) for at, kind in reversed(rows)]
    return f"history of job {job_id}: {', '.join(steps) or 'none'}"


def _step(at: datetime, kind: str, job_id: int | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} {kind}" + (f" (job {job_id})" if job_id else "")
