"""The circuit breaker of each destination: after several connection failures in a row only a probe goes out now and then.

Kept as a row, so that a restart does not begin to knock again, and so that several senders count together.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, or_, select, update
from sqlalchemy.orm import Session

from storage.events import EventKind, EventOutcome, append
from storage.models import Circuit, Delivery
from storage.states import DeliveryState


def is_open(session: Session, destination: str) -> bool:
    """True where nothing but probes goes out to the destination."""
    circuit = session.get(Circuit, destination)
    return circuit is not None and circuit.opened_at is not None


def claim_probe(session: Session, destination: str, *, every_s: float, at: datetime) -> bool:
    """True where a probe of the open circuit is due and it is the caller who makes it; the next is due `every_s` later."""
    result = session.execute(
        update(Circuit)
        .where(Circuit.destination == destination, Circuit.opened_at.is_not(None))
        .where(or_(Circuit.next_probe_at.is_(None), Circuit.next_probe_at <= at))
        .values(next_probe_at=at + timedelta(seconds=every_s))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def note_failure(session: Session, destination: str, *, reason: str, opens_after: int, every_s: float, at: datetime) -> bool:
    """Count one connection failure; True where it opened the circuit."""
    circuit = _locked(session, destination)
    if circuit is None:
        circuit = Circuit(destination=destination, failures=0, changed_at=at)
        session.add(circuit)
    circuit.failures += 1
    circuit.reason = reason
    circuit.changed_at = at
    if circuit.opened_at is not None or circuit.failures < opens_after:
        return False
    circuit.opened_at = at
    circuit.next_probe_at = at + timedelta(seconds=every_s)
    facts = {"failures": circuit.failures, "reason": reason}
    append(session, EventKind.CIRCUIT_OPENED, at=at, outcome=EventOutcome.MINOR_FAILURE, peer=destination, detail=facts)
    return True


def note_success(session: Session, destination: str, *, retry_reasons: Collection[str], at: datetime) -> bool:
    """The destination answered: forget the failures; True where that closed the circuit.

    Then what waits for it because of one of `retry_reasons` is due at once, not when its own wait is over.
    """
    circuit = _locked(session, destination)
    if circuit is None or circuit.failures == 0:
        return False
    was_open = circuit.opened_at is not None
    failures, since = circuit.failures, circuit.opened_at
    circuit.failures, circuit.opened_at, circuit.next_probe_at, circuit.reason, circuit.changed_at = 0, None, None, None, at
    if not was_open:
        return False
    session.execute(
        update(Delivery)
        .where(Delivery.destination == destination, Delivery.state == DeliveryState.PENDING.value)
        .where(Delivery.not_before > at, Delivery.reason.in_(retry_reasons))
        .values(not_before=at)
        .execution_options(synchronize_session=False)
    )
    facts = {"failures": failures, "open since": since.isoformat() if since else None}
    append(session, EventKind.CIRCUIT_CLOSED, at=at, peer=destination, detail=facts)
    return True


def list_circuits(session: Session) -> list[Circuit]:
    """Every destination that ever failed, by name."""
    return list(session.scalars(select(Circuit).order_by(Circuit.destination)))


def _locked(session: Session, destination: str) -> Circuit | None:
    return session.scalars(
        select(Circuit).where(Circuit.destination == destination).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()
