"""The queue of deliveries: one job's result set on its way to one destination, with the state of each object.

Fenced like jobs: a sender that lost its lease can note nothing more. What a destination has acknowledged stays acknowledged
over every retry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, exists, func, or_, select, update
from sqlalchemy.orm import Session

from storage.models import Delivery, DeliveryItem
from storage.moves import move_delivery
from storage.states import DeliveryEvent, DeliveryState


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """The right to send a delivery, for as long as the row has this epoch."""

    delivery_id: int
    epoch: int
    attempt: int
    """1 for the first attempt."""


def claim_delivery(
    session: Session, *, worker: str, lease_s: float, at: datetime, destinations: Collection[str] | None = None
) -> DeliveryClaim | None:
    """The oldest due delivery (to one of `destinations`, where given), now this worker's; None where nothing is due."""
    due = [Delivery.state == DeliveryState.PENDING.value, Delivery.not_before <= at]
    if destinations is not None:
        due.append(Delivery.destination.in_(destinations))
    delivery = session.scalars(
        select(Delivery)
        .where(*due)
        .order_by(Delivery.not_before, Delivery.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if delivery is None:
        return None
    values: dict[str, Any] = {
        "attempt": delivery.attempt + 1,
        "epoch": delivery.epoch + 1,
        "worker": worker,
        "lease_until": at + timedelta(seconds=lease_s),
        "ended_at": None,
    }
    move_delivery(session, delivery, DeliveryEvent.CLAIM, at=at, values=values, detail={"worker": worker})
    session.flush()
    return DeliveryClaim(delivery.id, delivery.epoch, delivery.attempt)


def heartbeat_delivery(session: Session, claim: DeliveryClaim, *, lease_s: float, at: datetime) -> bool:
    """Renew the lease; False where the delivery is not ours any more and sending should stop."""
    result = session.execute(
        update(Delivery)
        .where(Delivery.id == claim.delivery_id, Delivery.epoch == claim.epoch, Delivery.state == DeliveryState.SENDING.value)
        .values(lease_until=at + timedelta(seconds=lease_s))
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def item_stored(
    session: Session, claim: DeliveryClaim, result_id: int, *, status: str, at: datetime, detail: str | None = None
) -> bool:
    """Note that the destination acknowledged one object, with the DIMSE status as `0xNNNN`; False where the claim is old."""
    return _note_item(session, claim, result_id, {"stored_at": at, "status": status, "detail": detail})


def item_failed(session: Session, claim: DeliveryClaim, result_id: int, *, status: str | None, detail: str | None = None) -> bool:
    """Note what the destination answered instead; None for no answer at all. False where the claim is old."""
    return _note_item(session, claim, result_id, {"status": status, "detail": detail})


def finish_delivery(session: Session, claim: DeliveryClaim, *, at: datetime) -> Delivery | None:
    """The delivery, now STORED; None where the claim is old.

    Where objects were added while it was on its way, it is PENDING again and due at once instead.
    """
    delivery = _claimed(session, claim)
    if delivery is None:
        return None
    unsent = session.scalar(
        select(func.count(DeliveryItem.id)).where(DeliveryItem.delivery_id == delivery.id, DeliveryItem.stored_at.is_(None))
    )
    if unsent:
        facts = {"reason": "objects not yet sent", "objects": unsent}
        move_delivery(session, delivery, DeliveryEvent.RETRY, at=at, values={**_FREE, "not_before": at}, detail=facts)
        return delivery
    values: dict[str, Any] = {**_FREE, "reason": None, "detail": None, "ended_at": at}
    move_delivery(session, delivery, DeliveryEvent.ALL_STORED, at=at, values=values)
    return delivery


def retry_delivery(
    session: Session,
    claim: DeliveryClaim,
    *,
    at: datetime,
    not_before: datetime,
    reason: str | None = None,
    detail: str | None = None,
) -> Delivery | None:
    """The delivery, PENDING again from `not_before` on; None where the claim is old."""
    delivery = _claimed(session, claim)
    if delivery is not None:
        values: dict[str, Any] = {**_FREE, "not_before": not_before, "reason": reason, "detail": detail}
        move_delivery(session, delivery, DeliveryEvent.RETRY, at=at, values=values, detail={"reason": reason})
    return delivery


def refuse_delivery(
    session: Session, claim: DeliveryClaim, *, at: datetime, reason: str, detail: str | None = None
) -> Delivery | None:
    """The delivery, now FAILED, a dead letter that a person may resubmit; None where the claim is old."""
    delivery = _claimed(session, claim)
    if delivery is not None:
        values: dict[str, Any] = {**_FREE, "reason": reason, "detail": detail, "ended_at": at}
        move_delivery(session, delivery, DeliveryEvent.REFUSED, at=at, values=values, detail={"reason": reason})
    return delivery


def resubmit_delivery(session: Session, delivery: Delivery, *, user: str | None, at: datetime) -> None:
    """Send a dead letter again; what was acknowledged is not sent twice. Raises InvalidMove."""
    move_delivery(session, delivery, DeliveryEvent.RESUBMIT, at=at, values=_anew(at), user=user)


def reopen_delivery(session: Session, delivery: Delivery, *, at: datetime) -> None:
    """Make it due again for objects that are added to it; one that is waiting or on its way stays as it is."""
    if delivery.state not in (DeliveryState.PENDING, DeliveryState.SENDING):
        move_delivery(session, delivery, DeliveryEvent.EXTEND, at=at, values=_anew(at))


def cancel_delivery(session: Session, delivery: Delivery, *, at: datetime, reason: str) -> None:
    """Call the delivery back. Raises InvalidMove where it has ended already."""
    values: dict[str, Any] = {**_FREE, "reason": reason, "ended_at": at}
    move_delivery(session, delivery, DeliveryEvent.CANCEL, at=at, values=values, detail={"reason": reason})


def commit_delivery(session: Session, delivery: Delivery, *, at: datetime, how: str) -> None:
    """Note the proof that a stored delivery is in the archive: `commitment` or `query`. Raises InvalidMove."""
    move_delivery(session, delivery, DeliveryEvent.COMMIT, at=at, values={"ended_at": at}, detail={"how": how})


def fail_commitment(
    session: Session, delivery: Delivery, missing: Collection[int], *, at: datetime, not_before: datetime, reason: str
) -> None:
    """Send the result ids in `missing` again: the archive has not kept them. Raises InvalidMove."""
    _forget_stored(session, delivery, missing)
    values: dict[str, Any] = {"not_before": not_before, "reason": reason, "ended_at": None}
    facts = {"reason": reason, "objects": len(missing)}
    move_delivery(session, delivery, DeliveryEvent.COMMIT_FAILED, at=at, values=values, detail=facts)


def refuse_stored(
    session: Session, delivery: Delivery, missing: Collection[int], *, at: datetime, reason: str, detail: str
) -> None:
    """Make a dead letter of what the archive acknowledges and never keeps; resubmitting sends `missing`. Raises InvalidMove."""
    _forget_stored(session, delivery, missing)
    values: dict[str, Any] = {"reason": reason, "detail": detail, "ended_at": at}
    facts = {"reason": reason, "objects": len(missing)}
    move_delivery(session, delivery, DeliveryEvent.REFUSED, at=at, values=values, detail=facts)


def expire_delivery_leases(session: Session, *, at: datetime, dead_workers: Collection[str] = ()) -> list[int]:
    """Give the deliveries of silent senders, and of those known to be dead, back to the queue; their ids."""
    deliveries = session.scalars(
        select(Delivery)
        .where(Delivery.state == DeliveryState.SENDING.value, or_(Delivery.lease_until < at, Delivery.worker.in_(dead_workers)))
        .order_by(Delivery.id)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for delivery in deliveries:
        facts = {"worker": delivery.worker, "reason": "lease expired"}
        move_delivery(session, delivery, DeliveryEvent.LEASE_EXPIRED, at=at, values={**_FREE, "not_before": at}, detail=facts)
    return [delivery.id for delivery in deliveries]


_FREE: dict[str, Any] = {"worker": None, "lease_until": None}


def _forget_stored(session: Session, delivery: Delivery, result_ids: Collection[int]) -> None:
    session.execute(
        update(DeliveryItem)
        .where(DeliveryItem.delivery_id == delivery.id, DeliveryItem.result_id.in_(result_ids))
        .values(stored_at=None)
    )


def _anew(at: datetime) -> dict[str, Any]:
    return {**_FREE, "attempt": 0, "not_before": at, "reason": None, "detail": None, "ended_at": None}


def _claimed(session: Session, claim: DeliveryClaim) -> Delivery | None:
    """The delivery, locked, where the claim still holds."""
    return session.scalars(
        select(Delivery)
        .where(Delivery.id == claim.delivery_id, Delivery.epoch == claim.epoch, Delivery.state == DeliveryState.SENDING.value)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one_or_none()


def _note_item(session: Session, claim: DeliveryClaim, result_id: int, values: dict[str, Any]) -> bool:
    still_ours = exists().where(
        Delivery.id == claim.delivery_id, Delivery.epoch == claim.epoch, Delivery.state == DeliveryState.SENDING.value
    )
    result = session.execute(
        update(DeliveryItem)
        .where(DeliveryItem.delivery_id == claim.delivery_id, DeliveryItem.result_id == result_id, still_ours)
        .values(**values)
        .execution_options(synchronize_session="fetch")
    )
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
