"""What a person may order: try again what failed, end a quarantine. Each order is an event with the person's name."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.explain import find_study
from dicom_node.intake import Command, Refused, examine
from dicom_node.kept_file import data_set_of
from dicom_node.workflow import utc_now
from storage import queue, reception
from storage.models import Delivery, Job, Study
from storage.spool import Spool
from storage.states import DeliveryState, InvalidMove, JobState, StudyState


def resubmit(session: Session, *, user: str, job_id: int | None, delivery_id: int | None, study: str) -> list[str]:
    """Put one failed job, one dead letter, or all of a study back into the queue; a line for each."""
    if job_id is not None:
        jobs = [_existing_job(session, job_id)]
        deliveries: list[Delivery] = []
    elif delivery_id is not None:
        jobs = []
        deliveries = [_existing_delivery(session, delivery_id)]
    else:
        found = find_study(session, study)
        jobs = list(session.scalars(select(Job).where(Job.study_id == found.id, Job.state == JobState.FAILED)))
        deliveries = list(
            session.scalars(select(Delivery).join(Job).where(Job.study_id == found.id, Delivery.state == DeliveryState.FAILED))
        )
    if jobs and jobs[0].study.state == StudyState.QUARANTINED:
        raise InvalidMove(f"study {jobs[0].study.study_instance_uid} is in quarantine: end that with `fovea release`")
    lines = []
    for job in jobs:
        queue.resubmit_job(session, job, user=user, at=utc_now())
        lines.append(f"job {job.id} ({job.rule}) is scheduled again")
    for delivery in deliveries:
        queue.resubmit_delivery(session, delivery, user=user, at=utc_now())
        lines.append(f"delivery {delivery.id} to {delivery.destination} is due again")
    return lines


def release(session: Session, spool: Spool, study: str, *, user: str, discard: bool, include_held: bool) -> tuple[str, list[str]]:
    """End a quarantine; what was done, and the files that may be deleted once this is committed."""
    found = find_study(session, study)
    if found.state != StudyState.QUARANTINED:
        raise InvalidMove(f"study {found.study_instance_uid} is {found.state}, not {StudyState.QUARANTINED}")
    if discard:
        paths = reception.discard(session, found.id, user=user, at=utc_now())
        return f"study {found.study_instance_uid} is discarded: {len(paths)} files", paths
    identity = _newest_identity(found, spool) if include_held else None
    reception.release(session, found.id, user=user, include_held=include_held, at=utc_now(), identity=identity)
    held = "with" if include_held else "without"
    return f"study {found.study_instance_uid} goes on {held} the held instances", []


def _newest_identity(study: Study, spool: Spool) -> dict[str, str] | None:
    """What the newest instance says of patient and study where it is a held one; the row has the others' already."""
    held = reception.held_instances(study)
    others = [one.received_at for series in study.series for one in series.instances if not one.held and not one.own]
    if not held or held[-1].path is None or held[-1].received_at < max(others, default=held[-1].received_at):
        return None
    newest = held[-1]
    command = Command(newest.sop_class_uid, newest.sop_instance_uid, newest.transfer_syntax_uid)
    try:
        return asdict(examine(data_set_of(spool.path(held[-1].path)), command).identity)
    except (OSError, Refused) as error:
        raise InvalidMove(f"the newest held instance {newest.sop_instance_uid} cannot be read: {type(error).__name__}") from error


def _existing_job(session: Session, job_id: int) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise InvalidMove(f"there is no job {job_id}")
    return job


def _existing_delivery(session: Session, delivery_id: int) -> Delivery:
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:
        raise InvalidMove(f"there is no delivery {delivery_id}")
    return delivery
