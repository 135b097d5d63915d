"""How far two masks' surfaces are apart in millimetres: 95th percentile, mean, and the share within a tolerance.

Surface voxels are those that a 6-neighbour erosion removes; the space beyond the array counts as outside. Distances are
between voxel centres, spacing included. Conventions are those of MONAI's metrics, which the tests compare with: `hd95_mm` is
the larger of the two directed percentiles (not the percentile of both pooled), `assd_mm` pools both directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

BoolArray = NDArray[np.bool_]

TOLERANCE_MM = 2.0
"""Of the normalised surface distance, also called surface Dice (Nikolov et al. 2018)."""


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """NaN, all three, where one of the masks is empty."""

    hd95_mm: float
    assd_mm: float
    nsd: float
    """Share of both surfaces that lies within the tolerance of the other; 1 is best."""


def surface_distances(
    predicted: BoolArray, truth: BoolArray, spacing_mm: tuple[float, float, float], tolerance_mm: float = TOLERANCE_MM
) -> SurfaceDistances:
    """The distances between the surfaces of predicted and truth[slice, row, column]. ValueError where shapes differ."""
    if predicted.shape != truth.shape:
        raise ValueError(f"shapes differ: {predicted.shape} and {truth.shape}")
    if not predicted.any() or not truth.any():
        return SurfaceDistances(math.nan, math.nan, math.nan)
    places = [_surface(mask) * np.asarray(spacing_mm) for mask in (predicted, truth)]
    there = KDTree(places[1]).query(places[0])[0]
    back = KDTree(places[0]).query(places[1])[0]
    both = np.concatenate([there, back])
    return SurfaceDistances(
        hd95_mm=float(max(np.quantile(there, 0.95), np.quantile(back, 0.95))),
        assd_mm=float(both.mean()),
        nsd=float(np.count_nonzero(both <= tolerance_mm + 1e-9) / both.size),
    )


def _surface(mask: BoolArray) -> NDArray[np.float64]:
    """Indices [n, axis] of the surface voxels."""
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    part = mask[box]
    edge = part & ~ndimage.binary_erosion(part)
    return np.argwhere(edge).astype(np.float64) + np.array([one.start for one in box], dtype=np.float64)
