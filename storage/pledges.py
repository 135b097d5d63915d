"""What peers asked this node to commit to, and which reports on it are still owed.

A request is a row before it is answered, so that a restart forgets no report. The same request again (a peer whose answer was
lost) is the same row, due once more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.events import EventKind, EventOutcome, append, storable
from storage.models import Instance, Pledge

_AT_ONCE = 500
FAILURES_TOLD = 50
"""Failed objects that an event names; it counts them all."""


class PledgeState(StrEnum):
    """Where a peer's request stands."""

    OPEN = "OPEN"
    """The report is owed at `not_before`."""
    REPORTED = "REPORTED"
    GIVEN_UP = "GIVEN_UP"


@dataclass(frozen=True, slots=True)
class Kept:
    """What a row says of an instance that was acknowledged; whether it is true only the file can tell."""

    sop_class_uid: str
    path: str | None
    digest: str


def request(
    session: Session, *, peer: str, address: str, transaction_uid: str, items: Mapping[str, str], hold_s: float, at: datetime
) -> Pledge:
    """The row of a request (SOP Instance UID to SOP Class UID); others leave it to the caller for `hold_s`."""
    wanted = dict(sorted(items.items()))
    earlier = session.scalars(
        select(Pledge)
        .where(Pledge.transaction_uid == transaction_uid, Pledge.peer == peer)
        .order_by(Pledge.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    not_before = at + timedelta(seconds=hold_s)
    pledge = next((one for one in earlier if one.items == wanted), None)
    if pledge is None:
        pledge = Pledge(
            peer=peer, address=address, transaction_uid=transaction_uid, items=wanted, is_duplicate=bool(earlier),
            state=PledgeState.OPEN.value, not_before=not_before, attempt=0, requested_at=at,
        )  # fmt: skip
        session.add(pledge)
    else:
        pledge.state, pledge.not_before, pledge.address, pledge.ended_at = PledgeState.OPEN.value, not_before, address, None
        pledge.attempt, pledge.requested_at = 0, at
    detail = {"transaction uid": transaction_uid, "objects": len(wanted)}
    append(session, EventKind.PLEDGE_REQUESTED, at=at, peer=peer, address=address, detail=detail)
    session.flush()
    return pledge


def claim_due(session: Session, *, hold_s: float, at: datetime) -> Pledge | None:
    """One request whose report is due, nobody else's for `hold_s`."""
    pledge = session.scalars(
        select(Pledge)
        .where(Pledge.state == PledgeState.OPEN.value, Pledge.not_before <= at)
        .order_by(Pledge.not_before, Pledge.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if pledge is not None:
        pledge.not_before = at + timedelta(seconds=hold_s)
        session.flush()
    return pledge


def let_go(session: Session, pledge_ids: Collection[int], *, at: datetime) -> None:
    """What was held and not begun is due: whoever comes next reports it, and need not wait until the hold is over."""
    due = update(Pledge).where(Pledge.id.in_(pledge_ids), Pledge.state == PledgeState.OPEN.value).values(not_before=at)
    session.execute(due)


def kept(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Kept]:
    """What rows say of the instances, by SOP Instance UID; unknown ones are not in it."""
    found: dict[str, Kept] = {}
    wanted = list(sop_instance_uids)
    columns = Instance.sop_instance_uid, Instance.sop_class_uid, Instance.path, Instance.digest
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        for uid, sop_class_uid, path, digest in session.execute(select(*columns).where(Instance.sop_instance_uid.in_(some))):
            found[uid] = Kept(sop_class_uid, path, digest)
    return found


def note_reported(session: Session, pledge_id: int, *, committed: int, failed: Mapping[str, int], how: str, at: datetime) -> None:
    """The peer took the report: so many committed, the others with their Failure Reason."""
    pledge = session.get_one(Pledge, pledge_id)
    pledge.state, pledge.ended_at, pledge.reason = PledgeState.REPORTED.value, at, None
    named = {uid: f"0x{reason:04X}" for uid, reason in list(failed.items())[:FAILURES_TOLD]}
    outcome = EventOutcome.MINOR_FAILURE if failed else EventOutcome.SUCCESS
    detail = {
        "transaction uid": pledge.transaction_uid, "committed": committed, "failed": len(failed), "reasons": named, "how": how,
    }  # fmt: skip
    append(session, EventKind.PLEDGE_REPORTED, at=at, outcome=outcome, peer=pledge.peer, address=pledge.address, detail=detail)


def note_not_reported(session: Session, pledge_id: int, *, reason: str, not_before: datetime | None, at: datetime) -> None:
    """The peer could not be told; again at `not_before`, or never where it is None."""
    pledge = session.get_one(Pledge, pledge_id)
    pledge.attempt += 1
    pledge.reason = storable(reason)
    if not_before is not None:
        pledge.not_before = not_before
        return
    pledge.state, pledge.ended_at = PledgeState.GIVEN_UP.value, at
    detail = {"transaction uid": pledge.transaction_uid, "reason": reason}
    append(
        session, EventKind.PLEDGE_REPORTED, at=at, outcome=EventOutcome.SERIOUS_FAILURE, peer=pledge.peer,
        address=pledge.address, detail=detail,
    )  # fmt: skip
