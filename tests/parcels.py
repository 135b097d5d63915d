"""Result sets that wait to be sent, without a run: a received image, a finished job, its objects in the spool."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pydicom import Dataset
from sqlalchemy import select

from dicom_node import ledger, proof, workflow
from dicom_node.settings import Destination
from dicom_node.workflow import Site, utc_now
from storage.models import Commitment, Delivery, Event, Job, Result, Study
from storage.spool import Area
from storage.states import JobState
from tests import studies
from tests.site import receive
from tests.studies import Plan

SMALL = Plan(slices=3, rows=32, columns=32)


def results(number: int = 0) -> list[Dataset]:
    """A report and a segmentation of a small study; another number, another study."""
    plan = replace(SMALL, study=f"parcel {number}")
    return [studies.structured_report(plan), studies.segmentation(studies.series(plan))]


def waiting(where: Site, objects: Sequence[Dataset], *, destination: str = "pacs") -> int:
    """Receive an image of the objects' study, and make a delivery of the objects that is due; the delivery's id."""
    plan = next(
        replace(SMALL, study=f"parcel {number}")
        for number in range(50)
        if studies.structured_report(replace(SMALL, study=f"parcel {number}")).StudyInstanceUID == objects[0].StudyInstanceUID
    )
    receive(where, studies.series(plan)[:1], at=utc_now())
    at = utc_now()
    with where.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == str(objects[0].StudyInstanceUID))).one()
        digest = hashlib.sha256(str(objects[0].SOPInstanceUID).encode()).hexdigest()
        job = Job(
            study=study, revision=1, rule="flair", model="brain 1", model_digest=digest, recipe="r", recipe_digest=digest,
            input_digest=digest, state=JobState.COMPLETED, priority=0, not_before=at, plan={}, created_at=at, ended_at=at,
        )  # fmt: skip
        session.add(job)
        session.flush()
        rows = []
        for one in objects:
            data = studies.part10(one)
            path = where.spool.write(Area.RESULTS, str(one.SOPInstanceUID), data)
            rows.append(
                Result(
                    job=job, kind=str(one.Modality), sop_class_uid=str(one.SOPClassUID), path=path, created_at=at,
                    sop_instance_uid=str(one.SOPInstanceUID), series_instance_uid=str(one.SeriesInstanceUID), size=len(data),
                    digest=hashlib.sha256(data).hexdigest(),
                )
            )  # fmt: skip
        session.add_all(rows)
        session.flush()
        ledger.make_deliveries(session, job, rows, {destination: None}, at=at)
        return job.deliveries[0].id


def state(where: Site, delivery_id: int) -> tuple[str, str | None]:
    """State and reason of a delivery."""
    with where.database.read() as session:
        row = session.get_one(Delivery, delivery_id)
        return row.state, row.reason


def requests(where: Site) -> list[Commitment]:
    """Every request for a proof, oldest first."""
    with where.database.read() as session:
        rows = list(session.scalars(select(Commitment).order_by(Commitment.id)))
        session.expunge_all()
        return rows


def kinds(where: Site) -> list[str]:
    """The kinds of all events, in order."""
    with where.database.read() as session:
        return list(session.scalars(select(Event.kind).order_by(Event.id)))


def until_idle(where: Site, destination: Destination) -> None:
    """Send and prove until nothing is due."""
    while workflow.deliver(where, destination, worker="s") or proof.prove(where, destination):
        continue
