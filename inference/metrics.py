"""How well a score map finds what experts marked: average precision, Dice, lesions found, false findings.

Every definition says how cases are pooled. Voxel metrics are read off two histograms of 65,536 bins, one for
marked and one for unmarked voxels, so that memory does not grow with the number of volumes. A case without
any marked voxel has no Dice (NaN), never a Dice of 1. Arrays [slice, row, column].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]
CountArray = NDArray[np.int64]

BINS = 65_536
ALL_26_NEIGHBOURS = np.ones((3, 3, 3), dtype=np.int8)
HIT_OVERLAP = 0.1
"""A lesion is found where at least this share of its voxels is marked by the method."""
NEAR_MM = 2.0
"""A finding that comes this near to a marked lesion is not a false one."""


@dataclass(frozen=True, slots=True)
class BestDice:
    """The highest Dice over all thresholds, and the threshold (score at or above it) that gives it."""

    dice: float
    threshold: float


class ScoreHistogram:
    """Counts voxels by score, marked and unmarked apart; add volumes one at a time, then ask.

    Scores are binned evenly over [low, high]; what lies beyond counts in the outermost bin.
    """

    def __init__(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"scores from {low} to {high} cannot be binned")
        self.low, self.high = low, high
        self.unmarked: CountArray = np.zeros(BINS, dtype=np.int64)
        self.marked: CountArray = np.zeros(BINS, dtype=np.int64)

    def add(self, score: FloatArray, truth: BoolArray, where: BoolArray | None = None) -> None:
        """Count the voxels of one volume, inside `where` only. ValueError where shapes or scores are off."""
        _check_shapes(score, truth, where)
        inside = slice(None) if where is None else where
        values, labels = score[inside].ravel(), truth[inside].ravel()
        if not np.all(np.isfinite(values)):
            raise ValueError("scores must be finite numbers")
        place = (values.astype(np.float64) - self.low) * (BINS / (self.high - self.low))
        bins = np.clip(np.floor(place), 0, BINS - 1).astype(np.int64)
        self.marked += np.bincount(bins[labels], minlength=BINS)
        self.unmarked += np.bincount(bins[~labels], minlength=BINS)

    def merge(self, other: ScoreHistogram) -> None:
        """Take in what another histogram over the same range has counted."""
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(f"ranges differ: {self.low} to {self.high} and {other.low} to {other.high}")
        self.marked += other.marked
        self.unmarked += other.unmarked

    def prevalence(self) -> float:
        """The share of marked voxels: the average precision of knowing nothing. NaN of no voxels."""
        total = int(self.marked.sum() + self.unmarked.sum())
        return float(self.marked.sum()) / total if total else math.nan

    def average_precision(self) -> float:
        """`ap_pooled`: sum of (R_n - R_(n-1)) P_n, not interpolated. NaN where nothing is marked."""
        found, false = self._falling()
        if not found.size or found[-1] == 0:
            return math.nan
        precision = found / np.maximum(found + false, 1)
        return float(np.sum(np.diff(found, prepend=0) * precision) / found[-1])

    def auroc(self) -> float:
        """`auroc_pooled`: P(marked above unmarked) + half P(equal). NaN where one of the two is empty."""
        positives, negatives = int(self.marked.sum()), int(self.unmarked.sum())
        if not positives or not negatives:
            return math.nan
        below = np.cumsum(self.unmarked) - self.unmarked
        wins = np.sum(self.marked.astype(np.float64) * (below + 0.5 * self.unmarked))
        return float(wins / positives / negatives)

    def dice(self, threshold: float) -> float:
        """Dice of `score >= threshold`, taken down to the edge of its bin. NaN where nothing is marked."""
        place = math.floor((threshold - self.low) * (BINS / (self.high - self.low)))
        start = min(max(place, 0), BINS)
        return _dice(int(self.marked[start:].sum()), int(self.unmarked[start:].sum()), int(self.marked.sum()))

    def best_dice(self) -> BestDice:
        """`dice_max_pooled`: the highest Dice over all bin edges. NaN where nothing is marked."""
        found, false = self._falling()
        if not found.size or found[-1] == 0:
            return BestDice(math.nan, math.nan)
        dice = 2 * found / (found + false + found[-1])
        best = int(np.argmax(dice))
        return BestDice(float(dice[best]), self._edge(BINS - 1 - best))

    def false_positive_threshold(self, rate: float) -> float:
        """`dice@fpr`: the lowest threshold that at most this share of unmarked voxels reaches."""
        if not 0.0 < rate < 1.0:
            raise ValueError(f"a false-positive rate of {rate} is not between 0 and 1")
        false = np.cumsum(self.unmarked[::-1])
        allowed = int(np.searchsorted(false, rate * false[-1], side="right"))
        return self._edge(BINS - allowed)

    def _falling(self) -> tuple[CountArray, CountArray]:
        """Marked and unmarked voxels at or above each bin's lower edge, from the highest bin down."""
        return np.cumsum(self.marked[::-1]), np.cumsum(self.unmarked[::-1])

    def _edge(self, number: int) -> float:
        return self.low + number * (self.high - self.low) / BINS


def average_precision(score: FloatArray, truth: BoolArray) -> float:
    """Exact average precision of one array, equal scores taken together. NaN where nothing is marked."""
    _check_shapes(score, truth, None)
    values, labels = score.ravel(), truth.ravel()
    if not labels.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    last = np.concatenate([np.diff(values[order]) != 0, [True]])
    found = np.cumsum(labels[order])[last]
    total = np.flatnonzero(last) + 1
    return float(np.sum(np.diff(found, prepend=0) * (found / total)) / found[-1])


def dice(predicted: BoolArray, truth: BoolArray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; NaN where nothing is marked (count false voxels instead)."""
    _check_shapes(predicted, truth, None)
    found = int(np.count_nonzero(predicted & truth))
    return _dice(found, int(np.count_nonzero(predicted)) - found, int(np.count_nonzero(truth)))


def best_mean_dice(cases: Sequence[ScoreHistogram]) -> BestDice:
    """`dice_max_mean@t`: the highest mean over cases at one threshold; cases without marks left out."""
    curves = [_dice_curve(case) for case in cases if case.marked.any()]
    if not curves:
        return BestDice(math.nan, math.nan)
    mean = np.mean(curves, axis=0)
    best = int(np.argmax(mean))
    return BestDice(float(mean[best]), cases[0]._edge(BINS - 1 - best))


def mean_best_dice(cases: Sequence[ScoreHistogram]) -> float:
    """`dice_max_per_case`: the mean of each case's own highest Dice, the most lenient of the three."""
    bests = [case.best_dice().dice for case in cases if case.marked.any()]
    return float(np.mean(bests)) if bests else math.nan


@dataclass(frozen=True, slots=True)
class LesionCount:
    """How the findings of one case match its marked lesions."""

    lesions: int
    hit: int
    """Lesions of which at least a tenth of the voxels is predicted; several findings may share one."""
    touched: int
    """Lesions of which any voxel is predicted."""
    findings: int
    false_findings: int
    """Predicted components of which no voxel lies within 2 mm of a marked one."""

    @property
    def sensitivity(self) -> float:
        """hit / lesions; NaN where there is no lesion."""
        return self.hit / self.lesions if self.lesions else math.nan


def count_lesions(
    predicted: BoolArray,
    truth: BoolArray,
    spacing_mm: tuple[float, float, float],
    minimum_volume_mm3: float = 0.0,
    near_mm: float = NEAR_MM,
) -> LesionCount:
    """`lesion_sens`, `fp_per_scan`: match the 26-connected components of predicted and truth[slice, row,
    column].

    Lesions below the minimum volume are not counted, yet what lies on them is no false finding. A lesion
    split into several findings is found once; a finding over several lesions finds each.
    """
    _check_shapes(predicted, truth, None)
    lesion_map, _ = ndimage.label(truth, structure=ALL_26_NEIGHBOURS)
    sizes = np.bincount(lesion_map.ravel())[1:]
    overlaps = np.bincount(lesion_map[predicted], minlength=len(sizes) + 1)[1:]
    counted = sizes * math.prod(spacing_mm) >= minimum_volume_mm3 - 1e-9
    finding_map, findings = ndimage.label(predicted, structure=ALL_26_NEIGHBOURS)
    near = _within_mm(truth, spacing_mm, near_mm)
    true_findings = np.unique(finding_map[near & predicted])
    return LesionCount(
        lesions=int(counted.sum()),
        hit=int(np.count_nonzero(counted & (overlaps >= HIT_OVERLAP * sizes) & (overlaps > 0))),
        touched=int(np.count_nonzero(counted & (overlaps > 0))),
        findings=int(findings),
        false_findings=int(findings) - len(true_findings),
    )


def _within_mm(truth: BoolArray, spacing_mm: tuple[float, float, float], near_mm: float) -> BoolArray:
    if not truth.any():
        return np.zeros_like(truth)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~truth, sampling=spacing_mm)
    return distance <= near_mm + 1e-9


def _dice_curve(case: ScoreHistogram) -> NDArray[np.float64]:
    found, false = case._falling()
    curve: NDArray[np.float64] = 2 * found / (found + false + found[-1])
    return curve


def _dice(found: int, false: int, marked: int) -> float:
    return 2 * found / (found + false + marked) if marked else math.nan


def _check_shapes(values: NDArray[np.generic], truth: BoolArray, where: BoolArray | None) -> None:
    if truth.dtype != np.bool_ or (where is not None and where.dtype != np.bool_):
        raise ValueError("truth and mask must be boolean")
    shapes = {values.shape, truth.shape} | (set() if where is None else {where.shape})
    if len(shapes) > 1:
        raise ValueError(f"shapes differ: {sorted(shapes)}")
