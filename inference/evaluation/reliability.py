"""Whether numbers mean what they say: the score's claim on ordinary tissue, and the chance of a lesion behind a score.

The score s claims that one reference voxel in 10^s scores as high. On unmarked brain of the set that share is counted. What
chance of a marked voxel a score stands for is learned on other patients (isotonic regression) and judged on these by the
expected calibration error (Guo et al. 2017) and the Brier score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Values = NDArray[np.float64]

CLAIMS = (1.0, 2.0, 3.0, 4.0)
"""Scores whose claim is checked: one reference voxel in ten, a hundred, a thousand, ten thousand."""
CHANCE_BINS = 20


@dataclass(frozen=True, slots=True)
class Claim:
    """What one score says of ordinary tissue, and what was counted."""

    score: float
    said: float
    counted: float
    """Share of unmarked brain voxels that score at least as high."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Voxels whose predicted chance falls into one twentieth."""

    voxels: float
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well predicted chances agree with what is marked, pooled over voxels."""

    ece: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


def claims(scores: Values, unmarked: Values) -> tuple[Claim, ...]:
    """The claims of a calibrated score, from its distinct values and how many unmarked voxels have each."""
    total = float(unmarked.sum())
    if total == 0:
        return ()
    return tuple(Claim(s, 10.0**-s, float(unmarked[scores >= s - 1e-6].sum()) / total) for s in CLAIMS)


@dataclass(frozen=True, slots=True)
class ChanceOfLesion:
    """score -> chance that the voxel is marked, rising; steps between the scores it was learned at."""

    scores: Values
    chance: Values

    @classmethod
    def learned(cls, scores: Values, marked: Values, unmarked: Values) -> ChanceOfLesion:
        """From counts of voxels by score on other patients. ValueError where there is none."""
        counts = marked + unmarked
        used = counts > 0
        if not used.any():
            raise ValueError("no voxel to learn the chance of a lesion from")
        order = np.argsort(scores[used])
        share, weight = (marked[used] / counts[used])[order], counts[used][order]
        return cls(scores[used][order], np.asarray(isotonic_regression(share, weights=weight).x))

    def __call__(self, scores: Values) -> Values:
        """The chance at each score."""
        return np.interp(scores, self.scores, self.chance)


def reliability(chance: Values, marked: Values, unmarked: Values, bins: int = CHANCE_BINS) -> Reliability:
    """Of predicted chances[n] with how many marked and unmarked voxels have each; bins [k/n, (k+1)/n), the last closed."""
    counts = marked + unmarked
    total = float(counts.sum())
    if total == 0:
        return Reliability(math.nan, math.nan, ())
    place = np.minimum(np.floor(chance * bins + 1e-12), bins - 1).astype(np.int64)
    voxels = np.bincount(place, weights=counts, minlength=bins)
    safe = np.maximum(voxels, 1e-12)
    predicted = np.bincount(place, weights=counts * chance, minlength=bins) / safe
    observed = np.bincount(place, weights=marked, minlength=bins) / safe
    brier = float(np.sum(marked * (1 - chance) ** 2 + unmarked * chance**2)) / total
    rows = [ReliabilityBin(float(v), float(p), float(o)) for v, p, o in zip(voxels, predicted, observed, strict=True) if v > 0]
    return Reliability(float(np.sum(voxels * np.abs(predicted - observed))) / total, brier, tuple(rows))


def shortfall(found: Sequence[Claim]) -> float:
    """The greatest factor by which more ordinary voxels reach a score than it claims; below 1 where none does."""
    return max((claim.counted / claim.said for claim in found), default=math.nan)
