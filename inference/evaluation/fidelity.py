"""What a healthy estimate does to tissue that is healthy already: it should leave it alone.

Compared are the image and its healthy estimate in standardised units inside the brain, where nothing is marked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.preprocess import UNIT

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DATA_RANGE = 2 * UNIT
"""From no signal to twice the brain's median: the same for every study, never the image's own extremes."""
SIGMA = 1.5
RADIUS = 5
"""A Gaussian window of 11 x 11 pixels (Wang et al. 2004)."""
K1, K2 = 0.01, 0.03


@dataclass(frozen=True, slots=True)
class Fidelity:
    """NaN where there is no estimate, or nothing to compare."""

    ssim: float
    psnr_db: float
    mae: float
    """In standardised units: 4 is the brain's median signal."""
    l1_ratio: float
    """Mean departure of marked voxels over that of unmarked ones; above 1 where the estimate departs more on lesions."""


UNKNOWN = Fidelity(math.nan, math.nan, math.nan, math.nan)


def fidelity(image: FloatArray, healthy: FloatArray, marked: BoolArray, brain: BoolArray) -> Fidelity:
    """Fidelity of healthy[slice, row, column] to image on unmarked voxels of the brain, both in standardised units."""
    ordinary = brain & ~marked
    if not ordinary.any():
        return UNKNOWN
    apart = np.abs(image.astype(np.float64) - healthy)
    mse = float(np.mean(apart[ordinary] ** 2))
    on_lesion = float(np.mean(apart[marked & brain])) if (marked & brain).any() else math.nan
    mae = float(np.mean(apart[ordinary]))
    return Fidelity(
        ssim=float(np.mean(ssim_map(image, healthy, DATA_RANGE)[ordinary])),
        psnr_db=psnr_db(mse, DATA_RANGE),
        mae=mae,
        l1_ratio=on_lesion / mae if mae > 0 else math.nan,
    )


def psnr_db(mean_squared_error: float, data_range: float) -> float:
    """20 log10 of the range over the root mean squared error; infinite where there is none."""
    if mean_squared_error <= 0:
        return math.inf
    return 20 * math.log10(data_range) - 10 * math.log10(mean_squared_error)


def ssim_map(image: FloatArray, other: FloatArray, data_range: float) -> Values:
    """Structural similarity of each pixel of [.., row, column], slice by slice (Wang et al. 2004, eq. 13)."""
    x, y = image.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    shared = _window(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    return np.asarray(above / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)))


def _window(values: Values) -> Values:
    flat = (0,) * (values.ndim - 2)
    return np.asarray(ndimage.gaussian_filter(values, (*flat, SIGMA, SIGMA), radius=(*flat, RADIUS, RADIUS)))
