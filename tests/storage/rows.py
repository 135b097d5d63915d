"""Rows for the storage tests: received objects, jobs and deliveries, with times that count in seconds from one moment."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import reception
from storage.database import Database
from storage.models import Delivery, DeliveryItem, Event, Job, Result, Study
from storage.reception import Receipt, ReceivedInstance
from storage.states import DeliveryState, JobState

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def at(seconds: float = 0.0) -> datetime:
    """A moment, in seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def digest(*parts: object) -> str:
    """A SHA-256 (hex) that differs where a part differs."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def received(study: str = "1.2.3", number: int = 1, **changes: Any) -> ReceivedInstance:
    """One MR image of a study; its digests follow its number and what was changed."""
    uid = f"{study}.1.{number}"
    made = ReceivedInstance(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=uid,
        sop_class_uid=MR,
        transfer_syntax_uid=EXPLICIT_LITTLE,
        patient_id="P1",
        issuer_of_patient_id="",
        patient_name="Doe^Jane",
        patient_birth_date="19700101",
        patient_sex="F",
        accession_number="A1",
        study_date="20260301",
        study_description="MR brain",
        modality="MR",
        series_number=1,
        series_description="FLAIR",
        path=path(uid),
        size=1000,
        digest=digest(uid, sorted(changes.items(), key=str)),
        pixel_digest=digest(uid, "pixels"),
        header={"modality": "MR", "image_position_lps": [0.0, 0.0, float(number)]},
        passive=False,
        own=False,
    )
    return replace(made, **changes)


def path(key: str, receipt: int = 0, area: str = "instances") -> str:
    """A path as the spool makes them."""
    name = hashlib.sha256(key.encode()).hexdigest()
    return f"{area}/{name[:2]}/{name}-{receipt:016x}"


def no_pixels(path: str, transfer_syntax_uid: str) -> str | None:
    """Stands where the spool would be asked; rows made here say their pixel digest themselves, or have no pixels."""
    return None


def take(database: Database, one: ReceivedInstance, *, peer: str = "PACS", seconds: float = 0.0) -> Receipt:
    """Record one object in its own transaction."""
    with database.write() as session:
        return reception.record(session, None, one, peer=peer, at=at(seconds), pixel_digest=no_pixels)


def the_study(session: Session, uid: str = "1.2.3") -> Study:
    """The row of a study."""
    return session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()


def kinds(database: Database) -> list[str]:
    """The kinds of all events, in order."""
    with database.read() as session:
        return list(session.scalars(select(Event.kind).order_by(Event.id)))


def add_job(session: Session, study: Study, name: str = "job", *, priority: int = 0, seconds: float = 0.0) -> Job:
    """A scheduled job; jobs of one study differ in their name."""
    job = Job(
        study=study,
        revision=study.revision,
        rule="flair",
        model="brain 1",
        model_digest=digest("model"),
        recipe="fast",
        recipe_digest=digest("recipe"),
        input_digest=digest(name),
        state=JobState.SCHEDULED,
        priority=priority,
        not_before=at(seconds),
        plan={},
        created_at=at(seconds),
    )
    session.add(job)
    session.flush()
    return job


def add_delivery(session: Session, job: Job, destination: str = "PACS", objects: int = 2, *, seconds: float = 0.0) -> Delivery:
    """A pending delivery of so many result objects."""
    for number in range(len(job.results) + 1, objects + 1):
        uid = f"2.25.{job.id}.{number}"
        result = Result(
            kind="SEG",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.66.4",
            sop_instance_uid=uid,
            series_instance_uid=f"2.25.{job.id}",
            path=path(uid, area="results"),
            size=10,
            digest=digest(number),
            created_at=at(seconds),
        )
        job.results.append(result)
    session.flush()
    delivery = Delivery(
        job=job, destination=destination, state=DeliveryState.PENDING, not_before=at(seconds), created_at=at(seconds)
    )
    delivery.items = [DeliveryItem(result=result) for result in job.results]
    session.add(delivery)
    session.flush()
    return delivery
