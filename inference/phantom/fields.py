"""Smooth random fields, the raw material of every deformation, shading, texture and outline of the phantoms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], wavelength: float) -> NDArray[np.float32]:
    """A field of zero mean and unit variance that varies over about `wavelength` grid steps; cubic B-splines."""
    coarse = tuple(max(4, round(n / wavelength) + 3) for n in shape)
    knots = rng.standard_normal(coarse, dtype=np.float32)
    field = knots
    for axis, n in enumerate(shape):
        field = _grow(field, axis, n, wavelength)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), dtype=np.float32)


def _grow(field: NDArray[np.float32], axis: int, n: int, wavelength: float) -> NDArray[np.float32]:
    """One axis of the knots interpolated to `n` points by the uniform cubic B-spline."""
    step = min(1 / wavelength, (field.shape[axis] - 3) / max(n - 1, 1))
    place = np.arange(n) * step
    first = np.minimum(place.astype(np.intp), field.shape[axis] - 4)
    t = (place - first).astype(np.float32)
    weights = np.zeros((n, field.shape[axis]), dtype=np.float32)
    basis = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    for k, weight in enumerate(basis):
        weights[np.arange(n), first + k] = weight
    return np.asarray(np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis), dtype=np.float32)


def grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float32]:
    """White noise blurred by `sigma` grid steps, at unit variance."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    blurred = ndimage.gaussian_filter(noise, sigma) if sigma > 0 else noise
    return np.asarray(blurred / max(float(blurred.std()), 1e-6), dtype=np.float32)
