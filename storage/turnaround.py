"""How long studies take, stage by stage, and what scores the models give: the figures behind the metrics.

Only numbers leave this module, never an identity. Each figure looks at the newest rows of a span, so that
its cost does not grow with the age of the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Executable, Row, func, select
from sqlalchemy.orm import Session

from storage.models import Clock, Delivery, Event, Job, Seal, Study
from storage.states import DeliveryState, JobState

NEWEST = 1000


class Stage(StrEnum):
    """The stages between the first image and the last acknowledgement."""

    RECEIVE = "receive"
    """First instance until the study settled."""
    WAIT = "wait"
    """Job created until a worker took it for the last time."""
    RUN = "run"
    """Taken by the worker until the job ended."""
    DELIVER = "deliver"
    """Delivery created until the destination had everything."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How many jobs of one model ended in one way."""

    model: str
    outcome: str
    reason: str
    """Reason code; empty where there is none."""
    count: int


def stage_seconds(session: Session, *, since: datetime) -> dict[Stage, tuple[float, ...]]:
    """The durations in seconds, rising, of the newest rows (at most 1000 per stage) that ended since then."""
    done = Delivery.state.in_([DeliveryState.STORED, DeliveryState.COMMITTED])
    spans: dict[Stage, Executable] = {
        Stage.RECEIVE: select(Study.first_received_at, Study.settled_at)
        .where(Study.settled_at >= since, Study.revision == 1)
        .order_by(Study.id.desc())
        .limit(NEWEST),
        Stage.WAIT: select(Job.created_at, Job.started_at).where(Job.started_at >= since).order_by(Job.id.desc()).limit(NEWEST),
        Stage.RUN: select(Job.started_at, Job.ended_at)
        .where(Job.ended_at >= since, Job.state == JobState.COMPLETED, Job.started_at.is_not(None))
        .order_by(Job.id.desc())
        .limit(NEWEST),
        Stage.DELIVER: select(Delivery.created_at, Delivery.ended_at)
        .where(Delivery.ended_at >= since, done)
        .order_by(Delivery.id.desc())
        .limit(NEWEST),
    }
    return {stage: _seconds(session.execute(rows)) for stage, rows in spans.items()}


def study_scores(session: Session, *, since: datetime) -> dict[str, tuple[float, ...]]:
    """The study scores of the newest 1000 analyses since then, rising, by model, so that a drift shows."""
    score = Job.summary["study_score"].as_float()
    rows = session.execute(
        select(Job.model, score)
        .where(Job.ended_at >= since, Job.state == JobState.COMPLETED, score.is_not(None))
        .order_by(Job.id.desc())
        .limit(NEWEST)
    )
    scores: dict[str, list[float]] = defaultdict(list)
    for model, value in rows:
        scores[model].append(float(value))
    return {model: tuple(sorted(values)) for model, values in scores.items()}


def ended_jobs(session: Session) -> tuple[Ended, ...]:
    """Every job that ended, counted by model, outcome and reason code."""
    outcome = func.coalesce(Job.summary["outcome"].as_string(), "failed").label("outcome")
    reason = func.coalesce(Job.reason, "").label("reason")
    inner = select(Job.model, outcome, reason).where(Job.state.in_([JobState.COMPLETED, JobState.FAILED])).subquery()
    columns = (inner.c.model, inner.c.outcome, inner.c.reason)
    rows = session.execute(select(*columns, func.count()).group_by(*columns).order_by(*columns))
    return tuple(Ended(model, outcome, reason, count) for model, outcome, reason, count in rows)


def unsealed_events(session: Session) -> int:
    """Events that came after the newest link of the hash chain."""
    sealed = session.scalar(select(func.max(Seal.event_id))) or 0
    return session.scalar(select(func.count()).select_from(Event).where(Event.id > sealed)) or 0


def last_beat(session: Session) -> datetime | None:
    """When the scheduler last counted the node's running time; None before its first tick."""
    return session.scalar(select(Clock.beat_at).order_by(Clock.beat_at.desc()).limit(1))


def _seconds(spans: Iterable[Row[*tuple[Any, ...]]]) -> tuple[float, ...]:
    lengths = (end - begin for begin, end in spans)
    return tuple(sorted(max(length, timedelta()).total_seconds() for length in lengths))
