"""The queue of jobs: claim with a lease and an epoch, heartbeat, finish, retry, give up, cancel, resubmit.

A claim is worth something only while its epoch is the row's: a worker that lost its lease, or whose job was cancelled, finds
its result dropped (fencing), and nothing of it is written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import Session

from storage.events import EventKind, EventOutcome, append
from storage.models import Attempt, Delivery, Job, JsonObject, Study
from storage.moves import move_delivery, move_job
from storage.states import DeliveryEvent, DeliveryState, JobEvent, JobState

OPEN_JOB_STATES = (JobState.SCHEDULED.value, JobState.IN_PROGRESS.value)
OPEN_DELIVERY_STATES = (DeliveryState.PENDING.value, DeliveryState.SENDING.value)


@dataclass(frozen=True, slots=True)
class JobClaim:
    """The right to run a job, for as long as the row has this epoch."""

    job_id: int
    epoch: int
    attempt: int
    """1 for the first attempt."""


def claim_job(session: Session, *, worker: str, lease_s: float, at: datetime) -> JobClaim | None:
    """The most urgent due job, now this worker's for `lease_s` seconds; None where nothing is due.

    Between equals the oldest goes first. Two workers never get the same job: SQLite has one writer at a time, PostgreSQL
    passes over rows that another transaction has locked.
    """
    job = session.scalars(
        select(Job)
        .where(Job.state == JobState.SCHEDULED.value, Job.not_before <= at)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        return None
    values: dict[str, Any] = {
        "attempt": job.attempt + 1,
        "epoch": job.epoch + 1,
        "worker": worker,
        "lease_until": at + timedelta(seconds=lease_s),
        "started_at": at,
        "ended_at": None,
    }
    move_job(session, job, JobEvent.CLAIM, at=at, values=values, detail={"worker": worker})
    session.add(Attempt(job_id=job.id, number=job.attempt, epoch=job.epoch, worker=worker, started_at=at))
    session.flush()
    return JobClaim(job.id, job.epoch, job.attempt)


def heartbeat_job(session: Session, claim: JobClaim, *, lease_s: float, at: datetime) -> bool:
    """Renew the lease; False where the job is not ours any more and the run should stop."""
    result = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.epoch == claim.epoch, Job.state == JobState.IN_PROGRESS.value)
        .values(lease_until=at + timedelta(seconds=lease_s))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def finish_job(
    session: Session,
    claim: JobClaim,
    *,
    at: datetime,
    peak_memory_mb: float | None,
    outcome: str,
    summary: JsonObject,
    reason: str | None = None,
    detail: str | None = None,
) -> Job | None:
    """The job, now COMPLETED; None where the claim is old: then write nothing of the result, the drop has its event.

    `outcome` is the attempt's word, `completed` or `refused`.
    """
    values: dict[str, Any] = {"reason": reason, "detail": detail, "summary": summary, "ended_at": at}
    return _end(
        session, claim, JobEvent.FINISH, at=at, values=values, outcome=outcome, detail=detail, peak_memory_mb=peak_memory_mb
    )


def retry_job(
    session: Session, claim: JobClaim, *, at: datetime, not_before: datetime, outcome: str, detail: str | None
) -> Job | None:
    """The job, SCHEDULED again from `not_before` on; None where the claim is old."""
    values: dict[str, Any] = {"not_before": not_before, "detail": detail}
    return _end(session, claim, JobEvent.RETRY, at=at, values=values, outcome=outcome, detail=detail)


def give_up_job(
    session: Session,
    claim: JobClaim,
    *,
    at: datetime,
    reason: str,
    detail: str | None,
    summary: JsonObject | None,
    outcome: str = "given up",
    peak_memory_mb: float | None = None,
) -> Job | None:
    """The job, now FAILED with a reason code; None where the claim is old."""
    values: dict[str, Any] = {"reason": reason, "detail": detail, "summary": summary, "ended_at": at}
    return _end(
        session, claim, JobEvent.GIVE_UP, at=at, values=values, outcome=outcome, detail=detail, peak_memory_mb=peak_memory_mb
    )


def expire_job_leases(session: Session, *, at: datetime, dead_workers: Collection[str] = ()) -> list[int]:
    """Give the jobs of silent workers, and of those known to be dead, back to the queue; their ids.

    The attempt counts: who claims a job with more attempts than allowed gives it up without running it.
    """
    jobs = session.scalars(
        select(Job)
        .where(Job.state == JobState.IN_PROGRESS.value, or_(Job.lease_until < at, Job.worker.in_(dead_workers)))
        .order_by(Job.id)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for job in jobs:
        _end_attempt(session, job, at=at, outcome="lease expired", detail=None, peak_memory_mb=None)
        facts = {"worker": job.worker, "outcome": "lease expired"}
        move_job(session, job, JobEvent.LEASE_EXPIRED, at=at, values={**_FREE, "not_before": at}, detail=facts)
    return [job.id for job in jobs]


def resubmit_job(session: Session, job: Job, *, user: str | None, at: datetime) -> None:
    """Schedule a failed or cancelled job anew, with all its attempts before it. Raises InvalidMove."""
    values: dict[str, Any] = {
        **_FREE,
        "attempt": 0,
        "not_before": at,
        "reason": None,
        "detail": None,
        "summary": None,
        "ended_at": None,
    }
    move_job(session, job, JobEvent.RESUBMIT, at=at, values=values, user=user)


def cancel_open_jobs(session: Session, study: Study, *, at: datetime, keep: Collection[int] = ()) -> list[int]:
    """Cancel the study's waiting and running jobs except those in `keep`; their ids. A running one's result is dropped."""
    jobs = session.scalars(
        select(Job)
        .where(Job.study_id == study.id, Job.state.in_(OPEN_JOB_STATES), Job.id.not_in(keep))
        .order_by(Job.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for job in jobs:
        if job.state == JobState.IN_PROGRESS:
            _end_attempt(session, job, at=at, outcome="superseded", detail=None, peak_memory_mb=None)
        move_job(session, job, JobEvent.CANCEL, at=at, values={**_FREE, "ended_at": at})
    return [job.id for job in jobs]


def cancel_open_deliveries(session: Session, study: Study, *, at: datetime, reason: str = "study quarantined") -> list[int]:
    """Cancel the study's deliveries that are waiting or on their way; their ids."""
    deliveries = session.scalars(
        select(Delivery)
        .join(Job, Delivery.job_id == Job.id)
        .where(Job.study_id == study.id, Delivery.state.in_(OPEN_DELIVERY_STATES))
        .order_by(Delivery.id)
        .with_for_update(key_share=True, of=Delivery)
        .execution_options(populate_existing=True)
    ).all()
    for delivery in deliveries:
        values: dict[str, Any] = {"worker": None, "lease_until": None, "reason": reason, "ended_at": at}
        move_delivery(session, delivery, DeliveryEvent.CANCEL, at=at, values=values, detail={"reason": reason})
    return [delivery.id for delivery in deliveries]


_FREE: dict[str, Any] = {"worker": None, "lease_until": None}


def _end(
    session: Session,
    claim: JobClaim,
    event: JobEvent,
    *,
    at: datetime,
    values: dict[str, Any],
    outcome: str,
    detail: str | None,
    peak_memory_mb: float | None = None,
) -> Job | None:
    """Move the job where the claim still holds; otherwise note that the result was dropped."""
    job = session.scalars(
        select(Job).where(Job.id == claim.job_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    ).one()
    if job.epoch != claim.epoch or job.state != JobState.IN_PROGRESS:
        _note_dropped(session, job, claim, event, at=at)
        return None
    _end_attempt(session, job, at=at, outcome=outcome, detail=detail, peak_memory_mb=peak_memory_mb)
    facts: JsonObject = {"worker": job.worker, "outcome": outcome, "reason": values.get("reason")}
    move_job(session, job, event, at=at, values={**_FREE, **values}, detail=facts)
    return job


def _end_attempt(
    session: Session, job: Job, *, at: datetime, outcome: str, detail: str | None, peak_memory_mb: float | None
) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.epoch == job.epoch, Attempt.ended_at.is_(None))
        .values(ended_at=at, outcome=outcome, detail=detail, peak_memory_mb=peak_memory_mb)
    )


def _note_dropped(session: Session, job: Job, claim: JobClaim, event: JobEvent, *, at: datetime) -> None:
    append(
        session,
        EventKind.JOB_ENDED,
        at=at,
        outcome=EventOutcome.MINOR_FAILURE,
        study=job.study,
        model=job.model,
        model_digest=job.model_digest,
        job_id=job.id,
        detail={"dropped": event.value, "epoch": claim.epoch, "current epoch": job.epoch, "state": job.state},
    )
