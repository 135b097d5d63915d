"""Metrics over all thresholds, from one histogram of scores for each case: pooled over voxels, or a mean over cases.

A case is kept as counts in the bins of `inference.metrics.ScoreHistogram` that it fills, so that memory stays small and
any weighting of the cases (all once, or patients drawn again) is a product of matrices.

    w[draw, case] weights      M, U [case, bin] marked and unmarked voxels, bins from the highest score down
    found = cumsum(w M)        false = cumsum(w U)        precision P = found / (found + false)      recall R = found / total
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.metrics import BINS

Values = NDArray[np.float64]
Weights = NDArray[np.float64]
"""[draw, case]: how often each case counts."""
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

BATCH = 48
"""Draws computed at once: bounds the memory of a bootstrap."""
STATISTICS = (
    "ap_pooled",
    "auroc_pooled",
    "dice_max_pooled",
    "dice_max_mean",
    "aupro_30",
    "aupro_05",
    "spro_30",
    "spro_05",
    "dice_fixed_pooled",
    "dice_fpr_1_pooled",
    "dice_fpr_01_pooled",
)
"""What `Curves.statistics` gives, in this order; NaN where the set cannot say."""
PRO_LIMITS = (0.3, 0.05)


@dataclass(frozen=True, slots=True)
class CaseCurve:
    """The scores of one case by bin; only bins that hold voxels, rising."""

    bins: NDArray[np.int32]
    marked: NDArray[np.float64]
    unmarked: NDArray[np.float64]
    lesion_share: NDArray[np.float64]
    """Each marked voxel counts one over its lesion's voxels: summed from the top, the lesions' covered shares."""
    saturated_share: NDArray[np.float64]
    """The same, but a lesion counts as wholly covered once half of its voxels are (sPRO; Bergmann et al. 2022)."""
    lesions: int
    outside: float = 0.0
    """Unmarked voxels outside the brain, all in the lowest bin: they count for precision, never as false-positive rate."""

    @property
    def has_marks(self) -> bool:
        """Whether anything is marked."""
        return bool(self.marked.any())


def bin_of(score: FloatArray | float, low: float, high: float) -> NDArray[np.int64]:
    """The bin of each score over [low, high]; what lies beyond is in the outermost bin."""
    place = np.floor((np.asarray(score, dtype=np.float64) - low) * (BINS / (high - low)))
    return np.clip(place, 0, BINS - 1).astype(np.int64)


def case_curve(score: FloatArray, lesion_map: NDArray[np.int32], low: float, high: float) -> CaseCurve:
    """The curve of one case: score and the number of the marked lesion at each voxel, 0 where nothing is marked.

    ValueError where a score is not finite or shapes differ.
    """
    if score.shape != lesion_map.shape:
        raise ValueError(f"shapes differ: {score.shape} and {lesion_map.shape}")
    if not np.all(np.isfinite(score)):
        raise ValueError("scores must be finite numbers")
    place = bin_of(score.ravel(), low, high)
    labels = lesion_map.ravel()
    on = labels > 0
    marked = np.bincount(place[on], minlength=BINS)
    unmarked = np.bincount(place, minlength=BINS) - marked
    lesions = int(labels.max(initial=0))
    share, saturated = _shares(place[on], labels[on], lesions)
    used = np.flatnonzero(marked + unmarked)
    return CaseCurve(
        used.astype(np.int32),
        marked[used].astype(np.float64),
        unmarked[used].astype(np.float64),
        share[used],
        saturated[used],
        lesions,
    )


def _shares(place: NDArray[np.int64], labels: NDArray[np.int32], lesions: int) -> tuple[Values, Values]:
    """By bin: the sum over voxels of 1 / |lesion|, and of 1 / s over each lesion's s = ceil(|lesion| / 2) highest voxels."""
    sizes = np.bincount(labels, minlength=lesions + 1)
    share = np.bincount(place, weights=1.0 / np.maximum(sizes, 1)[labels], minlength=BINS).astype(np.float64)
    order = np.lexsort((-place, labels))  # by lesion, highest first
    ordered, start = labels[order], np.concatenate([[0], np.cumsum(sizes)])[:-1]
    rank = np.arange(order.size) - start[ordered]
    needed = (sizes + 1) // 2
    top = rank < needed[ordered]
    weights = 1.0 / np.maximum(needed, 1)[ordered[top]]
    return share, np.bincount(place[order[top]], weights=weights, minlength=BINS).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of all cases of a set under one method, over the bins that any of them fills, highest first."""

    bins: NDArray[np.int64]
    marked: NDArray[np.float64]
    unmarked: NDArray[np.float64]
    lesion_share: NDArray[np.float64]
    saturated_share: NDArray[np.float64]
    lesions: Values
    low: float
    high: float
    outside: Values
    """For each case, the voxels that no rate of false positives counts."""

    @classmethod
    def of(cls, cases: Sequence[CaseCurve], low: float, high: float) -> Curves:
        """All cases together. ValueError where there is none."""
        if not cases:
            raise ValueError("no case to pool")
        bins = np.unique(np.concatenate([case.bins for case in cases]))[::-1].astype(np.int64)
        place = np.full(BINS, -1, dtype=np.int64)
        place[bins] = np.arange(bins.size)
        tables = np.zeros((4, len(cases), bins.size))
        for row, case in enumerate(cases):
            at = place[case.bins]
            for number, values in enumerate((case.marked, case.unmarked, case.lesion_share, case.saturated_share)):
                tables[number, row, at] = values
        lesions = np.array([case.lesions for case in cases], dtype=np.float64)
        outside = np.array([case.outside for case in cases])
        return cls(bins, tables[0], tables[1], tables[2], tables[3], lesions, low, high, outside)

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(self.marked)

    def thinned(self, points: int = 4096) -> Curves:
        """Neighbouring bins merged where they hold few voxels, marked and unmarked alike: for many draws at less cost."""
        if self.bins.size <= points:
            return self
        parts = [rows.sum(axis=0) / max(1.0, rows.sum()) for rows in (self.marked, self.unmarked)]
        reached = np.maximum.reduce([np.cumsum(part) * points / 2 for part in parts])
        group = np.unique(np.floor(reached), return_inverse=True)[1]
        first = np.flatnonzero(np.concatenate([[True], np.diff(group) > 0]))
        last = np.concatenate([first[1:], [group.size]]) - 1
        tables = (self.marked, self.unmarked, self.lesion_share, self.saturated_share)
        merged = [np.add.reduceat(table, first, axis=1) for table in tables]
        return Curves(
            self.bins[last], merged[0], merged[1], merged[2], merged[3], self.lesions, self.low, self.high, self.outside
        )

    def statistics(self, weights: Weights, fixed: Thresholds) -> Values:
        """STATISTICS [draw, statistic] under each row of weights."""
        parts = [self._statistics(weights[start : start + BATCH], fixed) for start in range(0, len(weights), BATCH)]
        return np.concatenate(parts)

    def _statistics(self, weights: Weights, fixed: Thresholds) -> Values:
        found, false = np.cumsum(weights @ self.marked, axis=1), np.cumsum(weights @ self.unmarked, axis=1)
        inside = false.copy()
        inside[:, -1] -= weights @ self.outside
        positives, negatives = found[:, -1], inside[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = found / (found + false)
            gained = np.diff(found, prepend=0, axis=1)
            ap = np.nansum(gained * precision, axis=1) / positives
            lost = np.diff(inside, prepend=0, axis=1)
            auroc = np.sum(gained * (negatives[:, None] - inside + 0.5 * lost), axis=1) / positives / negatives
            dice = 2 * found / (found + false + positives[:, None])
        pro = [
            _area(inside, np.cumsum(weights @ share, axis=1), weights @ self.lesions, limit)
            for share in (self.lesion_share, self.saturated_share)
            for limit in PRO_LIMITS
        ]
        at = [self._dice_at(dice, threshold) for threshold in fixed.listed()]
        with_marks = np.maximum(weights @ self.marked.any(axis=1), 1e-12)
        mean = (weights @ self._case_dice()) / with_marks[:, None]
        rows = np.stack([ap, auroc, dice.max(axis=1), mean.max(axis=1), *pro, *at], axis=1)
        rows[positives == 0] = np.nan
        return rows

    def _dice_at(self, dice: Values, threshold: float | None) -> Values:
        if threshold is None:
            return np.full(len(dice), np.nan)
        last = int(np.searchsorted(-self.bins, -int(bin_of(threshold, self.low, self.high)), side="right")) - 1
        return dice[:, last] if last >= 0 else np.zeros(len(dice))

    def _case_dice(self) -> Values:
        """Dice of each case at each bin; 0 where nothing is marked, which no mean counts."""
        found, false = np.cumsum(self.marked, axis=1), np.cumsum(self.unmarked, axis=1)
        whole = found + false + found[:, -1:]
        return np.where(found[:, -1:] > 0, 2 * found / np.maximum(whole, 1), 0.0)

    def best(self) -> tuple[float, float]:
        """`dice_max_pooled` and the lowest score of its bin. NaN where nothing is marked."""
        found, false = self.marked.sum(axis=0).cumsum(), self.unmarked.sum(axis=0).cumsum()
        if not found[-1]:
            return float("nan"), float("nan")
        dice = 2 * found / (found + false + found[-1])
        best = int(np.argmax(dice))
        return float(dice[best]), self._edge(best)

    def false_positive_threshold(self, rate: float) -> float:
        """The lowest bin edge that at most this share of the brain's unmarked voxels reaches."""
        if not 0.0 < rate < 1.0:
            raise ValueError(f"a false-positive rate of {rate} is not between 0 and 1")
        false = self.unmarked.sum(axis=0).cumsum()
        false[-1] -= self.outside.sum()
        allowed = int(np.searchsorted(false, rate * false[-1], side="right"))
        return self._edge(allowed - 1) if allowed else self.high

    def case_average_precision(self) -> Values:
        """`ap_case`, one for each case; NaN where nothing is marked."""
        return self.statistics(np.eye(self.cases), Thresholds())[:, STATISTICS.index("ap_pooled")]

    def case_best_dice(self) -> Values:
        """Each case's own highest Dice; NaN where nothing is marked."""
        best: Values = self._case_dice().max(axis=1)
        return np.where(self.marked.any(axis=1), best, np.nan)

    def case_dice_at(self, threshold: float | None) -> Values:
        """Each case's Dice of `score >= threshold`, down to the edge of its bin; NaN where nothing is marked."""
        return np.where(self.marked.any(axis=1), self._dice_at(self._case_dice(), threshold), np.nan)

    def prevalence(self) -> float:
        """The share of marked voxels: the average precision of knowing nothing."""
        return float(self.marked.sum() / max(1.0, self.marked.sum() + self.unmarked.sum()))

    def _edge(self, number: int) -> float:
        return float(self.low + self.bins[number] * (self.high - self.low) / BINS)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of one map that were fixed on other patients than those measured; None where nobody fixed them."""

    dice: float | None = None
    """Of the highest pooled Dice."""
    fpr_1: float | None = None
    """One unmarked voxel in a hundred reaches it."""
    fpr_01: float | None = None
    """One in a thousand."""

    def listed(self) -> tuple[float | None, float | None, float | None]:
        """In the order of STATISTICS."""
        return self.dice, self.fpr_1, self.fpr_01


def fixed_thresholds(curves: Curves) -> Thresholds:
    """The thresholds that the patients behind these curves give to others."""
    best = curves.best()[1]
    return Thresholds(best if np.isfinite(best) else None, *(curves.false_positive_threshold(rate) for rate in (0.01, 0.001)))


def _area(false: Values, covered: Values, lesions: Values, limit: float) -> Values:
    """Area under covered share against the rate of false voxels, up to the limit, over the limit; steps as a trapezium."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.concatenate([np.zeros((len(false), 1)), false / false[:, -1:]], axis=1)
        y = np.concatenate([np.zeros((len(false), 1)), covered / lesions[:, None]], axis=1)
    width = np.diff(np.minimum(x, limit), axis=1)
    step = np.diff(x, axis=1)
    part = np.divide(width, step, out=np.zeros_like(step), where=step > 0)
    top = y[:, :-1] + part * np.diff(y, axis=1)
    area: Values = np.sum(width * (y[:, :-1] + top) / 2, axis=1) / limit
    return area
