"""Searching the events: what happened to an accession number, a study, a patient, a model, a peer, a user.

An accession number or patient ID also finds the events of every study that ever carried it, so that what
happened before a correction in the PACS is not lost. Pages go by row number, newest first; an export runs
oldest first in steps, each in its own short transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from storage.models import Event, JsonObject, Study

_DIGEST = re.compile(r"[0-9a-f]{8,64}")


class Reads(Protocol):
    """What can be read from: `storage.database.Database`."""

    def read(self) -> AbstractContextManager[Session]:
        """A session for reading."""
        ...


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events to find; every field that is set must hold."""

    accession_number: str = ""
    study_instance_uid: str = ""
    patient_id: str = ""
    peer: str = ""
    """AE title, destination name or network address of the other side."""
    model: str = ""
    """Name, `name version`, or the first eight or more digits of the digest."""
    user: str = ""
    kind: str = ""
    job_id: int | None = None
    since: datetime | None = None
    """At or after this time."""
    until: datetime | None = None
    """Before this time."""

    def as_json(self) -> JsonObject:
        """The fields that are set, for the record of the query itself."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in fields.items()
            if value not in ("", None)
        }


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One event."""

    id: int
    at: datetime
    kind: str
    outcome: str
    study_instance_uid: str | None
    patient_id: str | None
    accession_number: str | None
    peer: str | None
    address: str | None
    user: str | None
    model: str | None
    model_digest: str | None
    job_id: int | None
    detail: JsonObject


@dataclass(frozen=True, slots=True)
class AuditPage:
    """One page of events, newest first; `older` is the `before_id` of the next page, or None at the end."""

    rows: tuple[AuditRow, ...]
    total: int
    older: int | None


def search_audit(session: Session, chosen: AuditFilter, *, limit: int = 100, before_id: int | None = None) -> AuditPage:
    """One page of the events that the filter keeps, newest first, and how many there are in all."""
    conditions = _conditions(chosen)
    total = session.scalar(select(func.count()).select_from(Event).where(*conditions)) or 0
    statement = select(Event).where(*conditions).order_by(Event.id.desc()).limit(limit + 1)
    if before_id is not None:
        statement = statement.where(Event.id < before_id)
    rows = tuple(_row(event) for event in session.scalars(statement))
    return AuditPage(rows[:limit], total, rows[limit - 1].id if len(rows) > limit else None)


def stream_audit(database: Reads, chosen: AuditFilter, *, step: int = 1000) -> Iterator[AuditRow]:
    """Every event that the filter keeps, oldest first, without holding them all.

    What is appended after the first row was asked for is not included.
    """
    with database.read() as session:
        last = session.scalar(select(func.max(Event.id))) or 0
    done = 0
    conditions = _conditions(chosen)
    while True:
        with database.read() as session:
            statement = select(Event).where(*conditions, Event.id > done, Event.id <= last)
            rows = [_row(event) for event in session.scalars(statement.order_by(Event.id).limit(step))]
        yield from rows
        if len(rows) < step:
            return
        done = rows[-1].id


def study_events(session: Session, study_instance_uid: str, *, limit: int = 500) -> AuditPage:
    """The newest events of one study, and how many there are in all."""
    return search_audit(session, AuditFilter(study_instance_uid=study_instance_uid), limit=limit)


def _conditions(chosen: AuditFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if value := chosen.accession_number.strip():
        conditions.append(_of_identity(Event.accession_number, Study.accession_number, value))
    if value := chosen.patient_id.strip():
        conditions.append(_of_identity(Event.patient_id, Study.patient_id, value))
    if value := chosen.study_instance_uid.strip():
        conditions.append(Event.study_instance_uid == value)
    if value := chosen.peer.strip():
        conditions.append(or_(Event.peer == value, Event.address == value))
    if value := chosen.model.strip():
        conditions.append(_of_model(value))
    if value := chosen.user.strip():
        conditions.append(Event.user == value)
    if value := chosen.kind.strip():
        conditions.append(Event.kind == value)
    if chosen.job_id is not None:
        conditions.append(Event.job_id == chosen.job_id)
    if chosen.since is not None:
        conditions.append(Event.at >= chosen.since)
    if chosen.until is not None:
        conditions.append(Event.at < chosen.until)
    return conditions


def _of_identity(
    of_event: InstrumentedAttribute[str | None], of_study: InstrumentedAttribute[str], value: str
) -> ColumnElement[bool]:
    """Events that carry the value, and all events of studies that carry it now or once did."""
    now = select(Study.study_instance_uid).where(of_study == value)
    once = select(Event.study_instance_uid).where(of_event == value, Event.study_instance_uid.is_not(None))
    return or_(of_event == value, Event.study_instance_uid.in_(now), Event.study_instance_uid.in_(once))


def _of_model(value: str) -> ColumnElement[bool]:
    named = or_(Event.model == value, Event.model.startswith(value + " ", autoescape=True))
    if _DIGEST.fullmatch(value.lower()):
        return or_(named, Event.model_digest.startswith(value.lower()))
    return named


def _row(event: Event) -> AuditRow:
    return AuditRow(
        id=event.id,
        at=event.at,
        kind=event.kind,
        outcome=event.outcome,
        study_instance_uid=event.study_instance_uid,
        patient_id=event.patient_id,
        accession_number=event.accession_number,
        peer=event.peer,
        address=event.address,
        user=event.user,
        model=event.model,
        model_digest=event.model_digest,
        job_id=event.job_id,
        detail=event.detail,
    )
