"""Which files may go, and when: received files, results and pictures of studies answered long ago. Rows and events stay."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import exists, not_, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from storage.commitments import OPEN_STATES as OPEN_COMMITMENT_STATES
from storage.jobs import OPEN_DELIVERY_STATES, OPEN_JOB_STATES
from storage.models import Commitment, Delivery, Instance, Job, Rejected, Result, Series, Study
from storage.moves import move_study
from storage.states import StudyEvent, StudyState

_AT_ONCE = 200
"""Studies purged in one transaction; the next tick takes the next ones."""


def expired(session: Session, *, keep_s: float, at: datetime) -> list[Study]:
    """Settled studies without an open job or delivery whose last image, job and delivery ended more than `keep_s` ago.

    A dead letter counts from the day it was given up. Purged studies that got a passive object since are among them.
    """
    before = at - timedelta(seconds=keep_s)
    statement = (
        select(Study)
        .where(
            or_(Study.state == StudyState.SETTLED.value, _purged_with_files()),
            Study.last_received_at < before,
            or_(Study.settled_at.is_(None), Study.settled_at < before),
            not_(_newer_instance(before)),
            not_(_unfinished_job(before)),
            not_(_unfinished_delivery(before)),
            not_(_unproven_delivery()),
        )
        .order_by(Study.id)
        .limit(_AT_ONCE)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def purge(session: Session, study: Study, *, at: datetime) -> list[str]:
    """Let go of the study's files; the paths to delete after the commit. Raises InvalidMove."""
    paths = forget_files(session, study)
    if study.state != StudyState.PURGED:
        move_study(session, study, StudyEvent.EXPIRE, at=at, detail={"files": len(paths)})
    return paths


def forget_files(session: Session, study: Study) -> list[str]:
    """Take every path out of the study's rows, and tell them: received, rejected, results, pictures."""
    session.flush()
    series_ids = select(Series.id).where(Series.study_id == study.id)
    job_ids = select(Job.id).where(Job.study_id == study.id)
    paths: list[str] = []
    for table, where in (
        (Instance, Instance.series_id.in_(series_ids)),
        (Rejected, Rejected.study_id == study.id),
        (Result, Result.job_id.in_(job_ids)),
    ):
        paths += [path for path in session.scalars(select(table.path).where(where)) if path is not None]
        session.execute(update(table).where(where).values(path=None).execution_options(synchronize_session="fetch"))
    for job in session.scalars(select(Job).where(Job.study_id == study.id)):
        paths += _forget_pictures(job)
    return paths


def _forget_pictures(job: Job) -> list[str]:
    pictures = (job.summary or {}).get("pictures", [])
    if pictures:
        job.summary = {**(job.summary or {}), "pictures": []}
    return [picture["path"] for picture in pictures]


def _purged_with_files() -> ColumnElement[bool]:
    of_the_study = Instance.series_id == Series.id, Series.study_id == Study.id
    return (Study.state == StudyState.PURGED.value) & exists().where(*of_the_study, Instance.path.is_not(None))


def _newer_instance(before: datetime) -> ColumnElement[bool]:
    of_the_study = Instance.series_id == Series.id, Series.study_id == Study.id
    return exists().where(*of_the_study, Instance.path.is_not(None), Instance.received_at >= before)


def _unfinished_job(before: datetime) -> ColumnElement[bool]:
    return exists().where(Job.study_id == Study.id, or_(Job.state.in_(OPEN_JOB_STATES), Job.ended_at >= before))


def _unfinished_delivery(before: datetime) -> ColumnElement[bool]:
    unfinished = or_(Delivery.state.in_(OPEN_DELIVERY_STATES), Delivery.ended_at >= before)
    return exists().where(Delivery.job_id == Job.id, Job.study_id == Study.id, unfinished)


def _unproven_delivery() -> ColumnElement[bool]:
    of_the_study = Commitment.delivery_id == Delivery.id, Delivery.job_id == Job.id, Job.study_id == Study.id
    return exists().where(*of_the_study, Commitment.state.in_(OPEN_COMMITMENT_STATES))
