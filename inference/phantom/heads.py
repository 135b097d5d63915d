"""Whole synthetic heads as an axial series would show them, with lesions whose place and size are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.phantom.appearance import Look, draw_flair, paint, scan
from inference.phantom.fields import smooth_field
from inference.phantom.tissues import BRAIN, Atlas, Tissue

FloatArray = NDArray[np.float32]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

SIGNAL = 330.0
"""Signal of white matter in a synthetic head."""


@dataclass(frozen=True, slots=True)
class SyntheticHead:
    """A head as an axial series would show it: [slice foot to head, row anterior to posterior, column right to left]."""

    image: NDArray[np.float32]
    """0..1000, white matter near 330."""
    lesion: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    spacing_mm: Spacing
    """Slice, row and column spacing."""
    origin_lps: tuple[float, float, float]
    """Position of voxel (0, 0, 0) in LPS mm; slices run along +z, rows along +y, columns along +x."""


@dataclass(frozen=True, slots=True)
class Lesions:
    """How many lesions to put into the white matter, how large and how bright."""

    count: int
    radius_mm: tuple[float, float]
    contrast: tuple[float, float]
    """Signal added, as a fraction of white matter; negative is darker."""
    apart_mm: float = 30.0
    """Least distance from the rim of one to the centre of the next."""


def grid_points(shape: Shape, spacing_mm: Spacing, centre: tuple[float, float, float]) -> FloatArray:
    """Points [3 = x y z, slice, row, column] in mm of a grid whose centre lies at `centre`."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([x + centre[0], y + centre[1], z + centre[2]]).astype(np.float32)


def plane_offsets(slice_spacing_mm: float) -> NDArray[np.float64]:
    """Where within a slice, in mm from its middle, tissue is looked up: partial volume needs two planes in thick slices."""
    planes = 1 if slice_spacing_mm < 2 else 2
    return np.asarray((np.arange(planes) - (planes - 1) / 2) * slice_spacing_mm / planes)


def scan_head(
    tissue: NDArray[np.uint8], points: FloatArray, spacing_mm: Spacing, look: Look, lesions: Lesions, rng: np.random.Generator
) -> SyntheticHead:
    """The head that tissue[plane, slice, row, column] at `points` is, as that look shows it."""
    middle = tissue[len(tissue) // 2]
    signal = paint(tissue, look, rng, spacing_mm).mean(axis=0)
    amount = _lesion_amount(rng, middle, points, lesions)
    signal += amount * np.float32(rng.uniform(*lesions.contrast))
    image = scan(np.maximum(signal, 0).astype(np.float32), look, rng, spacing_mm[1:])
    origin = (float(points[0, 0, 0, 0]), float(points[1, 0, 0, 0]), float(points[2, 0, 0, 0]))
    clipped = np.clip(image * SIGNAL, 0, 1000).astype(np.float32)
    return SyntheticHead(clipped, amount > 0.5, _brain_mask(middle, spacing_mm), spacing_mm, origin)


def head_from_atlas(
    atlas: Atlas,
    *,
    seed: int,
    spacing_mm: Spacing = (5.0, 0.9, 0.9),
    lesions: Lesions | None = None,
    ordinary: bool = True,
    draw: Callable[[np.random.Generator], Look] = draw_flair,
) -> SyntheticHead:
    """An atlas, a little turned and resized, as an axial series from 45 mm below its brain to 12 mm above it.

    Without `lesions` it is healthy. `ordinary` leaves the ends of the range of scanners out. `draw` is the weighting.
    """
    rng = np.random.default_rng([seed, 7])
    look = moderate(draw(rng)) if ordinary else draw(rng)
    low, high = atlas.brain_levels
    centre = atlas.centre
    below = centre[0] - max(0, low - 45)
    above = min(atlas.tissue.shape[0], high + 12) - centre[0]
    shape = (int((below + above) / spacing_mm[0]), round(235 / spacing_mm[1]), round(200 / spacing_mm[2]))
    points = grid_points(shape, spacing_mm, (0.0, 0.0, float(above - below) / 2))
    angle = rng.normal(0, 0.06, 3)
    turn = np.array([[1, angle[0], angle[1]], [-angle[0], 1, angle[2]], [-angle[1], -angle[2], 1]]) / rng.uniform(0.94, 1.06)
    tissue = np.stack([_look_up(atlas, points, turn, dz) for dz in plane_offsets(spacing_mm[0])])
    return scan_head(tissue, points, spacing_mm, look, lesions or Lesions(0, (1, 1), (0, 0)), rng)


def moderate(look: Look) -> Look:
    """An ordinary scanner: none of the imperfections at the end of its range."""
    return Look(
        look.levels,
        min(look.fat, 1.8),
        min(look.regional, 0.05),
        min(look.texture, 0.02),
        min(look.shading, 0.05),
        min(look.noise, 0.035),
        min(look.blur_mm, 0.7),
        min(look.rim, 0.1),
    )


def _look_up(atlas: Atlas, points: FloatArray, turn: NDArray[np.float64], dz: float) -> NDArray[np.uint8]:
    offset = points[::-1].reshape(3, -1).astype(np.float64)
    offset[0] += dz
    index = np.rint(turn @ offset + atlas.centre[:, None]).astype(np.intp)
    inside = np.ones(index.shape[1], dtype=np.bool_)
    for axis, extent in enumerate(atlas.tissue.shape):
        inside &= (index[axis] >= 0) & (index[axis] < extent)
        np.clip(index[axis], 0, extent - 1, out=index[axis])
    found = np.where(inside, atlas.tissue[tuple(index)], np.uint8(Tissue.AIR))
    return np.asarray(found.reshape(points.shape[1:]), dtype=np.uint8)


def _brain_mask(tissue: NDArray[np.uint8], spacing_mm: Spacing) -> NDArray[np.bool_]:
    parenchyma = np.isin(tissue, [int(t) for t in BRAIN])
    steps = max(1, round(3.5 / spacing_mm[1]))
    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), steps)[None]
    return np.asarray(ndimage.binary_closing(parenchyma, disc), dtype=np.bool_)


def _lesion_amount(rng: np.random.Generator, tissue: NDArray[np.uint8], points: FloatArray, plan: Lesions) -> FloatArray:
    """How much of each voxel is lesion: separate bent balls centred in cerebral white matter."""
    amount = np.zeros(tissue.shape, dtype=np.float32)
    if plan.count == 0:
        return amount
    white = (tissue == Tissue.WHITE) & (points[2] > -10) & (points[2] < 36)
    free = np.flatnonzero(white.ravel())
    outline = smooth_field(rng, tissue.shape, 12.0)
    flat = points.reshape(3, -1)
    for _ in range(plan.count):
        if free.size == 0:
            break
        centre = flat[:, rng.choice(free)]
        radius = float(rng.uniform(*plan.radius_mm))
        distance = np.sqrt(((points - centre[:, None, None, None]) ** 2).sum(axis=0))
        soft = min(3.0, 0.5 * radius)
        amount = np.maximum(amount, np.clip((radius * (1 + 0.12 * outline) - distance) / soft + 0.5, 0, 1))
        free = free[np.linalg.norm(flat[:, free] - centre[:, None], axis=0) > radius + plan.apart_mm]
    return np.asarray(amount * np.isin(tissue, [int(t) for t in BRAIN]), dtype=np.float32)
