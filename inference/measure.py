"""What a region of voxels measures in the patient: volume, place, longest axis, extents and side.

Indices are (slice, row, column) of the source grid; the volume's affine takes them to LPS in millimetres, so
oblique, reversed and anisotropic grids need no case of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from inference.types import Contrast, Finding

IndexArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

CROSSES_FROM = 0.2
"""A finding is on both sides where its smaller share is at least this; below, the larger side names it."""
DISTANCE_ROWS = 1024
"""Rows of the distance matrix held at once: 1024 x 10 000 hull points are 80 MB."""


@dataclass(frozen=True, slots=True)
class Region:
    """The voxels of one component: indices[voxel, axis], and the sign of its departure."""

    contrast: Contrast
    indices: IndexArray

    @property
    def voxels(self) -> int:
        """How many voxels the region has."""
        return len(self.indices)


def measure(region: Region, number: int, grid: Volume, score: NDArray[np.float32], midline_x: float | None) -> Finding:
    """The finding that a region is, on the grid of `grid` and with `score` of the same shape.

    `midline_x` is the LPS x in mm of the plane between the hemispheres, None where it is not known.
    """
    points = to_lps(region.indices, grid)
    low, high = region.indices.min(axis=0), region.indices.max(axis=0) + 1
    voxel_size = np.abs(grid.affine[:3, :3]).sum(axis=1)
    extents = points.max(axis=0) - points.min(axis=0) + voxel_size
    scores = score[tuple(region.indices.T)].astype(np.float64)
    centroid = points.mean(axis=0)
    return Finding(
        number=number,
        contrast=region.contrast,
        voxels=region.voxels,
        volume_mm3=region.voxels * float(grid.voxel_volume),
        centroid_lps=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        long_axis_mm=long_axis_mm(region.indices, grid),
        extents_mm=(float(extents[0]), float(extents[1]), float(extents[2])),
        bounding_box=tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)),  # type: ignore[arg-type]
        peak_score=float(scores.max()),
        mean_score=float(scores.mean()),
        hemisphere=None if midline_x is None else hemisphere(points[:, 0], midline_x),
    )


def to_lps(indices: IndexArray, grid: Volume) -> FloatArray:
    """LPS positions in mm [point, axis] of voxel centres given as indices[point, axis]."""
    affine = np.asarray(grid.affine, dtype=np.float64)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def hemisphere(x_lps: FloatArray, midline_x: float) -> str:
    """`left` or `right` of the patient (LPS x rises leftwards), `both` where a fifth or more lies beyond."""
    left = float(np.mean(x_lps > midline_x)) + 0.5 * float(np.mean(x_lps == midline_x))
    if CROSSES_FROM <= left <= 1.0 - CROSSES_FROM:
        return "both"
    return "left" if left > 0.5 else "right"


def long_axis_mm(indices: IndexArray, grid: Volume) -> float:
    """The greatest distance in mm between two voxel centres. Exact: both ends are corners of the convex hull.

    The hull is taken of the indices, which are whole numbers: an affine map keeps corners, and nothing is
    rounded.
    """
    corners = to_lps(_hull_corners(_ends_of_rows(indices)), grid)
    greatest = 0.0
    for start in range(0, len(corners), DISTANCE_ROWS):
        block = corners[start : start + DISTANCE_ROWS]
        squared = np.zeros((len(block), len(corners)))
        for axis in range(3):
            squared += np.subtract.outer(block[:, axis], corners[:, axis]) ** 2
        greatest = max(greatest, float(squared.max()))
    return float(np.sqrt(greatest))


def _ends_of_rows(indices: IndexArray) -> IndexArray:
    """First and last voxel of every line along the last axis: no other can be a corner of the hull."""
    order = np.lexsort((indices[:, 2], indices[:, 1], indices[:, 0]))
    ordered = indices[order]
    same_line = np.all(ordered[1:, :2] == ordered[:-1, :2], axis=1)
    first = np.concatenate([[True], ~same_line])
    last = np.concatenate([~same_line, [True]])
    return ordered[first | last]


def _hull_corners(points: IndexArray) -> IndexArray:
    """The corners of the convex hull of whole-number points in space, a plane, a line, or of one alone."""
    relative = points - points[0]
    rank = int(np.linalg.matrix_rank(relative.astype(np.float64)))
    if rank == 0:
        return points[:1]
    if rank == 1:
        along = relative @ relative[np.argmax(np.abs(relative).sum(axis=1))]
        return points[[int(along.argmin()), int(along.argmax())]]
    if rank == 3:
        return points[ConvexHull(points).vertices]
    _, _, axes = np.linalg.svd(relative.astype(np.float64), full_matrices=True)
    kept = [axis for axis in range(3) if axis != int(np.abs(axes[2]).argmax())]
    return points[ConvexHull(points[:, kept]).vertices]
