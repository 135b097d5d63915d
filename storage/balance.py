"""What was received on one day against what became of it, study by study: nothing may be missing from the sum.

Every study of the day stands in exactly one place: answered (with proof, or without where none is asked), dead-lettered, refused,
or in the difference, with what is still open or was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from storage.events import EventKind
from storage.models import Delivery, Event, Instance, Job, Rejected, Series, Study
from storage.states import DeliveryState, JobState, StudyState


class Place(StrEnum):
    """Where a study of the day stands; of several deliveries the one later in this list decides."""

    REFUSED = "refused"
    """No rule selected it, it holds no image of others, or a person discarded it: nothing was to be sent."""
    PROVEN = "proven"
    """Every result is in its archive, by commitment or by query."""
    DELIVERED = "delivered"
    """Every result was acknowledged; no proof is asked of at least one destination."""
    DEAD_LETTER = "dead letter"
    UNPROVEN = "unproven"
    """Acknowledged, but the proof that is asked of the destination is not there."""
    OPEN = "open"
    """Still received, analysed, waiting or on its way, or waiting for a person to end its quarantine."""
    LOST = "lost"
    """A file or a delivery that should be there is not."""


DIFFERENCE = (Place.UNPROVEN, Place.OPEN, Place.LOST)


@dataclass(frozen=True, slots=True)
class Sent:
    """One delivery of a study of the day."""

    delivery_id: int
    destination: str
    state: DeliveryState
    place: Place
    reason: str | None


@dataclass(frozen=True, slots=True)
class StudyBalance:
    """One study of the day: what came, how it was answered, and what became of its results."""

    study_instance_uid: str
    accession_number: str
    received_from: str
    instances: int
    """Answered with Success on that day."""
    rejected: int
    """Answered with a failure on that day and kept aside (same SOP Instance UID, other content)."""
    state: StudyState
    jobs: dict[str, int]
    """Jobs by state."""
    deliveries: tuple[Sent, ...]
    place: Place
    text: str
    """Why it stands there."""


@dataclass(frozen=True, slots=True)
class DayBalance:
    """The whole day."""

    begin: datetime
    end: datetime
    studies: tuple[StudyBalance, ...]

    def count(self, place: Place) -> int:
        """Studies that stand there."""
        return sum(study.place is place for study in self.studies)

    @property
    def difference(self) -> tuple[StudyBalance, ...]:
        """The studies that are neither answered nor dead-lettered nor refused."""
        return tuple(study for study in self.studies if study.place in DIFFERENCE)


def day_balance(
    session: Session, *, begin: datetime, end: datetime, is_there: Callable[[str], bool], proving: Collection[str]
) -> DayBalance:
    """The balance of what was received from `begin` to before `end`.

    `is_there` tells whether the spool has a file; `proving` names the destinations that a proof is asked of.
    """
    received = _instances_by_study(session, begin, end)
    rejected = _rejected_by_study(session, begin, end)
    ids = sorted(received.keys() | rejected.keys())
    studies = [session.get_one(Study, one) for one in ids]
    return DayBalance(
        begin,
        end,
        tuple(_balance(session, one, received.get(one.id, 0), rejected.get(one.id, 0), is_there, proving) for one in studies),
    )


def _instances_by_study(session: Session, begin: datetime, end: datetime) -> dict[int, int]:
    rows = session.execute(
        select(Series.study_id, func.count(Instance.id))
        .join(Instance, Instance.series_id == Series.id)
        .where(Instance.received_at >= begin, Instance.received_at < end, Instance.own.is_(False))
        .group_by(Series.study_id)
    )
    return {row[0]: row[1] for row in rows}


def _rejected_by_study(session: Session, begin: datetime, end: datetime) -> dict[int, int]:
    rows = session.execute(
        select(Rejected.study_id, func.count(Rejected.id))
        .where(Rejected.received_at >= begin, Rejected.received_at < end, Rejected.study_id.is_not(None))
        .group_by(Rejected.study_id)
    )
    return {study_id: count for study_id, count in rows if study_id is not None}


def _balance(
    session: Session,
    study: Study,
    instances: int,
    rejected: int,
    is_there: Callable[[str], bool],
    proving: Collection[str],
) -> StudyBalance:
    sent = tuple(
        Sent(one.id, one.destination, DeliveryState(one.state), _place_of(one, proving), one.reason)
        for job in study.jobs
        for one in sorted(job.deliveries, key=lambda row: row.id)
        if one.state != DeliveryState.CANCELED
    )
    place, text = _verdict(session, study, sent, is_there)
    jobs: dict[str, int] = {}
    for job in study.jobs:
        jobs[job.state] = jobs.get(job.state, 0) + 1
    return StudyBalance(
        study.study_instance_uid, study.accession_number, study.received_from, instances, rejected,
        StudyState(study.state), jobs, sent, place, text,
    )  # fmt: skip


def _place_of(delivery: Delivery, proving: Collection[str]) -> Place:
    match DeliveryState(delivery.state):
        case DeliveryState.COMMITTED:
            return Place.PROVEN
        case DeliveryState.FAILED:
            return Place.DEAD_LETTER
        case DeliveryState.STORED:
            return Place.UNPROVEN if delivery.destination in proving else Place.DELIVERED
        case DeliveryState.PENDING | DeliveryState.SENDING:
            return Place.OPEN
        case DeliveryState.CANCELED:
            return Place.REFUSED


def _verdict(session: Session, study: Study, sent: Sequence[Sent], is_there: Callable[[str], bool]) -> tuple[Place, str]:
    """Where the study stands, and why; the first that applies."""
    missing = _missing_files(session, study, is_there)
    if missing:
        return Place.LOST, f"{missing} files are not in the spool"
    state = StudyState(study.state)
    if state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        return Place.OPEN, "still received" if state is StudyState.RECEIVING else "in quarantine, waits for a person"
    jobs = [job for job in study.jobs if job.state != JobState.CANCELED]
    waiting = [job for job in jobs if job.state in (JobState.SCHEDULED, JobState.IN_PROGRESS)]
    if waiting:
        return Place.OPEN, f"job {waiting[0].id} is {waiting[0].state}"
    silent = [job for job in jobs if not job.deliveries]
    if silent:
        return _silent(silent[0])
    if not sent:
        return Place.REFUSED, "discarded" if _is_discarded(session, study) else "no rule selected it"
    order = list(Place)
    worst = max(sent, key=lambda one: order.index(one.place))
    return worst.place, f"delivery {worst.delivery_id} to {worst.destination} is {worst.state}" + (
        f": {worst.reason}" if worst.reason else ""
    )


def _silent(job: Job) -> tuple[Place, str]:
    if job.state == JobState.FAILED:
        return Place.DEAD_LETTER, f"job {job.id} failed and no report of it could be made: {job.reason}"
    return Place.LOST, f"job {job.id} is {job.state} and has no delivery"


def _is_discarded(session: Session, study: Study) -> bool:
    where = Event.study_instance_uid == study.study_instance_uid, Event.kind == EventKind.STUDY_DISCARDED.value
    return session.scalar(select(Event.id).where(*where).limit(1)) is not None


def _missing_files(session: Session, study: Study, is_there: Callable[[str], bool]) -> int:
    of_the_study: ColumnElement[bool] = and_(Series.study_id == study.id, Instance.path.is_not(None))
    paths = session.scalars(select(Instance.path).join(Series, Instance.series_id == Series.id).where(of_the_study))
    return sum(path is not None and not is_there(path) for path in paths)
