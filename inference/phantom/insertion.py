"""Lesions of exactly known size and contrast inserted into any lesion-free head, so that what is missed can be counted.

A lesion is a ball that multiplies the signal: contrast +0.5 makes it half as bright again as the tissue it replaces. Its rim
is as sharp as the grid allows: each voxel is changed by the share of it that the ball covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]

SUBSAMPLES = 4
"""Points per voxel and axis that tell how much of it a ball covers."""
EDGE_MM = 6.0
"""Least distance of a lesion's rim from the edge of the brain."""
APART_MM = 10.0
"""Least distance between the rims of two lesions: none is found for the sake of another."""
TISSUE = (0.75, 1.3)
"""Where lesions may be centred: signal between these parts of the brain's median, which leaves fluid out."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """A head with lesions."""

    image: FloatArray
    lesion: BoolArray
    """Voxels of which half or more is lesion; at least the one at its centre."""
    count: int
    """How many found room."""


def insert_lesions(
    image: FloatArray,
    brain: BoolArray,
    spacing_mm: Spacing,
    *,
    diameter_mm: float,
    contrast: float,
    count: int,
    rng: np.random.Generator,
) -> Inserted:
    """`count` lesions (fewer where there is no room) in image[slice, row, column], centred in tissue deep in the brain.

    ValueError where the contrast would make signal negative or the diameter is not above 0.
    """
    if contrast < -1 or diameter_mm <= 0:
        raise ValueError(f"a lesion of {diameter_mm} mm and contrast {contrast} cannot be painted")
    radius = diameter_mm / 2
    free = _places(image, brain, spacing_mm, radius)
    amount = np.zeros(image.shape, dtype=np.float32)
    steps = np.asarray(spacing_mm)
    done = 0
    while done < count and len(free):
        centre = free[rng.integers(len(free))]
        box, share = _ball(image.shape, centre, radius, spacing_mm)
        amount[box] = np.maximum(amount[box], share)
        apart = np.linalg.norm((free - centre) * steps, axis=1)
        free = free[apart > 2 * radius + APART_MM]
        done += 1
    return Inserted((image * (1 + np.float32(contrast) * amount)).astype(np.float32), amount >= 0.5, done)


def _places(image: FloatArray, brain: BoolArray, spacing_mm: Spacing, radius: float) -> NDArray[np.int64]:
    """Indices [n, axis] where a lesion may be centred."""
    deep = ndimage.distance_transform_edt(brain, sampling=spacing_mm) >= radius + EDGE_MM
    if not deep.any():
        return np.zeros((0, 3), dtype=np.int64)
    median = float(np.median(image[brain]))
    even = ndimage.gaussian_filter(image, [1.5 / step for step in spacing_mm])
    return np.argwhere(deep & (even > TISSUE[0] * median) & (even < TISSUE[1] * median))


def _ball(
    shape: tuple[int, ...], centre: NDArray[np.int64], radius: float, spacing_mm: Spacing
) -> tuple[tuple[slice, ...], FloatArray]:
    """The box around a ball and the share of each of its voxels that the ball covers; the centre's is at least a half."""
    reach = [math.ceil(radius / step) + 1 for step in spacing_mm]
    box = tuple(slice(max(0, int(c) - r), min(size, int(c) + r + 1)) for c, r, size in zip(centre, reach, shape, strict=True))
    offsets = (np.arange(SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5
    axes = []
    for part, c, step in zip(box, centre, spacing_mm, strict=True):
        places = np.arange(part.start, part.stop)[:, None] + offsets[None]
        axes.append((places - int(c)) ** 2 * step**2)
    squared = (
        axes[0][:, None, None, :, None, None] + axes[1][None, :, None, None, :, None] + axes[2][None, None, :, None, None, :]
    )
    share = (squared <= radius**2).mean(axis=(3, 4, 5)).astype(np.float32)
    middle = tuple(int(c) - part.start for c, part in zip(centre, box, strict=True))
    share[middle] = max(share[middle], 0.5)
    return box, share
