"""The score maps that are compared: what the localizer delivers, and the baselines that any method must beat.

All of them are seen through the same predicted brain mask; voxels outside it get the lowest score of all, so that a mask
that loses a lesion pays for it. Nothing is divided by a map's own maximum: a value means the same in every study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.preprocess import BRIGHTEST, UNIT, brain_median, standardise
from inference.types import Localization

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]

SCORE, RESIDUAL = "score", "residual"
BASELINES = ("intensity", "smoothed", "equalised")
SMOOTHED_MM = 2.5
"""In-plane deviation of the smoothed intensity: the best of 0, 1.25 and 2.5 mm on glioma development patients."""


@dataclass(frozen=True, slots=True)
class Span:
    """The range over which a map is binned, and the thresholds of its free-response curve."""

    low: float
    high: float
    first: float
    last: float

    def thresholds(self, count: int = 20) -> NDArray[np.float64]:
        """From lenient to strict."""
        return np.linspace(self.first, self.last, count)


SPANS: dict[str, Span] = {
    SCORE: Span(-1.0, 15.0, 2.0, 6.8),
    RESIDUAL: Span(-25.0, 25.0, 0.5, 8.0),
    "intensity": Span(-25.0, 25.0, 0.5, 8.0),
    "smoothed": Span(-25.0, 25.0, 0.5, 6.0),
    "equalised": Span(-25.0, 25.0, 0.9 * BRIGHTEST, BRIGHTEST),
}
"""Scores are calibrated (0 and above); the others are in standardised units, 4 being the brain's median."""
WORDS = {
    SCORE: "the score as delivered, both signs",
    RESIDUAL: "the raw map before calibration, bright departures only",
    "intensity": "baseline: raw intensity",
    "smoothed": "baseline: intensity smoothed by 2.5 mm",
    "equalised": "baseline: rank of the intensity inside the brain",
}


def maps_of(result: Localization, image: FloatArray, mm: Spacing) -> dict[str, FloatArray]:
    """Every map of SPANS on the grid of the input, the lowest of its span outside the brain."""
    brain = result.brain.array > 0
    raw = np.asarray(result.raw.array, dtype=np.float32)
    found = {SCORE: np.asarray(result.score.array, dtype=np.float32), RESIDUAL: raw, **intensity_maps(image, brain, mm)}
    return within(found, brain)


def within(maps: Mapping[str, FloatArray], brain: BoolArray) -> dict[str, FloatArray]:
    """The maps with everything outside the brain at the lowest value of their span."""
    return {name: np.where(brain, values, np.float32(SPANS[name].low)) for name, values in maps.items()}


def intensity_maps(image: FloatArray, brain: BoolArray, spacing_mm: Spacing) -> dict[str, FloatArray]:
    """The baselines: intensity in standardised units, the same smoothed inside the brain, and its rank inside the brain."""
    standard = standardise(image, brain, brain_median(image, brain))
    sigma = (0.6, SMOOTHED_MM / spacing_mm[1], SMOOTHED_MM / spacing_mm[2])
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smoothed = ndimage.gaussian_filter(standard * brain, sigma) / np.maximum(weight, 1e-3)
    equalised = np.full(image.shape, -UNIT, dtype=np.float32)
    values = image[brain]
    ranks = np.searchsorted(np.sort(values), values, side="right") / max(1, values.size)
    equalised[brain] = ranks * BRIGHTEST
    return {
        "intensity": standard,
        "smoothed": np.where(brain, smoothed, np.float32(-UNIT)).astype(np.float32),
        "equalised": equalised,
    }
