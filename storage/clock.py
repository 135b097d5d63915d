"""Quiet time: how long nothing has arrived for a study, counted in seconds that the node was running.

Counted on the monotonic clock and kept in rows, so that a clock set forward or back, a change to summer time or a night
switched off never settles a study, and a restart never begins the wait anew (D1, F35).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from storage.models import Clock, Study
from storage.states import StudyState

_NAME = "settle"
_SILENT_TICKS = 10
"""A holder that missed this many of the longest ticks has stopped."""


def tick_clock(session: Session, *, holder: str, monotonic_s: float, at: datetime, cap_s: float) -> float:
    """Seconds of running time since the last tick, at most `cap_s`; several schedulers may tick and share the time.

    `holder` names the boot whose monotonic clock `monotonic_s` is. While the holder in the row still ticks, another one gets
    0; it takes over once the holder's last beat is older than 10 × `cap_s` (or lies that far ahead: the clock was set back).
    """
    clock = _locked_clock(session, holder, monotonic_s, at)
    if clock.holder == holder:
        elapsed_s = min(max(monotonic_s - clock.monotonic_s, 0.0), cap_s)
    elif abs((at - clock.beat_at).total_seconds()) < _SILENT_TICKS * cap_s:
        return 0.0
    else:
        elapsed_s = 0.0
    clock.holder = holder
    clock.monotonic_s = monotonic_s
    clock.beat_at = at
    session.flush()
    return elapsed_s


def count_quiet(session: Session, delta_s: float) -> None:
    """Add running time to the quiet time and the age of every study that is being received.

    A study whose row a receiver has locked at this moment is passed over: its quiet time is about to begin anew.
    """
    if delta_s <= 0:
        return
    session.flush()
    receiving = select(Study.id).where(Study.state == StudyState.RECEIVING.value)
    ids = receiving.with_for_update(key_share=True, skip_locked=True)
    chosen = session.scalars(ids).all()
    for start in range(0, len(chosen), 500):
        session.execute(
            update(Study)
            .where(Study.id.in_(chosen[start : start + 500]))
            .values(quiet_s=Study.quiet_s + delta_s, age_s=Study.age_s + delta_s)
            .execution_options(synchronize_session=False)
        )
    for row in session.identity_map.values():
        if isinstance(row, Study):
            session.expire(row, ["quiet_s", "age_s"])


def due_studies(session: Session, *, settle_after_s: float, maximum_age_s: float) -> list[Study]:
    """Studies quiet for long enough, or older than they may get and not waiting on; locked, so that nothing arrives meanwhile."""
    return list(
        session.scalars(
            select(Study)
            .where(
                Study.state == StudyState.RECEIVING.value,
                or_(Study.quiet_s >= settle_after_s, and_(Study.age_s >= maximum_age_s, Study.waits.is_(False))),
            )
            .order_by(Study.id)
            .with_for_update(key_share=True, skip_locked=True)
            .execution_options(populate_existing=True)
        )
    )


def _locked_clock(session: Session, holder: str, monotonic_s: float, at: datetime) -> Clock:
    statement = select(Clock).where(Clock.name == _NAME).with_for_update().execution_options(populate_existing=True)
    clock = session.scalars(statement).one_or_none()
    if clock is not None:
        return clock
    values = {"name": _NAME, "holder": holder, "monotonic_s": monotonic_s, "beat_at": at}
    if session.get_bind().dialect.name == "postgresql":
        session.execute(postgresql.insert(Clock).values(**values).on_conflict_do_nothing(index_elements=["name"]))
    else:
        session.execute(sqlite.insert(Clock).values(**values).on_conflict_do_nothing(index_elements=["name"]))
    return session.scalars(statement).one()
