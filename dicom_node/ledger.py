"""Between rows and the values that routing, runs and sending speak: what a job is asked, and what its answer becomes.

Every function works in the caller's transaction and writes the events of what it does. Nothing here decides when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.arrival import Sought
from dicom_node.catalog import InstalledModel
from dicom_node.engine import DIED, FAILURES
from dicom_node.header import InstanceHeader
from dicom_node.outcome import Predecessor, ResultObject, SeriesInput
from dicom_node.routing import Decision, Plan, SeriesFacts, StudyFacts
from dicom_node.scu import Sent
from storage import events, queue
from storage.events import EventKind
from storage.models import Attempt, Delivery, DeliveryItem, Instance, Job, Result, Series, Study
from storage.queue import DeliveryClaim, JobClaim
from storage.spool import Spool
from storage.states import DeliveryState, JobState

QUARANTINED = "quarantined"
"""Reason of a job that was given up because its study ended the processes that ran it."""


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job as the rule wants it; the three digests make it unique within the study."""

    rule: str
    model: str
    model_digest: str
    recipe: str
    recipe_digest: str
    input_digest: str
    priority: int
    plan: Plan


def model_label(model: InstalledModel) -> str:
    """Name and version, as rows and people call the model."""
    return f"{model.card.name} {model.card.version}"


# ------------------------------------------------------------------------------------------- towards routing


def study_facts(session: Session, study: Study) -> StudyFacts:
    """What routing looks at: every series with the headers of its instances, our own results and held ones left out."""
    rows = session.execute(
        select(Series, Instance)
        .join(Instance, Instance.series_id == Series.id)
        .where(Series.study_id == study.id, Instance.own.is_(False), Instance.held.is_(False), Instance.path.is_not(None))
        .order_by(Series.id, Instance.sop_instance_uid)
    ).all()
    headers: dict[int, list[InstanceHeader]] = {}
    series_by_id: dict[int, Series] = {}
    for series, instance in rows:
        series_by_id[series.id] = series
        headers.setdefault(series.id, []).append(InstanceHeader.from_json(instance.header))
    facts = tuple(
        SeriesFacts(one.series_instance_uid, one.series_number, one.description, one.modality, tuple(headers[one.id]))
        for one in series_by_id.values()
    )
    return StudyFacts(study.received_from, facts)


def decision_detail(decision: Decision) -> dict[str, Any]:
    """The decision as an event keeps it."""
    return {
        "rule": decision.rule.name,
        "not applied": None if decision.not_applied is None else decision.not_applied.code,
        "analysed": None if decision.analysed is None else decision.analysed.series_instance_uid,
        "refusal": None if decision.refusal is None else decision.refusal.code,
        "passed over": {
            verdict.series.series_instance_uid: verdict.reason.code for verdict in decision.verdicts if verdict.reason is not None
        },
    }


def own_results(session: Session, study: Study) -> int:
    """How many objects this node has made for the study."""
    return session.scalar(select(func.count(Result.id)).join(Job, Result.job_id == Job.id).where(Job.study_id == study.id)) or 0


# ------------------------------------------------------------------------------------------- jobs


def input_digest(session: Session, study: Study, plan: Plan) -> str:
    """SHA-256 (hex) over what is analysed (each instance's UID and digest), the identity the results will carry, and what they
    say of how complete the study was.
    """
    rows = session.execute(
        select(Instance.sop_instance_uid, Instance.digest)
        .join(Series, Instance.series_id == Series.id)
        .where(Series.study_id == study.id, Series.series_instance_uid.in_(plan.analysed))
        .where(Instance.own.is_(False), Instance.held.is_(False), Instance.path.is_not(None))
        .order_by(Instance.sop_instance_uid)
    ).all()
    identity = (
        study.study_instance_uid, study.patient_id, study.issuer_of_patient_id, study.patient_name,
        study.patient_birth_date, study.patient_sex, study.accession_number,
    )  # fmt: skip
    incomplete = [*plan.remarks, plan.refusal.code if plan.refusal else ""] if plan.remarks else []
    return digest_of([*identity, *(part for row in rows for part in row), *incomplete])


def digest_of(parts: Sequence[str]) -> str:
    """SHA-256 (hex) over the parts, each with its length, so that no two lists look alike."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def want_job(session: Session, study: Study, order: JobOrder, *, at: datetime) -> Job:
    """The job for the order: a new one, the one that exists, or the one that was cancelled or quarantined and is wanted again."""
    existing = _same_job(session, study, order)
    if existing is not None and _is_outdated(session, existing):
        renewed = digest_of([order.input_digest, str(study.revision)])
        order = JobOrder(**{**_fields(order), "input_digest": renewed})
        existing = _same_job(session, study, order)
    if existing is None:
        return _new_job(session, study, order, at=at)
    was_poison = existing.state == JobState.FAILED and existing.reason == QUARANTINED  # and its study was released
    if existing.state == JobState.CANCELED or was_poison:
        existing.revision = study.revision
        existing.plan = order.plan.as_json()
        queue.resubmit_job(session, existing, user=None, at=at)
    return existing


def _fields(order: JobOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in JobOrder.__slots__}


def _same_job(session: Session, study: Study, order: JobOrder) -> Job | None:
    return session.scalars(
        select(Job).where(
            Job.study_id == study.id,
            Job.input_digest == order.input_digest,
            Job.model_digest == order.model_digest,
            Job.recipe_digest == order.recipe_digest,
        )
    ).one_or_none()


def _is_outdated(session: Session, job: Job) -> bool:
    """True where a later job's report has replaced this job's: wanting it again needs a new report, not the old one."""
    return session.scalars(select(Result.id).where(Result.job_id == job.id, Result.superseded)).first() is not None


def _new_job(session: Session, study: Study, order: JobOrder, *, at: datetime) -> Job:
    job = Job(
        study=study, revision=study.revision, rule=order.rule, model=order.model, model_digest=order.model_digest,
        recipe=order.recipe, recipe_digest=order.recipe_digest, input_digest=order.input_digest,
        state=JobState.SCHEDULED, priority=order.priority, not_before=at, plan=order.plan.as_json(), created_at=at,
    )  # fmt: skip
    session.add(job)
    session.flush()
    events.append(
        session, EventKind.JOB_CREATED, at=at, study=study, model=order.model, model_digest=order.model_digest, job_id=job.id,
        detail={"rule": order.rule, "recipe": order.recipe, "recipe digest": order.recipe_digest, "revision": study.revision},
    )  # fmt: skip
    return job


# ------------------------------------------------------------------------------------------- towards a run


def series_inputs(session: Session, study: Study, series_uids: Sequence[str], spool: Spool) -> tuple[SeriesInput, ...]:
    """The analysed series with their files."""
    inputs = []
    for uid in series_uids:
        series = session.scalars(select(Series).where(Series.study_id == study.id, Series.series_instance_uid == uid)).one()
        files = tuple(
            str(spool.path(one.path))
            for one in sorted(series.instances, key=lambda row: row.sop_instance_uid)
            if one.path is not None and not one.held and not one.own
        )
        inputs.append(SeriesInput(uid, series.series_number, series.description, series.modality, files))
    return tuple(inputs)


def taken_series_numbers(study: Study) -> tuple[int, ...]:
    """Series numbers that others use in the study."""
    numbers = {
        series.series_number
        for series in study.series
        if series.series_number is not None and not all(one.own for one in series.instances)
    }
    return tuple(sorted(numbers))


def newest_identity(study: Study) -> tuple[tuple[str, str], ...]:
    """The patient as the study's row has it, by keyword."""
    return (
        ("PatientID", study.patient_id),
        ("IssuerOfPatientID", study.issuer_of_patient_id),
        ("PatientName", study.patient_name),
        ("PatientBirthDate", study.patient_birth_date),
        ("PatientSex", study.patient_sex),
        ("AccessionNumber", study.accession_number),
    )


def first_started_at(session: Session, job: Job) -> datetime:
    """When the job's first run began; every later attempt tells the same time, so that it makes the same objects."""
    first = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.id)).first()
    return first.started_at if first is not None else job.created_at


def failed_runs(session: Session, claim: JobClaim) -> int:
    """How often the job's run itself failed since it was made or resubmitted; attempts lost with their worker do not count."""
    since_epoch = claim.epoch - claim.attempt
    return session.scalar(
        select(func.count())
        .select_from(Attempt)
        .where(Attempt.job_id == claim.job_id, Attempt.epoch > since_epoch, Attempt.outcome.in_(FAILURES))
    ) or 0  # fmt: skip


def deaths(session: Session, claim: JobClaim) -> int:
    """How many processes the study of the claimed job has ended."""
    return deaths_of(session, session.get_one(Job, claim.job_id).study)


def deaths_of(session: Session, study: Study) -> int:
    """How many processes the study ended since it settled: a person who releases it begins the count anew."""
    died = select(func.count()).select_from(Attempt).join(Job, Attempt.job_id == Job.id)
    since = study.settled_at or study.first_received_at
    return session.scalar(died.where(Job.study_id == study.id, Attempt.started_at >= since, Attempt.outcome == DIED)) or 0


def lease_holders(session: Session) -> set[str]:
    """The workers that hold a job or a delivery now."""
    jobs = session.scalars(select(Job.worker).where(Job.state == JobState.IN_PROGRESS))
    deliveries = session.scalars(select(Delivery.worker).where(Delivery.state == DeliveryState.SENDING))
    return {worker for worker in (*jobs, *deliveries) if worker is not None}


def supersede_undelivered(session: Session, job: Job, *, at: datetime) -> tuple[Predecessor, ...]:
    """The current reports that this job's report will replace; what of them nobody has received yet is called back."""
    reports = session.scalars(
        select(Result)
        .join(Job, Result.job_id == Job.id)
        .where(Job.study_id == job.study_id, (Job.model == job.model) | (Job.rule == job.rule))  # the rule's model may be newer
        .where(Result.kind == "SR", Result.superseded.is_(False))
        .where((Job.id != job.id) | (Job.state != JobState.COMPLETED))
        .order_by(Result.id)
    ).all()
    predecessors = []
    for report in reports:
        if _reached_somebody(session, report.job, at=at):
            predecessors.append(
                Predecessor(
                    job.study.study_instance_uid, report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid
                )
            )
        else:
            _supersede(report.job)
    return tuple(predecessors)


def _reached_somebody(session: Session, job: Job, *, at: datetime) -> bool:
    reached = False
    for delivery in job.deliveries:
        untouched = delivery.state == DeliveryState.PENDING and all(item.stored_at is None for item in delivery.items)
        if untouched:
            queue.cancel_delivery(session, delivery, at=at, reason="superseded")
        elif delivery.state != DeliveryState.CANCELED:
            reached = True
    return reached


def _supersede(job: Job) -> None:
    for result in job.results:
        result.superseded = True


# ------------------------------------------------------------------------------------------- what a run gave


def keep_results(
    session: Session, job: Job, objects: Sequence[tuple[ResultObject, str]], predecessors: Sequence[Predecessor], *, at: datetime
) -> list[Result]:
    """Rows for the result objects; the reports they replace are marked superseded with all that went with them."""
    replaced = [one.sop_instance_uid for one in predecessors]
    for report in session.scalars(select(Result).where(Result.sop_instance_uid.in_(replaced))):
        if report.job_id == job.id:
            report.superseded = True
        else:
            _supersede(report.job)
    results = []
    for one, path in objects:
        result = Result(
            job=job, kind=one.kind, sop_class_uid=one.sop_class_uid, sop_instance_uid=one.sop_instance_uid,
            series_instance_uid=one.series_instance_uid, path=path, size=len(one.data),
            digest=hashlib.sha256(one.data).hexdigest(), created_at=at,
        )  # fmt: skip
        session.add(result)
        results.append(result)
        detail = {"kind": one.kind, "sop instance uid": one.sop_instance_uid, "sha256": result.digest}
        events.append(
            session, EventKind.RESULT_CREATED, at=at, study=job.study, model=job.model, model_digest=job.model_digest,
            job_id=job.id, detail=detail,
        )  # fmt: skip
    session.flush()
    return results


def make_deliveries(
    session: Session, job: Job, results: Sequence[Result], wanted: Mapping[str, Collection[str] | None], *, at: datetime
) -> None:
    """One delivery per destination, due at once, of the kinds it wants (None: all). A resubmitted job's are extended."""
    for name, kinds in wanted.items():
        existing = next((one for one in job.deliveries if one.destination == name), None)
        if existing is None:
            existing = Delivery(job=job, destination=name, state=DeliveryState.PENDING, not_before=at, created_at=at)
            session.add(existing)
        else:
            queue.reopen_delivery(session, existing, at=at)
        for result in results:
            if kinds is None or result.kind in kinds:
                existing.items.append(DeliveryItem(result=result))
    session.flush()


# ------------------------------------------------------------------------------------------- towards a peer


@dataclass(frozen=True, slots=True)
class Unsent:
    """One result object that a destination has not acknowledged."""

    result_id: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str


def unsent_items(session: Session, delivery_id: int, spool: Spool) -> tuple[Unsent, ...]:
    """What of the delivery is still to be sent."""
    delivery = session.get_one(Delivery, delivery_id)
    return tuple(
        Unsent(item.result_id, spool.path(item.result.path), item.result.sop_class_uid, item.result.sop_instance_uid)
        for item in sorted(delivery.items, key=lambda one: one.id)
        if item.stored_at is None and item.result.path is not None
    )


def sought_items(delivery: Delivery, spool: Spool) -> tuple[Sought, ...]:
    """What the destination has acknowledged of the delivery and should hold now."""
    study_instance_uid = delivery.job.study.study_instance_uid
    return tuple(
        Sought(
            item.result_id, spool.path(item.result.path), study_instance_uid, item.result.series_instance_uid,
            item.result.sop_class_uid, item.result.sop_instance_uid,
        )
        for item in sorted(delivery.items, key=lambda one: one.id)
        if item.result.path is not None
    )  # fmt: skip


def note_sent(session: Session, claim: DeliveryClaim, waiting: Sequence[Unsent], sent: Sent, *, at: datetime) -> None:
    """Write down what the destination answered for one object."""
    result_id = next(one.result_id for one in waiting if one.sop_instance_uid == sent.sop_instance_uid)
    if sent.stored:
        queue.item_stored(session, claim, result_id, status=sent.status, at=at, detail=sent.detail or None)
    else:
        queue.item_failed(session, claim, result_id, status=sent.status or None, detail=sent.detail or None)
