"""All cases of a set under one localizer: every figure with its interval over patients, and what differs between methods.

Thresholds and chances come from `Fixed`, learned on other patients; a patient on both sides is an error, so no figure at a
fixed threshold can be tuned on the patients it is measured on. Figures at the oracle threshold are named `dice_max_...`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.evaluation.case import Case
from inference.evaluation.curves import STATISTICS, CaseCurve, Curves, Thresholds, case_curve, fixed_thresholds
from inference.evaluation.lesions import free_response_score
from inference.evaluation.maps import SCORE, SPANS
from inference.evaluation.reliability import ChanceOfLesion, Claim, Reliability, claims, reliability
from inference.evaluation.resampling import DRAWS, Difference, Estimate, Resampling, Statistic, mean_of, ratio_of
from inference.metrics import BINS

Values = NDArray[np.float64]

COMPARED = ("ap_pooled", "dice_fixed_pooled", "dice_max_pooled")
"""Metrics in which methods are compared on the same draws of patients."""


class SharedPatients(ValueError):
    """Raised where patients that fixed a threshold would be measured with it."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What other patients fixed, for each map: thresholds, and the chance of a lesion behind a score."""

    patients: frozenset[str] = frozenset()
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)
    chance: ChanceOfLesion | None = None

    @classmethod
    def on(cls, cases: Sequence[Case]) -> Fixed:
        """Learned from these cases; nothing where there is none."""
        if not cases:
            return cls()
        curves = {name: curves_of(cases, name) for name in cases[0].curves}
        score = curves[SCORE]
        inside = score.bins >= _lowest_bin()
        learned = None
        if inside.any():
            counts = [table.sum(axis=0)[inside] for table in (score.marked, score.unmarked)]
            learned = ChanceOfLesion.learned(_scores(score)[inside], *counts)
        patients = frozenset(case.patient for case in cases)
        return cls(patients, {name: fixed_thresholds(one) for name, one in curves.items()}, learned)


@dataclass(frozen=True, slots=True)
class MapFigures:
    """One map on one set."""

    figures: dict[str, Estimate]
    thresholds: Thresholds
    oracle: float
    """The threshold of `dice_max_pooled`."""
    response: tuple[Values, Values]
    """Mean false findings per scan and sensitivity, from strict to lenient."""


@dataclass(frozen=True)
class Cohort:
    """The cases of one set under one localizer. ValueError where there is none; SharedPatients as said above."""

    cases: Sequence[Case]
    fixed: Fixed = field(default_factory=Fixed)
    draws: int = DRAWS
    seed: int = 0
    _rows: dict[str, Values] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("no case was measured")
        shared = {case.patient for case in self.cases} & self.fixed.patients
        if shared:
            raise SharedPatients(f"{len(shared)} patients both fixed the thresholds and would be measured with them")

    @cached_property
    def resampling(self) -> Resampling:
        """The draws, the same for every figure and method of this set."""
        return Resampling.of([case.patient for case in self.cases], self.draws, self.seed)

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the maps."""
        return tuple(self.cases[0].curves)

    def map_figures(self, name: str) -> MapFigures:
        """Everything about one map."""
        curves = curves_of(self.cases, name)
        thresholds = self.fixed.thresholds.get(name, Thresholds())
        rows = self.curve_rows(name)
        figures = {metric: self.resampling.estimate(rows[:, place]) for place, metric in enumerate(STATISTICS)}
        by_case = {
            "ap_case": curves.case_average_precision(),
            "dice_max_per_case": curves.case_best_dice(),
            "dice_fixed_mean": curves.case_dice_at(thresholds.dice),
        }
        figures |= {metric: self.estimate(mean_of(values)) for metric, values in by_case.items()}
        figures |= self._image_figures(name)
        figures["froc"] = self.estimate(self._response_score(name))
        return MapFigures(figures, thresholds, curves.best()[1], self._response(name))

    def curve_rows(self, name: str) -> Values:
        """STATISTICS of one map for every row of the resampling: the set itself exactly, draws from merged bins."""
        if name not in self._rows:
            self._rows[name] = self._curve_rows(name)
        return self._rows[name]

    def _curve_rows(self, name: str) -> Values:
        thresholds = self.fixed.thresholds.get(name, Thresholds())
        curves = curves_of(self.cases, name)
        exact = curves.statistics(self.resampling.ones, thresholds)
        if self.resampling.patients < 3 or not self.draws:
            return np.concatenate([exact, np.full((len(self.resampling.rows()) - 1, len(STATISTICS)), np.nan)])
        return np.concatenate([exact, curves.thinned().statistics(self.resampling.rows()[1:], thresholds)])

    def estimate(self, statistic: Statistic) -> Estimate:
        """A figure and its interval."""
        return self.resampling.estimate(statistic(self.resampling.rows()))

    def delivered(self) -> dict[str, Estimate]:
        """Figures of the findings as delivered, of the healthy estimate and of the uncertainty."""
        done = [case.delivered for case in self.cases]
        found, marked, shared = (_column(done, name) for name in ("found_voxels", "marked_voxels", "shared_voxels"))
        with_marks = np.array([case.has_marks for case in self.cases])
        volume_ml = np.array([one.found_voxels * one.voxel_ml for one in done])
        error_ml = np.array([one.volume_error_ml for one in done])
        statistics: dict[str, Statistic] = {
            "dice_pooled": ratio_of(2 * shared * with_marks, (found + marked) * with_marks),
            "dice_mean": mean_of(np.array([one.dice for one in done])),
            "hd95_mm": mean_of(np.array([one.surfaces.hd95_mm for one in done])),
            "assd_mm": mean_of(np.array([one.surfaces.assd_mm for one in done])),
            "nsd_2mm": mean_of(np.array([one.surfaces.nsd for one in done])),
            "volume_error_abs_ml": mean_of(np.where(with_marks, np.abs(error_ml), np.nan)),
            "volume_bias_ml": mean_of(np.where(with_marks, error_ml, np.nan)),
            "fp_volume_ml": mean_of(np.where(with_marks, np.nan, volume_ml)),
            "lost_by_mask": mean_of(np.array([case.lost_by_mask for case in self.cases])),
        }
        fidelity = {name: np.array([getattr(case.fidelity, name) for case in self.cases]) for name in FIDELITY}
        statistics |= {name: mean_of(values) for name, values in fidelity.items()}
        doubt = [case.uncertainty for case in self.cases]
        statistics["uncertainty_error_auroc"] = mean_of(np.array([one.error_auroc for one in doubt]))
        statistics["uncertainty_risk_area"] = mean_of(np.array([one.risk_area for one in doubt]))
        return {name: self.estimate(one) for name, one in (statistics | self._lesion_statistics()).items()}

    def _lesion_statistics(self) -> dict[str, Statistic]:
        matched = [case.delivered.matched for case in self.cases]
        lesions = np.array([len(one.lesions) for one in matched], dtype=np.float64)
        hits = {
            rule: np.array([sum(getattr(lesion, rule) for lesion in one.lesions) for one in matched], dtype=np.float64)
            for rule in ("found", "touched", "overlaps")
        }
        false = np.array([one.false_findings for one in matched], dtype=np.float64)
        far = np.array([case.delivered.far.false_findings for case in self.cases], dtype=np.float64)
        scans = np.ones(len(self.cases))
        return {
            "lesion_sens": ratio_of(hits["found"], lesions),
            "lesion_sens_any": ratio_of(hits["touched"], lesions),
            "lesion_sens_iou": ratio_of(hits["overlaps"], lesions),
            "lesion_f1": ratio_of(2 * hits["found"], lesions + hits["found"] + false),
            "fp_per_scan": ratio_of(false, scans),
            "fp_far_per_scan": ratio_of(far, scans),
        }

    def claims(self) -> tuple[Claim, ...]:
        """What the score claims of unmarked brain, and what was counted."""
        curves = curves_of(self.cases, SCORE)
        inside = curves.bins >= _lowest_bin()
        return claims(_scores(curves)[inside], curves.unmarked.sum(axis=0)[inside])

    def reliability(self) -> Reliability | None:
        """Of the chance of a lesion that other patients gave each score; None where there are no others."""
        if self.fixed.chance is None:
            return None
        curves = curves_of(self.cases, SCORE)
        inside = curves.bins >= _lowest_bin()
        counts = [table.sum(axis=0)[inside] for table in (curves.marked, curves.unmarked)]
        return reliability(self.fixed.chance(_scores(curves)[inside]), *counts)

    def difference_of(self, rows: Values, other: Cohort, other_rows: Values, metric: str) -> Difference:
        """By how much one map exceeds another (perhaps another localizer's) in one of STATISTICS, patients paired.

        Both as `curve_rows` gives them. ValueError where the two cohorts did not measure the same studies.
        """
        if [case.patient for case in self.cases] != [case.patient for case in other.cases]:
            raise ValueError("only methods measured on the same studies can be compared")
        place = STATISTICS.index(metric)
        return self.resampling.difference(rows[:, place], other_rows[:, place])

    def _image_figures(self, name: str) -> dict[str, Estimate]:
        """Slices and studies as a whole: is anything marked on it?"""
        span = SPANS[name]
        slices = [
            case_curve(case.images[name].slices.astype(np.float32), case.slice_marked.astype(np.int32), span.low, span.high)
            for case in self.cases
        ]
        studies = [
            case_curve(np.array([case.images[name].study], np.float32), np.array([case.has_marks], np.int32), span.low, span.high)
            for case in self.cases
            if math.isfinite(case.images[name].study)
        ]
        found = self._binary("slice", slices)
        return found | (self._binary("study", studies) if len(studies) == len(self.cases) else {})

    def _binary(self, what: str, parts: Sequence[CaseCurve]) -> dict[str, Estimate]:
        curves = Curves.of(parts, -1.0, 1.0)  # only the order of bins matters here
        rows = curves.statistics(self.resampling.rows(), Thresholds())
        found = {}
        for metric, name in (("auroc_pooled", "auroc"), ("ap_pooled", "ap")):
            values = rows[:, STATISTICS.index(metric)]
            alone = not curves.unmarked.any()
            found[f"{what}_{name}"] = Estimate(math.nan) if alone else self.resampling.estimate(values)
        return found

    def _response_score(self, name: str) -> Statistic:
        found, false, lesions = self._response_tables(name)

        def statistic(weights: Values) -> Values:
            totals = zip(weights @ found, weights @ false, weights @ lesions, weights.sum(axis=1), strict=True)
            return np.array([free_response_score(*one).mean() for one in totals])

        return statistic

    def _response(self, name: str) -> tuple[Values, Values]:
        found, false, lesions = self._response_tables(name)
        whole = lesions.sum()
        share = found.sum(axis=0) / whole if whole else np.full(found.shape[1], np.nan)
        return (false.mean(axis=0)[::-1], share[::-1])

    def _response_tables(self, name: str) -> tuple[Values, Values, Values]:
        parts = [case.responses[name] for case in self.cases]
        lesions = np.array([one.lesions for one in parts], dtype=np.float64)
        return np.stack([one.found for one in parts]), np.stack([one.false for one in parts]), lesions


FIDELITY = ("ssim", "psnr_db", "mae", "l1_ratio")


def curves_of(cases: Sequence[Case], name: str) -> Curves:
    """The curves of one map over all cases."""
    span = SPANS[name]
    return Curves.of([case.curves[name] for case in cases], span.low, span.high)


def _scores(curves: Curves) -> Values:
    """The score at the lower edge of each bin."""
    return np.array([curves._edge(number) for number in range(curves.bins.size)])


def _lowest_bin() -> int:
    """The bin of score 0: what lies below is outside the brain."""
    span = SPANS[SCORE]
    return round((0.0 - span.low) / (span.high - span.low) * BINS)


def _column(rows: Sequence[object], name: str) -> Values:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)
