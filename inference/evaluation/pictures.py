"""Pictures for the report: one slice with what is marked and what was found, as PNG bytes. No name, no identity."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

WINDOW = (-4.0, 5.0)
"""Standardised units shown as black and white: no signal, and a little over twice the brain's median."""
MARKED, FOUND = (76, 201, 240), (255, 150, 50)
"""Outline of what is marked (blue), outline of what was found (orange)."""
SIDE = 300
MARGIN_MM = 12.0


def worst_slice(standard: FloatArray, found: BoolArray, truth: BoolArray, spacing_mm: tuple[float, float, float]) -> bytes:
    """The slice with most wrong voxels, plain and outlined side by side; standard[slice, row, column] in standard units."""
    wrong = (found != truth).sum(axis=(1, 2))
    brain = standard > WINDOW[0]
    index = int(np.argmax(wrong)) if wrong.any() else int(np.argmax(brain.sum(axis=(1, 2))))
    box = _window(np.asarray(brain.any(axis=0)), spacing_mm[1:])
    grey, factor = _enlarged(standard[index][box], spacing_mm[1:])
    plain = np.repeat(grey[..., None], 3, axis=2)
    outlined = plain.copy()
    for mask, colour in ((truth, MARKED), (found, FOUND)):
        large = _repeated(mask[index][box], grey.shape, factor)
        outlined[large & ~ndimage.binary_erosion(large)] = colour
    stream = BytesIO()
    Image.fromarray(np.concatenate([plain, outlined], axis=1)).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _window(inside: BoolArray, spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    if not inside.any():
        return slice(0, inside.shape[0]), slice(0, inside.shape[1])
    rows, columns = ndimage.find_objects(inside.astype(np.int8))[0]
    down, across = (round(MARGIN_MM / step) for step in spacing_mm)
    return (
        slice(max(0, rows.start - down), min(inside.shape[0], rows.stop + down)),
        slice(max(0, columns.start - across), min(inside.shape[1], columns.stop + across)),
    )


def _enlarged(part: FloatArray, spacing_mm: tuple[float, float]) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The slice with square pixels and its longer side SIDE, and pixels per source row and column."""
    extent = part.shape[0] * spacing_mm[0], part.shape[1] * spacing_mm[1]
    scale = SIDE / max(extent)
    size = max(1, round(extent[1] * scale)), max(1, round(extent[0] * scale))
    low, high = WINDOW
    grey = (np.clip((part - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    shown = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    return shown, (size[1] / part.shape[0], size[0] / part.shape[1])


def _repeated(mask: BoolArray, shape: tuple[int, ...], factor: tuple[float, float]) -> BoolArray:
    rows = np.minimum((np.arange(shape[0]) / factor[0]).astype(np.int64), mask.shape[0] - 1)
    columns = np.minimum((np.arange(shape[1]) / factor[1]).astype(np.int64), mask.shape[1] - 1)
    return np.asarray(mask[np.ix_(rows, columns)], dtype=np.bool_)
