"""Associations: who called, what the call brought, how it ended; one row each, and the events an audit asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from storage.events import EventKind, EventOutcome, append, storable
from storage.models import Association, Instance, Rejected, Series, Study
from storage.states import StudyState


def open_association(session: Session, *, calling: str, called: str, address: str, listener: str, at: datetime) -> int:
    """Note that a peer's association was accepted; its number for `record` and `close_association`."""
    association = Association(
        calling_ae_title=storable(calling)[:16],
        called_ae_title=storable(called)[:16],
        address=address,
        opened_at=at,
        listener=listener,
    )
    session.add(association)
    session.flush()
    detail = {"association": association.id, "called": association.called_ae_title}
    append(session, EventKind.ASSOCIATION_OPENED, at=at, peer=calling, address=address, detail=detail)
    return association.id


def refuse_association(session: Session, *, calling: str, called: str, address: str, reason: str, at: datetime) -> None:
    """Note that a peer's association was refused, and why."""
    append(
        session,
        EventKind.ASSOCIATION_REFUSED,
        at=at,
        outcome=EventOutcome.MINOR_FAILURE,
        peer=calling,
        address=address,
        detail={"called": storable(called), "reason": reason},
    )


def close_association(
    session: Session,
    association_id: int,
    *,
    outcome: str,
    at: datetime,
    repeated: Mapping[str, int] | None = None,
    is_empty: bool = False,
) -> None:
    """Note the association's end, with one event for each study it brought instances of.

    `outcome` is `released`, `aborted` or `interrupted`. `repeated` counts, by Study Instance UID, the objects that were REPEATED:
    they leave no row to count. `is_empty` says that it brought nothing, so that nobody need count. Closing a second time does
    nothing.
    """
    association = session.get_one(Association, association_id)
    if association.closed_at is not None:
        return
    association.closed_at = at
    association.outcome = outcome
    peer, address = association.calling_ae_title, association.address
    counts = [] if is_empty else _received_counts(session, association_id, repeated or {})
    ended_well = outcome == "released"
    for study, detail in counts:
        (_note_release if ended_well else _note_interruption)(session, study, peer)
        append(session, EventKind.INSTANCES_RECEIVED, at=at, study=study, peer=peer, address=address, detail=detail)
    append(
        session,
        EventKind.ASSOCIATION_CLOSED,
        at=at,
        outcome=EventOutcome.SUCCESS if ended_well else EventOutcome.MINOR_FAILURE,
        peer=peer,
        address=address,
        detail={
            "association": association_id,
            "outcome": outcome,
            "instances": {study.study_instance_uid: detail["instances"] for study, detail in counts},
        },
    )


def close_interrupted(session: Session, listener: str, at: datetime) -> int:
    """Close what the listener of this name left open when it was stopped or killed; how many."""
    left_open = session.scalars(
        select(Association.id).where(Association.listener == listener, Association.closed_at.is_(None)).order_by(Association.id)
    ).all()
    for association_id in left_open:
        close_association(session, association_id, outcome="interrupted", at=at)
    return len(left_open)


def _note_interruption(session: Session, study: Study, peer: str) -> None:
    """Keep that the peer's association was broken off; it gets the whole quiet time to come again."""
    session.execute(update(Study).where(Study.id == study.id).values(interrupted_by=peer))
    receiving = Study.id == study.id, Study.state == StudyState.RECEIVING.value
    session.execute(update(Study).where(*receiving).values(quiet_s=0.0))


def _note_release(session: Session, study: Study, peer: str) -> None:
    """The peer came again and ended in order; what another one left unfinished stays so."""
    session.execute(update(Study).where(Study.id == study.id, Study.interrupted_by == peer).values(interrupted_by=None))


def _received_counts(session: Session, association_id: int, repeated: Mapping[str, int]) -> list[tuple[Study, dict[str, int]]]:
    """For each study that the association brought something of: the study and what it brought."""
    rows = session.execute(
        select(Series.study_id, func.count(Instance.id))
        .join(Instance, Instance.series_id == Series.id)
        .where(Instance.association_id == association_id)
        .group_by(Series.study_id)
    )
    instances = {study_id: count for study_id, count in rows}  # noqa: C416  # a row is not a tuple to the type checker
    of_association = Rejected.association_id == association_id
    rejected = Counter(session.scalars(select(Rejected.study_id).where(of_association)))
    again = set(session.scalars(select(Study.id).where(Study.study_instance_uid.in_(repeated))))
    counts = []
    for study_id in sorted(instances.keys() | again | {one for one in rejected if one is not None}):
        study = session.get_one(Study, study_id)
        detail = {
            "association": association_id,
            "instances": instances.get(study_id, 0),
            "repeated": repeated.get(study.study_instance_uid, 0),
            "rejected": rejected.get(study_id, 0),
        }
        counts.append((study, detail))
    return counts
