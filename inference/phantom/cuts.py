"""Slices cut from an atlas: a random head pose, size and deformation, at any grid, thickness and level.

Everything is done by looking up tissue classes along warped planes, several planes to a slice for its thickness and
several points to a pixel for its size, so that a slice costs milliseconds and partial volume comes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.phantom.appearance import Look, paint, scan
from inference.phantom.fields import smooth_field
from inference.phantom.tissues import BRAIN, Atlas, Tissue

_POINTS = 2  # points per pixel and axis


@dataclass(frozen=True, slots=True)
class Cut:
    """One slice of a painted head."""

    image: NDArray[np.float32]
    """[row, column]; white matter is about 1."""
    brain: NDArray[np.float32]
    """Fraction of the pixel inside the brain mask."""
    white: NDArray[np.float32]
    """Fraction of white matter."""
    fluid: NDArray[np.float32]
    """Fraction of fluid inside the brain mask."""


def _warped_planes(
    rng: np.random.Generator, atlas: Atlas, level_mm: float, shape: tuple[int, int], spacing_mm: float, thickness_mm: float
) -> NDArray[np.float64]:
    """Atlas coordinates [3, plane, row, column] of the points of one slice at `level_mm` above the brain's centre."""
    rows, columns = shape[0] * _POINTS, shape[1] * _POINTS
    step = spacing_mm / _POINTS
    planes = 1 if thickness_mm < 1.5 else 2 if thickness_mm < 3.5 else 3
    depth = (np.arange(planes) - (planes - 1) / 2) * thickness_mm / planes
    grid = np.stack(
        np.meshgrid(
            depth, (np.arange(rows) - (rows - 1) / 2) * step, (np.arange(columns) - (columns - 1) / 2) * step, indexing="ij"
        )
    )
    tilt, nod, turn = rng.normal(0, (0.05, 0.12, 0.09))
    about_row = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    about_column = np.array([[np.cos(nod), np.sin(nod), 0], [-np.sin(nod), np.cos(nod), 0], [0, 0, 1]])
    about_slice = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    size = np.diag(1 / rng.uniform(0.9, 1.12, 3))
    points = np.einsum("ij,jprc->iprc", size @ about_slice @ about_column @ about_row, grid)
    for axis, amplitude in enumerate(rng.uniform(0, 2.5, 3)):
        points[axis] += amplitude * smooth_field(rng, (rows, columns), 28.0 / step)
    points += atlas.centre[:, None, None, None]
    points[0] += level_mm
    return points


def _pool(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    planes = values.shape[0]
    pooled = values.reshape(planes, shape[0], _POINTS, shape[1], _POINTS).mean(axis=(0, 2, 4))
    return np.asarray(pooled, dtype=np.float32)


def cut(
    rng: np.random.Generator,
    atlas: Atlas,
    look: Look,
    level_mm: float,
    shape: tuple[int, int],
    spacing_mm: float,
    thickness_mm: float,
) -> Cut:
    """One random slice at `level_mm` above the brain's centre, on a square grid centred on the head."""
    points = np.rint(_warped_planes(rng, atlas, level_mm, shape, spacing_mm, thickness_mm)).astype(np.intp)
    inside = np.ones(points.shape[1:], dtype=np.bool_)
    for axis, extent in enumerate(atlas.tissue.shape):
        inside &= (points[axis] >= 0) & (points[axis] < extent)
        np.clip(points[axis], 0, extent - 1, out=points[axis])
    index = tuple(points)
    tissue = np.where(inside, atlas.tissue[index], np.uint8(Tissue.AIR))
    brain = _pool((atlas.brain[index] & inside).astype(np.float32), shape)
    fine = (spacing_mm / _POINTS,) * 2
    signal = paint(tissue, look, rng, fine)
    fluid = _pool(np.isin(tissue, (Tissue.CSF, Tissue.VENTRICLE)).astype(np.float32), shape)
    if look.rim > 0:
        signal += look.rim * _near_ventricle(tissue)
    image = scan(_pool(signal, shape), look, rng, (spacing_mm, spacing_mm))
    white = _pool(np.isin(tissue, (Tissue.WHITE, Tissue.CEREBELLAR_WHITE)).astype(np.float32), shape)
    return Cut(image, brain, white, np.minimum(fluid, brain))


def _near_ventricle(tissue: NDArray[np.uint8]) -> NDArray[np.float32]:
    """1 in the few points of brain next to a ventricle."""
    ventricle = tissue == Tissue.VENTRICLE
    near = ventricle.copy()
    for axis in (1, 2):
        for shift in (-2, -1, 1, 2):
            near |= np.roll(ventricle, shift, axis)
    return np.asarray(near & np.isin(tissue, [int(t) for t in BRAIN]) & ~ventricle, dtype=np.float32)
