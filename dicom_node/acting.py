"""What a person may order: try again what failed, end a quarantine. Each order is an event with the person's name."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.explain import find_study
from dicom_node.workflow import utc_now
from storage import queue, reception
from storage.models import Delivery, Job
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
    lines = []
    for job in jobs:
        queue.resubmit_job(session, job, user=user, at=utc_now())
        lines.append(f"job {job.id} ({job.rule}) is scheduled again")
    for delivery in deliveries:
        queue.resubmit_delivery(session, delivery, user=user, at=utc_now())
        lines.append(f"delivery {delivery.id} to {delivery.destination} is due again")
    return lines


def release(session: Session, study: str, *, user: str, discard: bool, include_held: bool) -> tuple[str, list[str]]:
    """End a quarantine; what was done, and the files that may be deleted once this is committed."""
    found = find_study(session, study)
    if found.state != StudyState.QUARANTINED:
        raise InvalidMove(f"study {found.study_instance_uid} is {found.state}, not {StudyState.QUARANTINED}")
    if discard:
        paths = reception.discard(session, found.id, user=user, at=utc_now())
        return f"study {found.study_instance_uid} is discarded: {len(paths)} files", paths
    reception.release(session, found.id, user=user, include_held=include_held, at=utc_now())
    held = "with" if include_held else "without"
    return f"study {found.study_instance_uid} goes on {held} the held instances", []


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
