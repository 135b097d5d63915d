"""The hash chain over the events: whoever changes, removes, adds or reorders a row later is found out.

digest(n) = SHA-256(digest(n - 1) as hex, canonical JSON of event n), digest(0) = 64 zeros. Written after the event's own
transaction, so that senders never wait for the chain. The head is anchored outside (`storage.anchor`): without an anchor, whoever
owns the database could cut the chain's end or compute the whole of it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, func, insert, select, text
from sqlalchemy.orm import Session

from storage.anchor import Anchor, Head, is_authentic
from storage.models import Event, Seal

START = "0" * 64
WINDOW = 20_000
"""How far an event's number may lie behind the newest sealed one and still be on its way: numbers are given before commits."""
_SEAL_LOCK = 0x5365616C
"""Key of PostgreSQL's advisory lock that keeps a second sealer waiting: "Seal" in ASCII."""
_COMPARED_AT_MOST = 100
SEALED = (
    "id",
    "at",
    "kind",
    "outcome",
    "study_instance_uid",
    "patient_id",
    "accession_number",
    "peer",
    "address",
    "user",
    "model",
    "model_digest",
    "job_id",
    "detail",
)
"""The columns under the chain. Written out, since a column that a later schema adds must not change old digests."""
_COLUMNS = tuple(Event.__table__.columns[name] for name in SEALED)

# The columns of one event, in the order of the table.
EventRow: TypeAlias = Row[Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One place where the events or the chain are not as they were."""

    text: str
    sequence: int | None = None
    event_id: int | None = None
    anchor: int | None = None
    """Sequence of the anchor that tells."""


def seal(session: Session, *, at: datetime, limit: int = 5000) -> int:
    """Chain the next unsealed events in the order of their numbers, at most `limit`; how many were."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SEAL_LOCK})
    last = head(session)
    digest, sequence = (START, 0) if last is None else (last.digest, last.sequence)
    newest = session.scalar(select(func.max(Seal.event_id))) or 0
    rows: list[dict[str, Any]] = []
    for event in session.execute(_unsealed(newest - WINDOW).limit(limit)):
        sequence += 1
        digest = _link(digest, event)
        rows.append({"sequence": sequence, "event_id": event.id, "digest": digest, "sealed_at": at})
    if rows:
        session.execute(insert(Seal), rows)
    return len(rows)


def head(session: Session) -> Head | None:
    """The chain's last link; None while nothing is sealed."""
    row = session.execute(select(Seal.sequence, Seal.digest).order_by(Seal.sequence.desc()).limit(1)).one_or_none()
    return None if row is None else Head(row.sequence, row.digest)


def verify(session: Session, anchors: Iterable[Anchor] = (), key: bytes | None = None) -> list[Fault]:
    """Every fault in events and chain, empty where all is well; rows are streamed.

    With anchors also a chain that was cut or computed anew; with `key` their MAC, too. Events that are newer than the last
    seal are not yet protected and not looked at.
    """
    known = list(anchors)
    faults: list[Fault] = []
    digests: dict[int, str] = {}
    wanted = {anchor.sequence for anchor in known}
    suspects: list[_Suspect] = []
    previous, expected = START, 1
    for row in session.execute(_chain()):
        missing = range(expected, row.sequence)
        if missing:
            faults.append(_missing_sequences(missing))
        elif row.id is None:
            faults.append(Fault(f"event {row.event_id} is missing", row.sequence, row.event_id))
        elif _link(previous, row) != row.digest:
            suspects.append(_Suspect(row.sequence, row, previous))
        if row.sequence in wanted:
            digests[row.sequence] = row.digest
        previous, expected = row.digest, row.sequence + 1
    faults += _judge(suspects)
    faults += _never_sealed(session)
    faults += _against_anchors(known, digests, last=expected - 1, key=key)
    return faults


def canonical(event: Event | EventRow) -> bytes:
    """The event as UTF-8 JSON that is the same for the same content: keys sorted, no spaces, times in UTC to the microsecond."""
    values = {name: _plain(getattr(event, name)) for name in SEALED}
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


def _link(previous: str, event: Event | EventRow) -> str:
    return hashlib.sha256(previous.encode() + canonical(event)).hexdigest()


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A link whose digest does not follow from its event and the link before it."""

    sequence: int
    row: EventRow
    previous: str


def _judge(suspects: list[_Suspect]) -> Iterator[Fault]:
    """Changed, or only in another order: then another suspect's event gives one of the suspects' digests."""
    compared = suspects[:_COMPARED_AT_MOST]
    digests = {suspect.row.digest for suspect in compared}
    for suspect in suspects:
        others = (other for other in compared if _link(suspect.previous, other.row) in digests)
        other = next(others, None) if suspect in compared else None
        if other is not None:
            where = f"sequence {suspect.sequence}: reordered, event {other.row.id} belongs here"
            yield Fault(where, suspect.sequence, suspect.row.id)
        else:
            yield Fault(f"event {suspect.row.id} ({suspect.row.kind}) was changed", suspect.sequence, suspect.row.id)


def _missing_sequences(missing: range) -> Fault:
    if len(missing) == 1:
        return Fault(f"sequence {missing.start} is missing", missing.start)
    return Fault(f"sequences {missing.start} to {missing.stop - 1} are missing", missing.start)


def _never_sealed(session: Session) -> Iterator[Fault]:
    """Events far behind the chain's head that are not in it: put in later, with an old number."""
    newest = session.scalar(select(func.max(Seal.event_id))) or 0
    late = select(Event.id, Event.kind).outerjoin(Seal, Seal.event_id == Event.id)
    late = late.where(Seal.sequence.is_(None), Event.id <= newest - WINDOW).order_by(Event.id)
    for row in session.execute(late):
        yield Fault(f"event {row.id} ({row.kind}) was never sealed", event_id=row.id)


def _against_anchors(known: list[Anchor], digests: dict[int, str], *, last: int, key: bytes | None) -> Iterator[Fault]:
    for anchor in known:
        name = f"anchor {anchor.sequence}"
        if key is not None and not is_authentic(anchor, key):
            yield Fault(f"{name}: its MAC does not match", anchor=anchor.sequence)
        elif anchor.sequence > last:
            yield Fault(f"{name}: chain ends at {last}", anchor=anchor.sequence)
        elif digests.get(anchor.sequence) != anchor.digest:
            yield Fault(f"{name}: the chain has another digest there, it was computed anew", anchor=anchor.sequence)


def _unsealed(after: int) -> Select[Any]:
    return (
        select(*_COLUMNS)
        .outerjoin(Seal, Seal.event_id == Event.id)
        .where(Seal.sequence.is_(None), Event.id > after)
        .order_by(Event.id)
    )


def _chain() -> Select[Any]:
    return (
        select(Seal.sequence, Seal.event_id, Seal.digest, *_COLUMNS)
        .outerjoin(Event, Event.id == Seal.event_id)
        .order_by(Seal.sequence)
        .execution_options(yield_per=2000)
    )
