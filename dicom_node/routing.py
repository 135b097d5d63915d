"""Which series of a study become a job of which model, and where the results go; every "no" has a reason code.

Pure: settings and header facts in, decisions out; the same function answers the settle tick, `fovea explain` and a dry
run of changed rules. A rule's own conditions come first, then the range the model's card declares. Of several suitable
series the one with the smallest voxels is analysed: one report per study and model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dicom_node.header import InstanceHeader
from dicom_node.outcome import PassedOver, Reason
from dicom_node.settings import Rule
from dicom_node.stack import Stack, stack_of
from dicom_node.validity import outside
from inference.card import Validity


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What routing knows of one series: its headers and the geometry they tell."""

    series_instance_uid: str
    series_number: int | None
    description: str
    modality: str
    headers: tuple[InstanceHeader, ...]


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What routing knows of one study."""

    received_from: str
    series: tuple[SeriesFacts, ...]


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What one rule says of one series: None where it is analysed, else why it is not."""

    series: SeriesFacts
    selected: bool
    """The rule's own conditions hold."""
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one rule decided about one study."""

    rule: Rule
    verdicts: tuple[SeriesVerdict, ...]
    analysed: SeriesFacts | None
    """The series to run on, or the one whose refusal is reported."""
    refusal: Reason | None
    """Set where the rule selected series but none is within the model's range."""
    not_applied: Reason | None = None
    """Set where the rule as a whole does not apply to the study."""

    @property
    def makes_a_job(self) -> bool:
        """True where the radiologist gets an answer, be it a refusal."""
        return self.analysed is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision as it is kept in the job's row."""

    analysed: tuple[str, ...]
    """Series Instance UIDs."""
    passed_over: tuple[PassedOver, ...]
    destinations: tuple[str, ...]
    refusal: Reason | None
    remarks: tuple[str, ...] = ()
    """What the report says of how complete the study was, a sentence each."""

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Plan:
        """The plan a row holds."""
        return cls(
            analysed=tuple(stored["analysed"]),
            passed_over=tuple(PassedOver(**{**one, "reason": Reason(**one["reason"])}) for one in stored["passed_over"]),
            destinations=tuple(stored["destinations"]),
            refusal=Reason(**stored["refusal"]) if stored["refusal"] else None,
            remarks=tuple(stored.get("remarks", ())),
        )


def decide(study: StudyFacts, rules: Sequence[Rule], validity: Mapping[str, Validity]) -> tuple[Decision, ...]:
    """One decision per rule, in the rules' order. `validity` is keyed by model name."""
    decisions: list[Decision] = []
    taken: dict[str, str] = {}
    for rule in rules:
        decision = _decide_one(study, rule, validity[rule.model], taken.get(rule.model))
        if decision.makes_a_job:
            taken[rule.model] = rule.name
        decisions.append(decision)
    return tuple(decisions)


def plan_of(decision: Decision) -> Plan:
    """The decision as a plan for a job."""
    if decision.analysed is None:
        raise ValueError(f"rule {decision.rule.name} selected nothing, so there is nothing to plan")
    chosen = decision.analysed.series_instance_uid
    return Plan(
        analysed=(chosen,),
        passed_over=tuple(
            PassedOver(v.series.series_instance_uid, v.series.series_number, v.series.description, v.series.modality, v.reason)
            for v in decision.verdicts
            if v.reason is not None and v.series.series_instance_uid != chosen
        ),
        destinations=decision.rule.destinations,
        refusal=decision.refusal,
    )


def _decide_one(study: StudyFacts, rule: Rule, validity: Validity, taken_by: str | None) -> Decision:
    if rule.from_peers and study.received_from not in rule.from_peers:
        reason = Reason("peer", f"sent by {study.received_from}, the rule is for {', '.join(rule.from_peers)}")
        return Decision(rule, (), None, None, reason)
    if taken_by is not None:
        reason = Reason("model-taken", f"rule {taken_by} already runs {rule.model} on this study")
        return Decision(rule, (), None, None, reason)
    stacks = {series.series_instance_uid: stack_of(series.headers) for series in study.series}
    verdicts = [_judge(rule, series, stacks[series.series_instance_uid], validity) for series in study.series]
    suitable = [v.series for v in verdicts if v.reason is None]
    if suitable:
        best = min(suitable, key=lambda one: _preference(one, stacks[one.series_instance_uid]))
        other = Reason(
            "another-series", f"series {_label(best)} of this study was analysed instead: smaller voxels or an earlier number"
        )
        verdicts = [
            SeriesVerdict(v.series, v.selected, other) if v.reason is None and v.series is not best else v for v in verdicts
        ]
        return Decision(rule, tuple(verdicts), best, None)
    selected = [v for v in verdicts if v.selected]
    if not selected:
        return Decision(rule, tuple(verdicts), None, None)
    refused = min(selected, key=lambda v: _preference(v.series, stacks[v.series.series_instance_uid]))
    return Decision(rule, tuple(verdicts), refused.series, refused.reason)


def _judge(rule: Rule, series: SeriesFacts, stack: Stack, validity: Validity) -> SeriesVerdict:
    unmet = unmet_condition(rule, series, stack)
    return SeriesVerdict(series, unmet is None, unmet or outside(validity, series.headers, stack))


def _preference(series: SeriesFacts, stack: Stack) -> tuple[float, int, str]:
    spacing = stack.pixel_spacing_mm or (1e3, 1e3)
    voxel_mm3 = spacing[0] * spacing[1] * (stack.slice_spacing_mm or 1e3)
    return (
        round(voxel_mm3, 3),
        series.series_number if series.series_number is not None else 1 << 30,
        series.series_instance_uid,
    )


def _label(series: SeriesFacts) -> str:
    return str(series.series_number) if series.series_number is not None else series.series_instance_uid


def unmet_condition(rule: Rule, series: SeriesFacts, stack: Stack) -> Reason | None:
    """The first of the rule's conditions that the series does not meet, or None."""
    images = [header for header in series.headers if header.has_pixel_data]
    if not images:
        return Reason("not-an-image", f"modality {series.modality or 'not stated'}, no image with pixels")
    header = images[0]
    return _words(rule, header) or _numbers(rule, header, stack) or _description(rule, series)


def _words(rule: Rule, header: InstanceHeader) -> Reason | None:
    if rule.modality and header.modality not in rule.modality:
        return Reason(
            "rule-modality", f"modality {header.modality or 'not stated'}, the rule asks for {' or '.join(rule.modality)}"
        )
    stated = header.body_part_examined.upper()
    if rule.body_part and stated and stated not in {part.upper() for part in rule.body_part}:
        return Reason("rule-body-part", f"body part {stated}, the rule asks for {' or '.join(rule.body_part)}")
    excluded = [word for word in rule.image_type_excludes if word in header.image_type]
    if excluded:
        return Reason("rule-image-type", f"image type holds {excluded[0]}, which the rule excludes")
    if rule.scanning_sequence and not set(rule.scanning_sequence) & set(header.scanning_sequence):
        stated = "\\".join(header.scanning_sequence) or "not stated"
        return Reason(
            "rule-scanning-sequence", f"scanning sequence {stated}, the rule asks for {' or '.join(rule.scanning_sequence)}"
        )
    if rule.contrast_agent is not None and rule.contrast_agent != bool(header.contrast_bolus_agent):
        wanted = "with" if rule.contrast_agent else "without"
        return Reason("rule-contrast-agent", f"the rule asks for images {wanted} a contrast agent")
    return None


def _numbers(rule: Rule, header: InstanceHeader, stack: Stack) -> Reason | None:
    if rule.orientation and stack.plane not in rule.orientation:
        return Reason(
            "rule-orientation", f"{stack.plane or 'unstated'} slices, the rule asks for {' or '.join(rule.orientation)}"
        )
    spacing = max(stack.pixel_spacing_mm) if stack.pixel_spacing_mm else None
    for code, name, value, limits, unit in (
        ("rule-echo-time", "echo time", header.echo_time_ms, rule.echo_time_ms, "ms"),
        ("rule-repetition-time", "repetition time", header.repetition_time_ms, rule.repetition_time_ms, "ms"),
        ("rule-inversion-time", "inversion time", header.inversion_time_ms, rule.inversion_time_ms, "ms"),
        ("rule-slices", "number of images", float(stack.slices), rule.slices, ""),
        ("rule-slice-spacing", "distance between slices", stack.slice_spacing_mm, rule.slice_spacing_mm, "mm"),
        ("rule-pixel-spacing", "pixel spacing", spacing, rule.pixel_spacing_mm, "mm"),
    ):
        if limits is None:
            continue
        if value is None:
            return Reason(code, f"{name} is not stated, the rule asks for {limits[0]:g} to {limits[1]:g} {unit}".rstrip())
        if not limits[0] <= value <= limits[1]:
            return Reason(
                code,
                f"{name} {value:g} {unit}, the rule asks for {limits[0]:g} to {limits[1]:g} {unit}".replace("  ", " ").rstrip(),
            )
    return None


def _description(rule: Rule, series: SeriesFacts) -> Reason | None:
    if rule.description_matches and not re.search(rule.description_matches, series.description, re.IGNORECASE):
        return Reason("rule-description", f"the description does not match {rule.description_matches!r}")
    if rule.description_excludes and re.search(rule.description_excludes, series.description, re.IGNORECASE):
        return Reason("rule-description", f"the description matches {rule.description_excludes!r}, which the rule excludes")
    return None
