"""From what a PACS sends to what the network sees, and exactly back again.

Forward: axes swapped and reversed to foot-head, front-back, right-left (nothing is rotated, so an oblique series stays
on its own planes); resampled in the plane to the network's spacing; brain found; intensities divided by the brain's
median, and what is brighter stretched where the image is flat; cropped to the brain. Back: the same steps undone, onto the
grid and the index order of the input volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

from inference.card import ModelCard

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Window = tuple[slice, slice, slice]
T = TypeVar("T")

UNIT = 4.0
"""Standardised units per brain median: 0 is the median, -UNIT is no signal, +1 is a quarter brighter."""
BRIGHTEST = 14.0
"""Standardised intensities above this are cut off; no tissue inside the brain is 4.5 times as bright as its median."""
MOST_STRETCH = 2.0
"""No image is stretched further, so that noise never becomes contrast."""
ORIENTATION = "HPL"
"""Directions in which slices, rows and columns grow on the network's side: head, posterior, left."""
_MARGIN = 4  # pixels kept around the brain
_FINE_SLICES = 0.75  # slices closer than this part of the through-plane spacing are merged


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid along the axes of the reoriented volume, sharing its centre: points and spacing per axis."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A volume as the network sees it, cropped to the brain, with the way back."""

    images: FloatArray
    """[slice, row, column], standardised: UNIT * (signal / median - 1), stretched above 0; -UNIT outside the brain."""
    brain: BoolArray
    """On the same grid."""
    median: float
    """The median signal of the brain, in the units of the input."""
    stretch: float
    """By how much the contrast of a flat image was raised; 1 for most."""
    spacing_mm: tuple[float, float, float]
    """Spacing of slices, rows and columns on this grid."""
    source: Volume
    """The input, whose grid and index order `to_source` returns to."""
    window: Window
    """Where `images` lies in the uncropped network grid; may reach beyond it."""
    grid: Grid

    def to_source(self, values: FloatArray, order: int) -> FloatArray:
        """values[slice, row, column] of this grid on the input's grid and index order, 0 outside; order 0 nearest, 1 linear."""
        if values.shape != self.images.shape:
            raise ValueError(f"values have shape {values.shape}, the prepared images {self.images.shape}")
        whole = np.zeros(self.grid.shape, dtype=np.float32)
        for_whole, for_part = _overlap(self.window, self.grid.shape)
        whole[for_whole] = values[for_part]
        oriented = self.source.to_patient_orientation(ORIENTATION)
        shape, spacing = _three(oriented.spatial_shape), _three(oriented.spacing)
        back = resample(whole, self.grid.spacing_mm, Grid(shape, spacing), order)
        home = self.source.get_closest_patient_orientation()
        return np.ascontiguousarray(oriented.with_array(back).to_patient_orientation(home).array, dtype=np.float32)

    def from_source(self, values: FloatArray, order: int) -> FloatArray:
        """values on the input's grid and index order, brought to this grid: the other way round, for masks and references."""
        oriented = self.source.with_array(values).to_patient_orientation(ORIENTATION)
        whole = resample(np.asarray(oriented.array, dtype=np.float32), _three(oriented.spacing), self.grid, order)
        part = np.zeros(self.images.shape, dtype=np.float32)
        for_whole, for_part = _overlap(self.window, self.grid.shape)
        part[for_part] = whole[for_whole]
        return part

    def destandardise(self, values: FloatArray) -> FloatArray:
        """Standardised values in the units of the input."""
        return np.asarray((stretched(values, 1 / self.stretch) / UNIT + 1) * self.median, dtype=np.float32)


def prepare(volume: Volume, card: ModelCard, brain_mask: Callable[[FloatArray], BoolArray]) -> Prepared:
    """The volume on the card's grid, standardised and cropped to the brain; without any brain, uncropped and all -UNIT.

    `brain_mask` gets the whole reoriented volume on the card's in-plane spacing, in the units of the input.
    """
    oriented = volume.to_patient_orientation(ORIENTATION)
    spacing = _three(oriented.spacing)
    grid = network_grid(_three(oriented.spatial_shape), spacing, card.grid_spacing_mm)
    images = resample(np.asarray(oriented.array, dtype=np.float32), spacing, grid, order=1)
    brain = brain_mask(images)
    median = brain_median(images, brain)
    window = _window(brain, card.multiple)
    for_whole, for_part = _overlap(window, grid.shape)
    size = tuple(part.stop - part.start for part in window)
    cropped, mask = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.bool_)
    cropped[for_part], mask[for_part] = images[for_whole], brain[for_whole]
    standard = standardise(cropped, mask, median)
    stretch = stretch_of(standard, mask, card.ordinary_contrast)
    images = np.minimum(stretched(standard, stretch), np.float32(BRIGHTEST))
    return Prepared(images, mask, median, stretch, grid.spacing_mm, volume, window, grid)


def brain_median(images: FloatArray, brain: BoolArray) -> float:
    """The median signal inside the brain; 1 where there is no brain or no signal."""
    median = float(np.median(images[brain])) if brain.any() else 1.0
    return median if median > 0 else 1.0


def standardise(images: FloatArray, brain: BoolArray, median: float) -> FloatArray:
    """UNIT * (signal / median - 1) inside the brain, -UNIT outside; cut off at -UNIT and BRIGHTEST."""
    standard = np.clip(UNIT * (images / median - 1), -UNIT, BRIGHTEST)
    return np.where(brain, standard, np.float32(-UNIT)).astype(np.float32)


def stretch_of(standard: FloatArray, brain: BoolArray, ordinary: float) -> float:
    """What brings the upper quartile of a flat image's brain to `ordinary` above its median: 1 to MOST_STRETCH.

    The upper half of the brain's intensities tells the contrast between its tissues; the lower half would tell of fluid, and
    so of age. A large bright lesion only raises the quartile, and no image is ever made flatter. Takes standardised intensities.
    """
    if not brain.any():
        return 1.0
    median, upper = np.percentile(standard[brain], (50, 75))
    return float(np.clip(ordinary / max(upper - median, 1e-6), 1.0, MOST_STRETCH))


def stretched(standard: FloatArray, stretch: float) -> FloatArray:
    """Standardised intensities with what is brighter than the median raised by a factor; fluid stays as dark as it is."""
    return np.asarray(np.where(standard > 0, standard * np.float32(stretch), standard), dtype=np.float32)


def network_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], target_mm: tuple[float, float]) -> Grid:
    """The grid of target_mm[0] in the plane; slices stay as they are unless much closer than target_mm[1]."""
    through = spacing_mm[0] if spacing_mm[0] >= _FINE_SLICES * target_mm[1] else target_mm[1]
    wanted = (through, target_mm[0], target_mm[0])
    points = [max(1, int(np.ceil(n * s / w - 1e-6))) for n, s, w in zip(shape, spacing_mm, wanted, strict=True)]
    return Grid((points[0], points[1], points[2]), wanted)


def resample(values: FloatArray, spacing_mm: tuple[float, float, float], grid: Grid, order: int) -> FloatArray:
    """values[slice, row, column] on another grid with the same axes and centre, 0 outside.

    Order 0 takes the nearest voxel; order 1 is linear, and averages over the new voxel where that is the larger one.
    """
    for axis in range(3):
        old, new = (values.shape[axis], spacing_mm[axis]), (grid.shape[axis], grid.spacing_mm[axis])
        if old[0] == new[0] and abs(old[1] - new[1]) < 1e-6:
            continue
        if order == 0:
            values = _nearest(values, axis, old, new)
        else:
            weights = _weights(old, new)
            values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def _places(old: tuple[int, float], new: tuple[int, float]) -> NDArray[np.float64]:
    """Index on the old axis (points, spacing) of each point of the new one."""
    return np.asarray((np.arange(new[0]) - (new[0] - 1) / 2) * (new[1] / old[1]) + (old[0] - 1) / 2)


def _nearest(values: FloatArray, axis: int, old: tuple[int, float], new: tuple[int, float]) -> FloatArray:
    index = np.floor(_places(old, new) + 0.5 - 1e-9).astype(np.intp)
    taken = np.take(values, np.clip(index, 0, old[0] - 1), axis=axis)
    inside = (index >= 0) & (index < old[0])
    return np.asarray(taken * np.expand_dims(inside, tuple(a for a in range(3) if a != axis)), dtype=np.float32)


def _weights(old: tuple[int, float], new: tuple[int, float]) -> FloatArray:
    """Weights [new point, old point] of a triangle as wide as the larger of the two spacings; half a voxel past the rim is 0."""
    places = _places(old, new)
    width = max(1.0, new[1] / old[1])
    distance = np.abs(np.clip(places, 0, old[0] - 1)[:, None] - np.arange(old[0])[None])
    weights = np.clip(1 - distance / width, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    outside = (places < -0.5 - 1e-9) | (places > old[0] - 0.5 + 1e-9)
    weights[outside] = 0
    return weights.astype(np.float32)


def _window(brain: BoolArray, multiple: int) -> Window:
    """The box of the brain with a margin, its rows and columns grown to the multiple; everything where there is no brain."""
    if not brain.any():
        return (slice(0, brain.shape[0]), slice(0, brain.shape[1]), slice(0, brain.shape[2]))
    parts = []
    for axis in range(3):
        found = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = int(found[0]), int(found[-1]) + 1
        if axis > 0:
            first, last = first - _MARGIN, last + _MARGIN
            missing = -(last - first) % multiple
            first, last = first - missing // 2, last + missing - missing // 2
        parts.append(slice(first, last))
    return (parts[0], parts[1], parts[2])


def _overlap(window: Window, shape: tuple[int, int, int]) -> tuple[Window, Window]:
    """The part of a window that lies on a grid of this shape, in the indices of the grid and of the window."""
    whole = [slice(max(0, w.start), min(n, w.stop)) for w, n in zip(window, shape, strict=True)]
    part = [slice(g.start - w.start, g.stop - w.start) for g, w in zip(whole, window, strict=True)]
    return (whole[0], whole[1], whole[2]), (part[0], part[1], part[2])


def _three(values: tuple[T, ...]) -> tuple[T, T, T]:
    first, second, third = values
    return first, second, third
