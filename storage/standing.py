"""The standing of a study, twice over: as SQL that filters and counts, and for a job's row in hand.

The current job of a rule is the newest one that was not canceled; of the current jobs of several rules the standing that comes
last in `Standing` shows.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, not_, or_, select
from sqlalchemy.orm import aliased

from storage.models import Job, Study
from storage.read_models import Standing
from storage.states import JobState, StudyState

BY_RANK = tuple(Standing)
RANK = {standing: rank for rank, standing in enumerate(BY_RANK)}
_BY_OUTCOME = {
    "findings": Standing.FINDINGS,
    "no finding": Standing.NO_FINDING,
    "refused": Standing.REFUSED,
    "failed": Standing.FAILED,
}


def standing_rank() -> ColumnElement[int]:
    """The rank of a study's standing, correlated to the `study` row of the enclosing statement."""
    newer = aliased(Job)
    replaced = exists().where(
        newer.study_id == Job.study_id,
        newer.rule == Job.rule,
        or_(newer.revision > Job.revision, and_(newer.revision == Job.revision, newer.id > Job.id)),
        newer.state != JobState.CANCELED,
    )
    current = (
        select(func.max(_job_rank()))
        .where(Job.study_id == Study.id, Job.state != JobState.CANCELED, not_(replaced))
        .correlate(Study)
        .scalar_subquery()
    )
    canceled = exists().where(Job.study_id == Study.id, Job.revision == Study.revision).correlate(Study)
    without_job = case((canceled, RANK[Standing.CANCELED]), else_=RANK[Standing.NEVER_SELECTED])
    return case(
        (Study.state == StudyState.QUARANTINED, RANK[Standing.QUARANTINED]),
        (Study.state == StudyState.RECEIVING, RANK[Standing.RECEIVING]),
        else_=func.coalesce(current, without_job),
    )


def _job_rank() -> ColumnElement[int]:
    outcome = Job.summary["outcome"].as_string()
    return case(
        (Job.state == JobState.IN_PROGRESS, RANK[Standing.RUNNING]),
        (Job.state == JobState.SCHEDULED, RANK[Standing.WAITING]),
        *((outcome == word, literal(RANK[standing])) for word, standing in _BY_OUTCOME.items()),
        else_=RANK[Standing.FAILED],
    )


def job_standing(job: Job) -> Standing:
    """The same as `_job_rank`, for a row in hand."""
    if job.state == JobState.IN_PROGRESS:
        return Standing.RUNNING
    if job.state == JobState.SCHEDULED:
        return Standing.WAITING
    if job.state == JobState.CANCELED:
        return Standing.CANCELED
    return _BY_OUTCOME.get((job.summary or {}).get("outcome", ""), Standing.FAILED)
