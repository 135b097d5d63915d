"""Why a study became which jobs: every rule against every series, in words; for people and as JSON.

Works on what is in the database with the rules as they are now, so that changed rules can be tried on yesterday's studies.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.routing import Decision
from dicom_node.settling import decided
from dicom_node.site import Site
from dicom_node.stack import stack_of
from storage.models import Study


class UnknownStudy(Exception):
    """Raised when no study has that UID or accession number, or several share the accession number."""


@dataclass(frozen=True, slots=True)
class SeriesExplanation:
    """What one rule says of one series."""

    series_instance_uid: str
    series_number: int | None
    description: str
    modality: str
    images: int
    geometry: str
    verdict: str
    """`analysed`, `refused` or `passed over`."""
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleExplanation:
    """What one rule says of the study."""

    rule: str
    model: str
    outcome: str
    """`analyses`, `reports a refusal`, `selects nothing` or `does not apply`."""
    code: str
    text: str
    destinations: tuple[str, ...]
    series: tuple[SeriesExplanation, ...]


def find_study(session: Session, name: str) -> Study:
    """The study with this Study Instance UID or accession number. Raises UnknownStudy."""
    found = session.scalars(
        select(Study).where((Study.study_instance_uid == name) | (Study.accession_number == name)).limit(2)
    ).all()
    if not found:
        raise UnknownStudy(f"no study has the Study Instance UID or accession number {name!r}")
    if len(found) > 1:
        raise UnknownStudy(f"several studies have the accession number {name!r}: give the Study Instance UID")
    return found[0]


def explain(site: Site, session: Session, study: Study) -> tuple[RuleExplanation, ...]:
    """Every rule of the configuration against every series of the study."""
    return tuple(_explain_rule(one) for one in decided(site, study, ledger.study_facts(session, study)))


def _explain_rule(decision: Decision) -> RuleExplanation:
    rule = decision.rule
    if decision.not_applied is not None:
        outcome, reason = "does not apply", decision.not_applied
    elif decision.refusal is not None:
        outcome, reason = "reports a refusal", decision.refusal
    elif decision.analysed is not None:
        outcome, reason = "analyses", None
    else:
        outcome, reason = "selects nothing", None
    return RuleExplanation(
        rule=rule.name,
        model=rule.model,
        outcome=outcome,
        code=reason.code if reason else "",
        text=reason.text if reason else "",
        destinations=rule.destinations,
        series=_explain_series(decision),
    )


def _explain_series(decision: Decision) -> tuple[SeriesExplanation, ...]:
    rows = []
    for verdict in decision.verdicts:
        series = verdict.series
        stack = stack_of(series.headers)
        chosen = decision.analysed is series
        spacing = f"{stack.pixel_spacing_mm[0]:.2f} x {stack.pixel_spacing_mm[1]:.2f}" if stack.pixel_spacing_mm else "unknown"
        gap = f"{stack.slice_spacing_mm:.2f}" if stack.slice_spacing_mm else "unknown"
        rows.append(
            SeriesExplanation(
                series_instance_uid=series.series_instance_uid,
                series_number=series.series_number,
                description=series.description,
                modality=series.modality,
                images=len(series.headers),
                geometry=f"{stack.plane or 'unknown plane'}, {stack.slices} slices, {spacing} x {gap} mm",
                verdict="analysed" if chosen and decision.refusal is None else "refused" if chosen else "passed over",
                code=verdict.reason.code if verdict.reason else "",
                text=verdict.reason.text if verdict.reason else "",
            )
        )
    return tuple(rows)
