"""Slices of studies believed healthy, as networks learn from them: cleaned, the unhealthiest left out, on the training grid.

Marked lesions and what is unusually bright are painted out. What had to be painted much is listed for a person to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.data import Study, paint_out
from inference.phantom.banks import UNIT, Bank
from inference.preprocess import Prepared

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Shape = tuple[int, int]

MOST_PAINTED = 0.12
"""A slice of whose brain more had to be painted out is no example of health."""
LEAST_BRAIN_MM2 = 1500.0
_MARGIN = 2  # voxels around a marked lesion that are painted out too


@dataclass(frozen=True, slots=True)
class Suspect:
    """A training slice believed healthy that does not look it."""

    source: str
    patient: str
    slice: int
    painted: float
    """Share of its brain that is unusually bright or marked, and was painted out."""
    used: bool


def healthy_slices(source: str, study: Study, prepared: Prepared, shape: Shape) -> tuple[Bank | None, list[Suspect]]:
    """The cleaned slices of a prepared study, centred in slices of that shape, and those that do not look healthy.

    No bank where nothing is left of the study.
    """
    marked = np.zeros(study.volume.spatial_shape, dtype=np.float32)
    if study.lesion is not None:
        marked += ndimage.binary_dilation(study.lesion, iterations=_MARGIN)
    doubtful = prepared.from_source(marked, order=0) > 0.5
    images, brains, suspects = [], [], []
    for level in levels_with_brain(prepared):
        inside = prepared.brain[level]
        cleaned, painted = paint_out(prepared.images[level] + UNIT, inside, doubtful[level])
        share = float(painted.sum() / inside.sum())
        used = share <= MOST_PAINTED
        if share > MOST_PAINTED / 4:
            suspects.append(Suspect(source, study.patient, level, round(share, 4), used))
        if used:
            images.append(cleaned - UNIT)
            brains.append(inside)
    return (as_bank(np.stack(images), np.stack(brains), shape) if images else None), suspects


def levels_with_brain(prepared: Prepared) -> list[int]:
    """The slices that show enough brain to learn from."""
    areas = prepared.brain.sum(axis=(1, 2)) * prepared.spacing_mm[1] * prepared.spacing_mm[2]
    return [int(level) for level in np.flatnonzero(areas >= LEAST_BRAIN_MM2)]


def as_bank(images: FloatArray, brain: BoolArray, shape: Shape, lesion: BoolArray | None = None) -> Bank:
    """Standardised images, brain and lesion[slice, row, column] as a bank; white matter is what is close to the median."""
    stack = centred(images, shape, -UNIT)
    inside = centred(brain.astype(np.float32), shape, 0.0)
    white = (inside > 0) & (np.abs(ndimage.gaussian_filter(stack, (0, 1, 1))) < 0.6)
    marked = None if lesion is None else (centred(lesion.astype(np.float32), shape, 0.0) * 255).astype(np.uint8)
    return Bank(stack.astype(np.float16), (inside * 255).astype(np.uint8), (white * 255).astype(np.uint8), marked)


def centred(values: FloatArray, shape: Shape, fill: float) -> FloatArray:
    """values[slice, row, column] in the middle of slices of that shape, cut or filled."""
    out = np.full((len(values), *shape), fill, dtype=np.float32)
    take, put = [], []
    for size, wanted in zip(values.shape[1:], shape, strict=True):
        common = min(size, wanted)
        take.append(slice((size - common) // 2, (size - common) // 2 + common))
        put.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
    out[:, put[0], put[1]] = values[:, take[0], take[1]]
    return out
