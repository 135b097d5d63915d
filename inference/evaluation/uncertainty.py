"""Whether uncertainty is higher where a localization errs: ranking of wrong voxels, risk as doubtful ones are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

COVERAGES = tuple(np.linspace(0.05, 1.0, 20).round(2).tolist())


@dataclass(frozen=True, slots=True)
class UncertaintyQuality:
    """NaN where there is no uncertainty, no error, or nothing but errors."""

    error_auroc: float
    """P(uncertainty of a wrong voxel above that of a right one) + half P(equal); 0.5 says nothing."""
    risk_area: float
    """Mean share of wrong voxels over all coverages, the most certain taken first; lower is better."""
    risk: tuple[float, ...]
    """Share of wrong voxels at each of COVERAGES."""


UNKNOWN = UncertaintyQuality(math.nan, math.nan, ())


def uncertainty_quality(uncertainty: FloatArray, wrong: BoolArray) -> UncertaintyQuality:
    """Of uncertainty[voxel] and whether each voxel was classified wrongly; equal uncertainties share their risk."""
    if uncertainty.shape != wrong.shape:
        raise ValueError(f"shapes differ: {uncertainty.shape} and {wrong.shape}")
    errors, count = int(wrong.sum()), wrong.size
    if not 0 < errors < count:
        return UNKNOWN
    values, place = np.unique(uncertainty, return_inverse=True)
    total = np.bincount(place.ravel(), minlength=values.size).astype(np.float64)
    bad = np.bincount(place.ravel(), weights=wrong.ravel(), minlength=values.size).astype(np.float64)
    good = total - bad
    below = np.cumsum(good) - good
    auroc = float(np.sum(bad * (below + 0.5 * good)) / errors / (count - errors))
    risk = _risk_at(total, bad, np.asarray(COVERAGES))
    fine = _risk_at(total, bad, (np.arange(1000) + 1) / 1000)
    return UncertaintyQuality(auroc, float(fine.mean()), tuple(float(value) for value in risk))


def _risk_at(total: Values, bad: Values, coverage: Values) -> Values:
    """Share of errors among the most certain voxels; within a tie they are spread evenly."""
    seen, wrong = np.concatenate([[0], np.cumsum(total)]), np.concatenate([[0], np.cumsum(bad)])
    wanted = coverage * seen[-1]
    return np.asarray(np.interp(wanted, seen, wrong) / wanted)
