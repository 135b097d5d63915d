"""Confidence intervals by drawing patients again with replacement, and what differs between two methods on the same draws.

The interval is the percentile one, or BCa (Efron 1987) below 50 patients. All studies of a patient are drawn together. Two
methods are compared on the same draws, so the difference is paired; its p-value is corrected over data sets (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""weights[draw, case] -> value[draw]: any metric, with each case counted so often."""

DRAWS = 2000
FEW = 50
"""Below this many patients the percentile interval is too narrow and BCa is used."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval over patients; NaN bounds where the set cannot give one."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one method exceeds another on the same patients."""

    estimate: Estimate
    p: float
    """Two-sided, from the draws; NaN where there are fewer than three patients."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often each case counts in each draw; the same for every method that is compared."""

    ones: Values
    """[1, case]: the set itself."""
    drawn: Values
    """[draw, case]."""
    left_out: Values
    """[patient, case]: each patient left out in turn."""

    @classmethod
    def of(cls, patients: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Resampling:
        """Draws for these cases, named by patient."""
        names, index = np.unique(np.asarray(patients), return_inverse=True)
        number = len(names)
        rng = np.random.default_rng(seed)
        drawn = np.zeros((draws, number))
        for row in drawn:
            row += np.bincount(rng.integers(0, number, number), minlength=number)
        return cls(np.ones((1, len(index))), drawn[:, index], (1.0 - np.eye(number))[:, index])

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return len(self.left_out)

    def rows(self) -> Values:
        """All weightings one below the other, as `estimates` wants a statistic's values for them."""
        return np.concatenate([self.ones, self.drawn, self.left_out])

    def estimate(self, values: Values) -> Estimate:
        """The figure and its interval from a statistic's values[row] on `rows()`."""
        point, drawn, left_out = self._split(values)
        if self.patients < 3 or not len(drawn):
            return Estimate(point)
        return Estimate(point, *interval(point, drawn, left_out if self.patients < FEW else None))

    def difference(self, values: Values, others: Values) -> Difference:
        """By how much the first exceeds the second, both on `rows()`."""
        gap = values - others
        _, drawn, _ = self._split(gap)
        finite = drawn[np.isfinite(drawn)]
        if self.patients < 3 or not finite.size:
            return Difference(self.estimate(gap), float("nan"))
        tail = min(np.count_nonzero(finite <= 0), np.count_nonzero(finite >= 0))
        return Difference(self.estimate(gap), min(1.0, 2.0 * (tail + 1) / (finite.size + 1)))

    def _split(self, values: Values) -> tuple[float, Values, Values]:
        draws = len(self.drawn)
        return float(values[0]), values[1 : 1 + draws], values[1 + draws :]


def interval(point: float, drawn: Values, left_out: Values | None) -> tuple[float, float]:
    """The 95 % interval: percentile, or BCa where the values with each patient left out are given.

    Draws that give no number are left out. Where BCa is undefined (all draws alike, or on one side) it is the
    percentile interval.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or not np.isfinite(point):
        return float("nan"), float("nan")
    alpha = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if left_out is not None:
        alpha = _bca(point, drawn, left_out[np.isfinite(left_out)], alpha)
    low, high = np.quantile(drawn, alpha)
    return float(low), float(high)


def _bca(point: float, drawn: Values, left_out: Values, alpha: Values) -> Values:
    below = (np.count_nonzero(drawn < point) + np.count_nonzero(drawn <= point)) / (2 * drawn.size)
    gap = left_out.mean() - left_out if left_out.size else np.zeros(1)
    spread = float(np.sum(gap**2))
    if not 0 < below < 1 or spread <= 1e-24:
        return alpha
    acceleration = float(np.sum(gap**3)) / (6 * spread**1.5)
    shift = float(ndtri(below))
    z = shift + ndtri(alpha)
    return np.asarray(ndtr(shift + z / (1 - acceleration * z)), dtype=np.float64)


def mean_of(values: Values) -> Statistic:
    """The mean over cases of values[case], those that are NaN left out."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def statistic(weights: Values) -> Values:
        counted = weights @ known
        return np.divide(weights @ filled, counted, out=np.full(len(weights), np.nan), where=counted > 0)

    return statistic


def ratio_of(above: Values, below: Values) -> Statistic:
    """The sum over cases of `above`, over that of `below`: found lesions over lesions."""

    def statistic(weights: Values) -> Values:
        whole = weights @ below
        return np.divide(weights @ above, whole, out=np.full(len(weights), np.nan), where=whole > 0)

    return statistic


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), in the order given; NaN stays NaN and is not counted."""
    found = [(value, place) for place, value in enumerate(p) if np.isfinite(value)]
    corrected = [float("nan")] * len(p)
    highest = 0.0
    for rank, (value, place) in enumerate(sorted(found)):
        highest = max(highest, min(1.0, value * (len(found) - rank)))
        corrected[place] = highest
    return corrected
