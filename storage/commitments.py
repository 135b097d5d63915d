"""Requests to prove that an archive has what it acknowledged, and what came of them.

A request is a row before it goes out, so that its report finds it whichever association brings it, and however often
either side restarted meanwhile. Only a delivery that is still STORED, in the sending that the request was made for, is moved.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from storage.deliveries import commit_delivery, fail_commitment, refuse_stored
from storage.events import EventKind, EventOutcome, append
from storage.models import Commitment, Delivery, JsonObject
from storage.states import DeliveryState


class CommitmentKind(StrEnum):
    """How the proof is asked for."""

    COMMITMENT = "commitment"
    QUERY = "query"


class CommitmentState(StrEnum):
    """Where a request stands."""

    WAITING = "WAITING"
    """To be asked at `not_before`."""
    ASKED = "ASKED"
    """The archive took the request; its report is awaited until the deadline."""
    CONFIRMED = "CONFIRMED"
    FAILED = "FAILED"
    """The archive has not kept something, which was sent again or became a dead letter."""
    UNPROVABLE = "UNPROVABLE"
    """The archive can neither commit nor be asked: STORED is all that can be said."""
    SUPERSEDED = "SUPERSEDED"
    """The delivery went on without it."""


OPEN_STATES = (CommitmentState.WAITING.value, CommitmentState.ASKED.value)


def request_proof(
    session: Session, delivery: Delivery, *, kind: CommitmentKind, transaction_uid: str, timeout_s: float, at: datetime
) -> Commitment:
    """A request for the delivery just stored, due at once."""
    for earlier in open_requests(session, delivery):
        _end(earlier, CommitmentState.SUPERSEDED, at=at)
    commitment = Commitment(
        transaction_uid=transaction_uid,
        delivery=delivery,
        epoch=delivery.epoch,
        kind=kind.value,
        state=CommitmentState.WAITING.value,
        not_before=at,
        attempt=0,
        requested_at=at,
        deadline=at + timedelta(seconds=timeout_s),
    )
    session.add(commitment)
    session.flush()
    return commitment


def open_requests(session: Session, delivery: Delivery) -> list[Commitment]:
    """The delivery's requests that nothing has come of yet."""
    where = Commitment.delivery_id == delivery.id, Commitment.state.in_(OPEN_STATES)
    return list(session.scalars(select(Commitment).where(*where).order_by(Commitment.id)))


def claim_due(session: Session, destination: str, *, hold_s: float, at: datetime) -> Commitment | None:
    """One request to the destination that is to be asked now, or whose report is late; nobody else gets it for `hold_s`."""
    to_ask = and_(Commitment.state == CommitmentState.WAITING.value, Commitment.not_before <= at)
    late = and_(Commitment.state == CommitmentState.ASKED.value, Commitment.deadline <= at, Commitment.not_before <= at)
    commitment = session.scalars(
        select(Commitment)
        .join(Delivery, Commitment.delivery_id == Delivery.id)
        .where(Delivery.destination == destination, or_(to_ask, late))
        .order_by(Commitment.not_before, Commitment.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Commitment)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if commitment is None:
        return None
    if not still_stands(commitment):
        _end(commitment, CommitmentState.SUPERSEDED, at=at)
    commitment.not_before = at + timedelta(seconds=hold_s)
    commitment.attempt += 1
    session.flush()
    return commitment


def find(session: Session, transaction_uid: str) -> Commitment | None:
    """The request with this Transaction UID, locked; None where there never was one."""
    return session.scalars(
        select(Commitment)
        .where(Commitment.transaction_uid == transaction_uid)
        .with_for_update(of=Commitment)
        .execution_options(populate_existing=True)
    ).one_or_none()


def is_open(commitment: Commitment) -> bool:
    """True where an answer is still wanted."""
    return commitment.state in OPEN_STATES


def still_stands(commitment: Commitment) -> bool:
    """True where the delivery is still in the sending that the request was made for."""
    delivery = commitment.delivery
    return delivery.state == DeliveryState.STORED and delivery.epoch == commitment.epoch


def note_asked(session: Session, commitment: Commitment, *, at: datetime) -> None:
    """The archive took the request; a report that came even before stays."""
    if commitment.state == CommitmentState.WAITING:
        commitment.state = CommitmentState.ASKED.value
        commitment.not_before = commitment.deadline
        _tell(session, commitment, EventKind.COMMITMENT_REQUESTED, at=at, detail={})


def ask_later(commitment: Commitment, *, not_before: datetime, reason: str, detail: str) -> None:
    """Ask again then: the archive could not be reached, or does not show it yet."""
    if is_open(commitment):
        commitment.not_before, commitment.reason, commitment.detail = not_before, reason, detail


def turn_to_query(session: Session, commitment: Commitment, *, timeout_s: float, reason: str, detail: str, at: datetime) -> None:
    """Prove it by query instead, due at once."""
    commitment.kind = CommitmentKind.QUERY.value
    commitment.state = CommitmentState.WAITING.value
    commitment.not_before, commitment.deadline = at, at + timedelta(seconds=timeout_s)
    commitment.reason, commitment.detail = reason, detail
    facts: JsonObject = {"reason": reason, "instead": CommitmentKind.QUERY.value}
    _tell(session, commitment, EventKind.COMMITMENT_REPORTED, at=at, outcome=EventOutcome.MINOR_FAILURE, detail=facts)


def confirm(session: Session, commitment: Commitment, *, how: str, at: datetime) -> bool:
    """The archive has everything: the delivery becomes COMMITTED. False where it went on without this request."""
    if not still_stands(commitment):
        _end(commitment, CommitmentState.SUPERSEDED, at=at)
        return False
    commit_delivery(session, commitment.delivery, at=at, how=how)
    commitment.reason, commitment.detail = None, how
    _end(commitment, CommitmentState.CONFIRMED, at=at)
    return True


def give_up_proof(session: Session, commitment: Commitment, *, reason: str, detail: str, at: datetime) -> None:
    """The archive offers no way to ask: the delivery stays STORED."""
    commitment.reason, commitment.detail = reason, detail
    _end(commitment, CommitmentState.UNPROVABLE, at=at)
    facts: JsonObject = {"reason": reason}
    _tell(session, commitment, EventKind.COMMITMENT_REPORTED, at=at, outcome=EventOutcome.MINOR_FAILURE, detail=facts)


def failed_proofs(session: Session, delivery: Delivery) -> int:
    """How often the archive turned out not to have what it acknowledged, since the delivery was made or resubmitted."""
    since_epoch = delivery.epoch - delivery.attempt
    where = (
        Commitment.delivery_id == delivery.id,
        Commitment.state == CommitmentState.FAILED.value,
        Commitment.epoch > since_epoch,
    )
    return session.scalar(select(func.count(Commitment.id)).where(*where)) or 0


def count_requests(session: Session) -> dict[tuple[str, str], int]:
    """Requests by kind and state."""
    grouped = select(Commitment.kind, Commitment.state, func.count()).group_by(Commitment.kind, Commitment.state)
    return {(kind, state): count for kind, state, count in session.execute(grouped)}


def fail(
    session: Session,
    commitment: Commitment,
    missing: Collection[int],
    *,
    reason: str,
    detail: str,
    not_before: datetime | None,
    at: datetime,
) -> bool:
    """Send the result ids in `missing` again at `not_before`, or make a dead letter where it is None.

    False where the delivery went on without this request.
    """
    if not still_stands(commitment):
        _end(commitment, CommitmentState.SUPERSEDED, at=at)
        return False
    delivery = commitment.delivery
    commitment.reason, commitment.detail = reason, detail
    _end(commitment, CommitmentState.FAILED, at=at)
    if not_before is None:
        refuse_stored(session, delivery, missing, at=at, reason=reason, detail=detail)
    else:
        fail_commitment(session, delivery, missing, at=at, not_before=not_before, reason=reason)
    return True


def _end(commitment: Commitment, state: CommitmentState, *, at: datetime) -> None:
    commitment.state, commitment.ended_at = state.value, at


def _tell(
    session: Session,
    commitment: Commitment,
    kind: EventKind,
    *,
    at: datetime,
    detail: JsonObject,
    outcome: EventOutcome = EventOutcome.SUCCESS,
) -> None:
    job = commitment.delivery.job
    facts = {"delivery": commitment.delivery_id, "transaction uid": commitment.transaction_uid, **detail}
    append(
        session, kind, at=at, outcome=outcome, study=job.study, peer=commitment.delivery.destination, model=job.model,
        model_digest=job.model_digest, job_id=job.id, detail=facts,
    )  # fmt: skip
