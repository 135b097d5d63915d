"""What an evaluation says: plain values for the terminal, for JSON and for the report. NaN becomes null in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import numpy as np

from inference.evaluation.case import Case, Rules
from inference.evaluation.cohort import COMPARED, Cohort, MapFigures
from inference.evaluation.maps import BASELINES, RESIDUAL, SCORE
from inference.evaluation.reliability import Claim, Reliability
from inference.evaluation.resampling import Difference, Estimate, holm
from inference.evaluation.strata import Stratum, strata

POOLING = "pooled: all voxels of all studies together; mean: of patients' own values; unit of every interval: the patient"
MASK = "the predicted brain, the same for every map of a localizer; voxels outside it score lowest of all"
WORST = 6


@dataclass(frozen=True, slots=True)
class CostFigures:
    """What a study cost, as counted while it ran."""

    evaluations_per_slice: float
    gflop_per_slice: float
    seconds_per_study: float
    seconds_per_150_slices: float
    peak_memory_mb: float
    device: str


@dataclass(frozen=True, slots=True)
class WorstCase:
    """One study that went badly; the picture is no part of the JSON."""

    patient: str
    dice: float
    missed_ml: float
    false_ml: float
    false_findings: int
    remarks: tuple[str, ...]
    picture: bytes


@dataclass(frozen=True, slots=True)
class LocalizerSummary:
    """One localizer on one set."""

    label: str
    maps: dict[str, MapFigures]
    delivered: dict[str, Estimate]
    surfaces_undefined: int
    """Studies with marks but without findings, or the other way round: no surface distance exists."""
    claims: tuple[Claim, ...]
    reliability: Reliability | None
    risk: tuple[float, ...]
    """Mean share of wrong voxels at each coverage; empty where no uncertainty is delivered."""
    strata: tuple[Stratum, ...]
    cost: CostFigures
    worst: tuple[WorstCase, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much one map exceeds another on the same patients of a set."""

    first: str
    second: str
    metric: str
    difference: Difference
    p_holm: float
    """Corrected over the sets of the run."""


@dataclass(frozen=True, slots=True)
class SetSummary:
    """One data set under every localizer."""

    name: str
    patients: int
    studies: int
    studies_with_marks: int
    slices: int
    lesions: int
    prevalence: float
    """Share of marked voxels: the average precision of knowing nothing."""
    fixed_on: str
    localizers: tuple[LocalizerSummary, ...]
    comparisons: tuple[Comparison, ...]
    refused: tuple[str, ...]
    """`patient: reason` of studies that a localizer refused; they are in no figure."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything one run measured."""

    command: str
    bundles: tuple[str, ...]
    """Name, version and digest of each."""
    draws: int
    minimum_lesion_mm3: float
    sets: tuple[SetSummary, ...]
    pooling: str = POOLING
    mask: str = MASK


@dataclass(frozen=True, slots=True)
class Measured:
    """One set, measured, before it is summed up."""

    name: str
    fixed_on: str
    cohorts: Mapping[str, Cohort]
    """By localizer."""
    refused: tuple[str, ...] = ()


def summarise(sets: Sequence[Measured], command: str, bundles: Sequence[str], rules: Rules) -> Evaluation:
    """Sums up every set; p-values are corrected over sets."""
    compared = [_comparisons(one.cohorts) for one in sets]
    corrected = _corrected(compared)
    summaries = tuple(_set(one, comparisons) for one, comparisons in zip(sets, corrected, strict=True))
    draws = next(iter(sets[0].cohorts.values())).draws
    return Evaluation(command, tuple(bundles), draws, rules.minimum_mm3, summaries)


def _set(measured: Measured, comparisons: Sequence[Comparison]) -> SetSummary:
    first = next(iter(measured.cohorts.values()))
    marked = sum(case.delivered.marked_voxels for case in first.cases)
    voxels = sum(float((c.curves[SCORE].marked + c.curves[SCORE].unmarked).sum()) for c in first.cases)
    return SetSummary(
        name=measured.name,
        patients=first.resampling.patients,
        studies=len(first.cases),
        studies_with_marks=sum(case.has_marks for case in first.cases),
        slices=sum(case.slices for case in first.cases),
        lesions=sum(len(case.delivered.matched.lesions) for case in first.cases),
        prevalence=marked / voxels if voxels else math.nan,
        fixed_on=measured.fixed_on,
        localizers=tuple(_localizer(label, cohort) for label, cohort in measured.cohorts.items()),
        comparisons=tuple(comparisons),
        refused=measured.refused,
    )


def _localizer(label: str, cohort: Cohort) -> LocalizerSummary:
    risks = [case.uncertainty.risk for case in cohort.cases if case.uncertainty.risk]
    undefined = [case for case in cohort.cases if math.isnan(case.delivered.surfaces.hd95_mm)]
    return LocalizerSummary(
        label=label,
        maps={name: cohort.map_figures(name) for name in cohort.maps},
        delivered=cohort.delivered(),
        surfaces_undefined=sum(case.has_marks or case.delivered.found_voxels > 0 for case in undefined),
        claims=cohort.claims(),
        reliability=cohort.reliability(),
        risk=tuple(float(value) for value in np.mean(risks, axis=0)) if risks else (),
        strata=strata(cohort),
        cost=_cost(cohort.cases),
        worst=_worst(cohort.cases),
    )


def _cost(cases: Sequence[Case]) -> CostFigures:
    slices = sum(case.slices for case in cases)
    seconds = sum(case.seconds for case in cases)
    return CostFigures(
        evaluations_per_slice=sum(case.cost.network_evaluations for case in cases) / slices,
        gflop_per_slice=sum(case.cost.gflop for case in cases) / slices,
        seconds_per_study=seconds / len(cases),
        seconds_per_150_slices=150 * seconds / slices,
        peak_memory_mb=max(case.cost.peak_memory_mb for case in cases),
        device=cases[0].cost.device,
    )


def _worst(cases: Sequence[Case]) -> tuple[WorstCase, ...]:
    """By Dice; studies without marks by the volume wrongly found, after those with."""
    order = sorted(cases, key=lambda c: (not c.has_marks, c.delivered.dice if c.has_marks else -c.delivered.found_voxels))
    found = []
    for case in order[:WORST]:
        done = case.delivered
        missed = (done.marked_voxels - done.shared_voxels) * done.voxel_ml
        false = (done.found_voxels - done.shared_voxels) * done.voxel_ml
        far = done.far.false_findings
        found.append(WorstCase(case.patient, done.dice, missed, false, far, case.remarks, case.picture))
    return tuple(found)


def _comparisons(cohorts: Mapping[str, Cohort]) -> list[Comparison]:
    """Each localizer's score and residual with the baselines in its own mask, and each localizer with the first."""
    labels = list(cohorts)
    pairs = [((label, own), (label, other)) for label in labels for own in (SCORE, RESIDUAL) for other in BASELINES]
    pairs += [((label, own), (labels[0], own)) for label in labels[1:] for own in (SCORE, RESIDUAL)]
    found = []
    rows = {(label, name): cohorts[label].curve_rows(name) for label in labels for name in cohorts[label].maps}
    for (first, own), (second, other) in pairs:
        for metric in COMPARED:
            gap = cohorts[first].difference_of(rows[first, own], cohorts[second], rows[second, other], metric)
            if math.isfinite(gap.estimate.value):
                found.append(Comparison(f"{first}: {own}", f"{second}: {other}", metric, gap, math.nan))
    return found


def _corrected(sets: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    by_question: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for number, comparisons in enumerate(sets):
        for place, one in enumerate(comparisons):
            by_question.setdefault((one.first, one.second, one.metric), []).append((number, place))
    corrected = [list(comparisons) for comparisons in sets]
    for places in by_question.values():
        values = holm([sets[number][place].difference.p for number, place in places])
        for (number, place), p in zip(places, values, strict=True):
            one = sets[number][place]
            corrected[number][place] = Comparison(one.first, one.second, one.metric, one.difference, p)
    return corrected


def to_json(evaluation: Evaluation) -> str:
    """The evaluation without pictures."""
    return json.dumps(plain(evaluation), indent=1, allow_nan=False) + "\n"


def plain(value: object) -> object:
    """Dataclasses, arrays and tuples as what JSON knows; NaN and infinity become null, bytes are left out."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: plain(one) for name, one in named.items() if not isinstance(one, bytes)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [plain(one) for one in value]
    return value
