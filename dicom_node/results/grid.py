"""Bringing a mask back to the grid of the series it was found in, without touching a voxel's value.

Results are encoded on the source grid: a mask on any other grid passes every validator and is shown by no viewer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

from dicom_node.series import SeriesVolume


class MisplacedMask(Exception):
    """Raised when a mask would not lie on the slices it was drawn on: a bug, never sent."""


class MarkedPlane(NamedTuple):
    """A slice on which something is marked, and the smallest ranges around it."""

    slice_index: int
    rows: slice
    columns: slice


def marked_planes(labels: NDArray[np.uint16]) -> list[MarkedPlane]:
    """The slices of labels[slice, row, column] that are not empty."""
    planes = []
    for index in np.flatnonzero(labels.reshape(len(labels), -1).max(axis=1)).tolist():
        rows = np.flatnonzero(labels[index].max(axis=1))
        first, last = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(labels[index, first:last].max(axis=0))
        planes.append(MarkedPlane(index, slice(first, last), slice(int(columns[0]), int(columns[-1]) + 1)))
    return planes


def on_source_grid(labels: Volume, series: SeriesVolume) -> NDArray[np.uint16]:
    """labels[slice, row, column] on the grid of the series, flipped and turned back if need be, never resampled.

    Raises MisplacedMask where that is impossible.
    """
    return np.asarray(_matched(labels, series), dtype=np.uint16)


def values_on_source_grid(values: Volume, series: SeriesVolume) -> NDArray[np.float32]:
    """values[slice, row, column] alike, as float32."""
    return np.asarray(_matched(values, series), dtype=np.float32)


def _matched(given: Volume, series: SeriesVolume) -> NDArray[np.generic]:
    if given.spatial_shape == series.volume.spatial_shape and np.allclose(given.affine, series.volume.affine, atol=1e-6):
        return np.asarray(given.array)
    try:
        matched = given.match_geometry(series.volume, tol=1e-3)
    except RuntimeError as error:
        raise MisplacedMask(f"the mask does not lie on the grid of the series: {error}") from error
    if matched.array.shape != series.volume.array.shape or np.count_nonzero(matched.array) != np.count_nonzero(given.array):
        raise MisplacedMask(f"the mask of shape {given.shape} does not fit the series of {series.volume.shape}")
    return np.asarray(matched.array)
