"""What people look at: the list of studies, one study's whole story, the queue and the dead letters.

Everything here reads; no row is changed. A study's `Standing` is the one word that tells a clean scan
from one that was refused, failed, still waits, or was never selected by any rule. Events are read by
`storage.audit_search`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import Session, selectinload

from storage.models import Attempt, Delivery, DeliveryItem, Instance, Job, Rejected, Result, Series, Study
from storage.read_models import (
    AttemptRow,
    DeliveryRow,
    DestinationRow,
    ItemRow,
    JobRow,
    JobStory,
    QueueOverview,
    RejectedRow,
    ResultRow,
    SeriesRow,
    Standing,
    StudyFilter,
    StudyPage,
    StudyRow,
    StudyStory,
)
from storage.standing import BY_RANK, RANK, job_standing, standing_rank
from storage.states import DeliveryState, JobState, StudyState


def list_studies(session: Session, chosen: StudyFilter | None = None, *, offset: int = 0, limit: int = 50) -> StudyPage:
    """One page of the studies that the filter keeps, the newest activity first."""
    conditions = _study_conditions(chosen or StudyFilter())
    total = session.scalar(select(func.count()).select_from(Study).where(*conditions)) or 0
    order = (Study.last_received_at.desc(), Study.id.desc())
    ids = session.scalars(select(Study.id).where(*conditions).order_by(*order).offset(offset).limit(limit)).all()
    statement = select(Study, standing_rank().label("rank")).where(Study.id.in_(ids)).order_by(*order)
    found = [(study, rank) for study, rank in session.execute(statement)]
    return StudyPage(_study_rows(session, found), total, offset, limit)


def count_standings(session: Session) -> dict[Standing, int]:
    """How many studies stand where; standings that no study has are left out."""
    rank = standing_rank().label("rank")
    inner = select(rank).select_from(Study).subquery()
    counts = session.execute(select(inner.c.rank, func.count()).group_by(inner.c.rank))
    return {BY_RANK[number]: count for number, count in counts}


def study_id(session: Session, study_instance_uid: str) -> int | None:
    """The row number of the study with this UID, or None."""
    return session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid))


def study_story(session: Session, study_id: int) -> StudyStory | None:
    """Everything known of one study but its events, or None where there is no such row."""
    statement = select(Study, standing_rank().label("rank")).where(Study.id == study_id)
    rows = _study_rows(session, [(study, rank) for study, rank in session.execute(statement)])
    if not rows:
        return None
    rejected = session.scalars(select(Rejected).where(Rejected.study_id == study_id).order_by(Rejected.id))
    jobs = session.scalars(
        select(Job)
        .where(Job.study_id == study_id)
        .order_by(Job.id.desc())
        .options(selectinload(Job.attempts), selectinload(Job.results))
    ).all()
    deliveries: dict[int, list[DeliveryRow]] = defaultdict(list)
    for delivery in _delivery_rows(session, Delivery.job_id.in_([job.id for job in jobs])):
        deliveries[delivery.job_id].append(delivery)
    return StudyStory(
        study=rows[0],
        series=_series_rows(session, study_id),
        rejected=tuple(RejectedRow(one.sop_instance_uid, one.reason, one.received_at) for one in rejected),
        jobs=tuple(_job_story(job, deliveries[job.id]) for job in jobs),
    )


def queue_overview(session: Session) -> QueueOverview:
    """Studies, jobs and deliveries counted by state, and how long the oldest waiting ones wait."""
    waiting_delivery = Delivery.state.in_([DeliveryState.PENDING, DeliveryState.SENDING])
    return QueueOverview(
        studies={state: _count(session, Study.state == state) for state in StudyState},
        jobs={state: _count(session, Job.state == state) for state in JobState},
        deliveries={state: _count(session, Delivery.state == state) for state in DeliveryState},
        oldest_waiting_job=session.scalar(
            select(Job.created_at).where(Job.state == JobState.SCHEDULED).order_by(Job.created_at).limit(1)
        ),
        oldest_waiting_delivery=session.scalar(
            select(Delivery.created_at).where(waiting_delivery).order_by(Delivery.created_at).limit(1)
        ),
    )


def list_destinations(session: Session) -> tuple[DestinationRow, ...]:
    """Each destination that ever had a delivery, with what waits and when it last took everything."""
    counts: dict[str, dict[DeliveryState, int]] = defaultdict(dict)
    grouped = select(Delivery.destination, Delivery.state, func.count()).group_by(Delivery.destination, Delivery.state)
    for destination, state, count in session.execute(grouped):
        counts[destination][DeliveryState(state)] = count
    waiting = Delivery.state.in_([DeliveryState.PENDING, DeliveryState.SENDING])
    rows = session.execute(
        select(
            Delivery.destination,
            func.min(case((waiting, Delivery.created_at)), type_=Delivery.created_at.type),
            func.max(DeliveryItem.stored_at, type_=Delivery.created_at.type),
        )
        .outerjoin(DeliveryItem, DeliveryItem.delivery_id == Delivery.id)
        .group_by(Delivery.destination)
        .order_by(Delivery.destination)
    )
    return tuple(DestinationRow(name, counts[name], oldest, stored) for name, oldest, stored in rows)


def dead_letters(session: Session, *, limit: int = 200) -> tuple[DeliveryRow, ...]:
    """Deliveries that were given up, newest first; `fovea queue retry` sends one again."""
    return _delivery_rows(session, Delivery.state == DeliveryState.FAILED, limit=limit)


def failed_jobs(session: Session, *, limit: int = 200) -> tuple[JobRow, ...]:
    """Jobs that were given up, newest first; a person may resubmit them."""
    jobs = session.scalars(select(Job).where(Job.state == JobState.FAILED).order_by(Job.id.desc()).limit(limit))
    return tuple(_job_row(job) for job in jobs)


def waiting_jobs(session: Session, *, limit: int = 200) -> tuple[JobRow, ...]:
    """Jobs that wait or run, in the order in which they are taken."""
    jobs = session.scalars(
        select(Job)
        .where(Job.state.in_([JobState.SCHEDULED, JobState.IN_PROGRESS]))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(limit)
    )
    return tuple(_job_row(job) for job in jobs)


def _count(session: Session, condition: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).where(condition)) or 0


def _study_conditions(chosen: StudyFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if text := chosen.text.strip():
        conditions.append(
            or_(
                Study.accession_number.startswith(text, autoescape=True),
                Study.patient_id.startswith(text, autoescape=True),
                Study.study_instance_uid.startswith(text, autoescape=True),
                Study.patient_name.icontains(text, autoescape=True),
            )
        )
    if chosen.standing is not None:
        conditions.append(standing_rank() == RANK[chosen.standing])
    if chosen.since is not None:
        conditions.append(Study.last_received_at >= chosen.since)
    if chosen.until is not None:
        conditions.append(Study.last_received_at < chosen.until)
    return conditions


def _study_rows(session: Session, found: Sequence[tuple[Study, int]]) -> tuple[StudyRow, ...]:
    ids = [study.id for study, _ in found]
    contents = _contents(session, ids)
    jobs = _current_jobs(session, ids)
    deliveries = _delivery_counts(session, jobs)
    return tuple(
        _study_row(study, BY_RANK[rank], contents.get(study.id), jobs[study.id], deliveries[study.id]) for study, rank in found
    )


def _study_row(
    study: Study,
    standing: Standing,
    contents: tuple[tuple[str, ...], int] | None,
    jobs: Iterable[Job],
    deliveries: dict[DeliveryState, int],
) -> StudyRow:
    modalities, instances = contents or ((), 0)
    return StudyRow(
        id=study.id,
        study_instance_uid=study.study_instance_uid,
        state=StudyState(study.state),
        standing=standing,
        revision=study.revision,
        patient_name=study.patient_name,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        patient_birth_date=study.patient_birth_date,
        patient_sex=study.patient_sex,
        accession_number=study.accession_number,
        study_date=study.study_date,
        study_description=study.study_description,
        received_from=study.received_from,
        modalities=modalities,
        instances=instances,
        first_received_at=study.first_received_at,
        last_received_at=study.last_received_at,
        settled_at=study.settled_at,
        reason=study.reason,
        forced=study.forced,
        waits=study.waits,
        incomplete=study.incomplete,
        jobs=tuple(_job_row(job) for job in jobs),
        deliveries=deliveries,
    )


def _contents(session: Session, study_ids: Sequence[int]) -> dict[int, tuple[tuple[str, ...], int]]:
    """For each study: its modalities, sorted, and the number of its instances."""
    modalities: dict[int, set[str]] = defaultdict(set)
    instances: dict[int, int] = defaultdict(int)
    rows = session.execute(
        select(Series.study_id, Series.modality, func.count(Instance.id))
        .outerjoin(Instance, Instance.series_id == Series.id)
        .where(Series.study_id.in_(study_ids))
        .group_by(Series.study_id, Series.modality)
    )
    for study, modality, count in rows:
        modalities[study].add(modality or "?")
        instances[study] += count
    return {study: (tuple(sorted(modalities[study])), instances[study]) for study in instances}


def _current_jobs(session: Session, study_ids: Sequence[int]) -> dict[int, list[Job]]:
    """For each study: the newest job of each rule that was not canceled, oldest first."""
    newest: dict[tuple[int, str], Job] = {}
    jobs = session.scalars(select(Job).where(Job.study_id.in_(study_ids), Job.state != JobState.CANCELED))
    for job in sorted(jobs, key=lambda job: (job.revision, job.id)):
        newest[job.study_id, job.rule] = job
    current: dict[int, list[Job]] = defaultdict(list)
    for job in sorted(newest.values(), key=lambda job: job.id):
        current[job.study_id].append(job)
    return current


def _delivery_counts(session: Session, jobs: dict[int, list[Job]]) -> dict[int, dict[DeliveryState, int]]:
    study_of = {job.id: study for study, current in jobs.items() for job in current}
    counts: dict[int, dict[DeliveryState, int]] = defaultdict(lambda: defaultdict(int))
    rows = session.execute(
        select(Delivery.job_id, Delivery.state, func.count())
        .where(Delivery.job_id.in_(study_of))
        .group_by(Delivery.job_id, Delivery.state)
    )
    for job, state, count in rows:
        counts[study_of[job]][DeliveryState(state)] += count
    return counts


def _job_row(job: Job) -> JobRow:
    return JobRow(
        id=job.id,
        study_id=job.study_id,
        rule=job.rule,
        model=job.model,
        state=JobState(job.state),
        standing=job_standing(job),
        findings=len((job.summary or {}).get("findings", ())),
        reason=job.reason,
        attempt=job.attempt,
        not_before=job.not_before,
        created_at=job.created_at,
        ended_at=job.ended_at,
    )


def _series_rows(session: Session, study_id: int) -> tuple[SeriesRow, ...]:
    rows = session.execute(
        select(
            Series,
            func.count(Instance.id),
            func.coalesce(func.sum(Instance.size), 0),
            func.coalesce(func.sum(case((Instance.held, 1), else_=0)), 0),
            func.coalesce(func.sum(case((Instance.own, 1), else_=0)), 0),
        )
        .outerjoin(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study_id)
        .group_by(Series.id)
        .order_by(Series.series_number, Series.id)
    )
    return tuple(
        SeriesRow(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            series_number=series.series_number,
            description=series.description,
            instances=count,
            size=int(size),
            held=held,
            own=own,
        )
        for series, count, size, held, own in rows
    )


def _job_story(job: Job, deliveries: Sequence[DeliveryRow]) -> JobStory:
    return JobStory(
        row=_job_row(job),
        revision=job.revision,
        model_digest=job.model_digest,
        recipe=job.recipe,
        priority=job.priority,
        worker=job.worker,
        detail=job.detail,
        started_at=job.started_at,
        plan=job.plan,
        summary=job.summary,
        attempts=tuple(_attempt_row(one) for one in sorted(job.attempts, key=lambda one: one.id)),
        results=tuple(_result_row(one) for one in sorted(job.results, key=lambda one: one.id)),
        deliveries=tuple(deliveries),
    )


def _attempt_row(one: Attempt) -> AttemptRow:
    return AttemptRow(one.number, one.worker, one.started_at, one.ended_at, one.outcome, one.detail, one.peak_memory_mb)


def _result_row(result: Result) -> ResultRow:
    return ResultRow(
        result.kind,
        result.sop_instance_uid,
        result.series_instance_uid,
        result.size,
        result.digest,
        result.superseded,
        result.created_at,
    )


def _delivery_rows(session: Session, condition: ColumnElement[bool], limit: int | None = None) -> tuple[DeliveryRow, ...]:
    rows = session.execute(
        select(Delivery, Study.id, Study.study_instance_uid, Study.accession_number)
        .join(Job, Delivery.job_id == Job.id)
        .join(Study, Job.study_id == Study.id)
        .where(condition)
        .order_by(Delivery.id.desc())
        .limit(limit)
        .options(selectinload(Delivery.items).selectinload(DeliveryItem.result))
    )
    return tuple(
        DeliveryRow(
            id=delivery.id,
            job_id=delivery.job_id,
            study_id=study,
            study_instance_uid=uid,
            accession_number=accession,
            destination=delivery.destination,
            state=DeliveryState(delivery.state),
            attempt=delivery.attempt,
            not_before=delivery.not_before,
            reason=delivery.reason,
            detail=delivery.detail,
            created_at=delivery.created_at,
            ended_at=delivery.ended_at,
            items=tuple(
                ItemRow(one.result.kind, one.result.sop_instance_uid, one.stored_at, one.status, one.detail)
                for one in sorted(delivery.items, key=lambda one: one.id)
            ),
        )
        for delivery, study, uid, accession in rows
    )
