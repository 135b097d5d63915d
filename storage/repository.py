"""How far the audit repository has the events: what is next for it, how long that waits, and when it is told that it is missed.

The events and their chain are the spool: nothing is copied, the order is the chain's, and a mark moves forward when the
repository took what lies before it. A repository that fails for longer than allowed is an event, and so is its return.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.events import EventKind, EventOutcome, append
from storage.models import Event, Repository, Seal

_NAME = "syslog"


@dataclass(frozen=True, slots=True)
class Unsent:
    """A chained event that the repository does not have."""

    sequence: int
    digest: str
    event: Event


def unsent(session: Session, *, limit: int) -> list[Unsent]:
    """The next events for the repository, in the order of the chain."""
    rows = session.execute(
        select(Seal.sequence, Seal.digest, Event)
        .join(Event, Event.id == Seal.event_id)
        .where(Seal.sequence > _taken(session))
        .order_by(Seal.sequence)
        .limit(limit)
    )
    return [Unsent(sequence, digest, event) for sequence, digest, event in rows]


def waiting_since(session: Session) -> datetime | None:
    """When the oldest event happened that the repository does not have, chained or not; None where it has them all."""
    last = session.scalar(select(Seal.event_id).where(Seal.sequence == _taken(session))) or 0
    return session.scalar(select(Event.at).where(Event.id > last).order_by(Event.id).limit(1))


def count_unsent(session: Session) -> int:
    """Chained events that the repository does not have."""
    return session.scalar(select(func.count()).select_from(Seal).where(Seal.sequence > _taken(session))) or 0


def is_failing(session: Session) -> bool:
    """True from a batch that the repository did not take until one that it did."""
    return session.scalar(select(Repository.failing_since).where(Repository.name == _NAME)) is not None


def note_taken(session: Session, sequence: int, *, at: datetime) -> None:
    """The repository has everything up to this place in the chain; its return is an event where its absence was one."""
    row = _locked(session, at)
    row.sequence = max(row.sequence, sequence)
    if row.alerted and row.failing_since is not None:
        silent_s = (at - row.failing_since).total_seconds()
        append(session, EventKind.AUDIT_STARTED, at=at, detail={"where": "repository", "silent for s": round(silent_s)})
    row.failing_since, row.reason, row.alerted, row.changed_at = None, None, False, at


def note_refused(session: Session, reason: str, *, alert_after_s: float, at: datetime) -> bool:
    """The repository took nothing; True where that is an alert now, which is written here, once."""
    row = _locked(session, at)
    row.failing_since = row.failing_since or at
    row.reason, row.changed_at = reason, at
    if row.alerted or at - row.failing_since < timedelta(seconds=alert_after_s):
        return False
    row.alerted = True
    detail = {"where": "repository", "reason": reason, "unsent": count_unsent(session)}
    append(session, EventKind.AUDIT_STOPPED, at=at, outcome=EventOutcome.SERIOUS_FAILURE, detail=detail)
    return True


def _taken(session: Session) -> int:
    return session.scalar(select(Repository.sequence).where(Repository.name == _NAME)) or 0


def _locked(session: Session, at: datetime) -> Repository:
    row = session.scalars(select(Repository).where(Repository.name == _NAME).with_for_update()).one_or_none()
    if row is None:
        row = Repository(name=_NAME, sequence=0, failing_since=None, reason=None, alerted=False, changed_at=at)
        session.add(row)
    return row
