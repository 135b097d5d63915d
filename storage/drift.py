"""The scores of finished analyses over time: what a drift of scanners, protocols or patients shows in.

Only numbers and times leave this module, never an identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.models import Job
from storage.states import JobState


@dataclass(frozen=True, slots=True)
class ScoredStudy:
    """One finished analysis; None where the summary does not hold the figure."""

    ended_at: datetime
    study_score: float | None
    domain_distance: float | None
    """How far the study lies from those the model was calibrated on."""
    findings: int
    refused: bool


def scored_studies(session: Session, *, model: str, since: datetime | None = None) -> tuple[ScoredStudy, ...]:
    """The finished analyses of one model, oldest first."""
    score = Job.summary["study_score"].as_float()
    distance = Job.summary["domain_distance"].as_float()
    outcome = Job.summary["outcome"].as_string()
    query = select(Job.ended_at, score, distance, Job.summary, outcome).where(
        Job.model == model, Job.state == JobState.COMPLETED, Job.ended_at.is_not(None)
    )
    if since is not None:
        query = query.where(Job.ended_at >= since)
    found = []
    for ended_at, study_score, domain_distance, summary, ended_as in session.execute(query.order_by(Job.ended_at)):
        findings = (summary or {}).get("findings", [])
        count = len(findings) if isinstance(findings, list) else 0
        found.append(ScoredStudy(ended_at, study_score, domain_distance, count, ended_as == "refused"))
    return tuple(found)


def scored_models(session: Session) -> tuple[str, ...]:
    """The models that finished any analysis."""
    rows = session.scalars(select(Job.model).where(Job.state == JobState.COMPLETED).distinct().order_by(Job.model))
    return tuple(rows)
