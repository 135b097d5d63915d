"""How far a study lies from those a model was calibrated on: a few figures of its standardised image and of the residual.

A study's figures are compared with those of the reference studies on the model's card: the Mahalanobis distance (their
mean and covariance), and the share of reference studies that lie at least as far out as it does when each is left out in
turn (a conformal p-value; Vovk, Gammerman, Shafer 2005). Where the card has no reference the gate is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.card import DomainReference
from inference.types import DomainFit, Refusal

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Figures = NDArray[np.float64]

FIGURES = (
    "dark tail of the intensities",
    "lower quartile of the intensities",
    "upper quartile of the intensities",
    "bright tail of the intensities",
    "brightness of the brain's rim against its depth",
    "brightest tissue of the rim against the depth",
    "noise",
    "sharpness",
    "shading",
    "residual of ordinary tissue",
    "residual of the most unusual tissue",
)
"""What is measured, in the order of every vector here; the words go into remarks."""
MOST_SLICES = 24
"""Slices looked at, spread evenly over the brain: the figures are medians and quantiles, more would not change them."""
RIM_MM = (3.0, 10.0)
DEPTH_MM = 18.0
SHADING_MM = 25.0
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
"""Blind to planes and edges along the axes; its answer to white noise is 6 deviations (Immerkaer 1996)."""
REMARKED = 0.05
"""Share of ordinary studies that the reader is told of."""
REFUSE_FACTOR = 1.5
"""With 49 reference studies a real T1 series lay at 2.2 times the distance that is remarked upon, one tumour patient at 1.3."""
LEAST_STUDIES = 20
LEAST_VARIANCE = 1e-4
MOST_NAMED = 3
SHRINKAGE = 0.05
"""Share of the diagonal in the covariance, so that a few dozen references give one that can be inverted."""


def assess(figures: Figures, reference: DomainReference) -> DomainFit:
    """How a study with these figures compares with the reference. ValueError where the reference measured other figures."""
    if reference.figures != FIGURES:
        raise ValueError("the card's reference was made of other figures than this program measures")
    distance = _distance(figures, np.asarray(reference.mean), np.asarray(reference.covariance))
    as_far = sum(other >= distance for other in reference.distances)
    return DomainFit(
        distance=distance,
        p=(as_far + 1) / (len(reference.distances) + 1),
        limit=reference.remark_above,
        outside=_outside(figures, reference),
    )


def check_domain(fit: DomainFit, reference: DomainReference) -> tuple[str, ...]:
    """A remark for the reader where the study lies outside; raises Refusal where it lies too far outside."""
    if fit.distance <= reference.remark_above:
        return ()
    told = "; ".join(fit.outside[:MOST_NAMED]) or "its figures together, though none of them alone"
    if reference.refuse_above is not None and fit.distance > reference.refuse_above:
        limit = f"distance {fit.distance:.1f}, the limit is {reference.refuse_above:.1f}"
        raise Refusal("out-of-distribution", f"the images are unlike all that the model was calibrated on ({limit}): {told}")
    return (f"Outside the range this model was calibrated on (distance {fit.distance:.1f}, limit {fit.limit:.1f}): {told}.",)


def domain_reference(figures: Sequence[Figures], words: str, *, refuse: bool = True) -> DomainReference:
    """The reference that studies with these figures make. ValueError where there are fewer than LEAST_STUDIES.

    The reader is told of one ordinary study in twenty; refused is only what lies half as far out again as that.
    """
    table = np.stack(figures) if len(figures) else np.zeros((0, len(FIGURES)))
    if len(table) < LEAST_STUDIES:
        raise ValueError(f"{len(table)} reference studies, at least {LEAST_STUDIES} are needed")
    mean, covariance = _fit(table)
    left_out = sorted(_distance(row, *_fit(np.delete(table, number, axis=0))) for number, row in enumerate(table))
    rank = min(len(left_out), math.ceil((len(left_out) + 1) * (1 - REMARKED)))
    return DomainReference(
        reference=words,
        figures=FIGURES,
        mean=tuple(mean.tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        lowest=tuple(table.min(axis=0).tolist()),
        highest=tuple(table.max(axis=0).tolist()),
        distances=tuple(left_out),
        remark_above=left_out[rank - 1],
        refuse_above=REFUSE_FACTOR * left_out[rank - 1] if refuse else None,
    )


def _fit(table: Figures) -> tuple[Figures, Figures]:
    covariance = np.cov(table, rowvar=False)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance)) + LEAST_VARIANCE * np.eye(table.shape[1])
    return table.mean(axis=0), shrunk


def _distance(figures: Figures, mean: Figures, covariance: Figures) -> float:
    gap = figures - mean
    return float(np.sqrt(gap @ np.linalg.solve(covariance, gap)))


def _outside(figures: Figures, reference: DomainReference) -> tuple[str, ...]:
    deviation = np.sqrt(np.diag(np.asarray(reference.covariance)))
    low, high = np.asarray(reference.lowest), np.asarray(reference.highest)
    beyond = np.maximum(low - figures, figures - high) / deviation
    order = [int(number) for number in np.argsort(-beyond) if beyond[number] > 0]
    return tuple(f"{FIGURES[n]} {figures[n]:.2f} (reference {low[n]:.2f} to {high[n]:.2f})" for n in order)


def figures_of(images: FloatArray, brain: BoolArray, residual: FloatArray, spacing_mm: tuple[float, float, float]) -> Figures:
    """FIGURES of one study: images, brain and residual[slice, row, column] in standardised units on the network's grid.

    ValueError where there is no brain.
    """
    levels = np.flatnonzero(brain.any(axis=(1, 2)))
    if not levels.size:
        raise ValueError("no brain to describe")
    chosen = levels[np.unique(np.linspace(0, levels.size - 1, MOST_SLICES).round().astype(np.int64))]
    images, brain, residual = images[chosen], brain[chosen], np.abs(residual[chosen])
    deep = np.stack([ndimage.distance_transform_edt(one, sampling=spacing_mm[1:]) for one in brain])
    rim = images[(deep >= RIM_MM[0]) & (deep < RIM_MM[1])]
    core = images[deep >= min(DEPTH_MM, 0.7 * float(deep.max()))]
    if not rim.size or not core.size:
        rim = core = images[brain]
    middle = float(np.median(core))
    ordinary, unusual = np.quantile(residual[brain], (0.5, 0.95))
    found = [
        *np.quantile(images[brain], (0.05, 0.25, 0.75, 0.95)),
        float(np.median(rim)) - middle,
        float(np.quantile(rim, 0.9)) - middle,
        _noise(images, deep, spacing_mm),
        _sharpness(images, deep, spacing_mm),
        _shading(images, brain, spacing_mm),
        np.log(max(float(ordinary), 1e-3)),
        np.log(max(float(unusual), 1e-3)),
    ]
    return np.asarray(found, dtype=np.float64)


def _noise(images: FloatArray, deep: FloatArray, spacing_mm: tuple[float, float, float]) -> float:
    """Logarithm of the robust deviation of pixel noise, in standardised units."""
    inner = deep > 3 * spacing_mm[1]
    answer = ndimage.convolve(images, LAPLACIAN[None], mode="nearest")[inner]
    return float(np.log(max(1.4826 * float(np.median(np.abs(answer))) / 6, 1e-3))) if answer.size else 0.0


def _sharpness(images: FloatArray, deep: FloatArray, spacing_mm: tuple[float, float, float]) -> float:
    """Logarithm of how much neighbouring pixels differ, over how much pixels four apart do."""
    inner = deep > 5 * spacing_mm[1]
    near = np.abs(images[:, :, 1:] - images[:, :, :-1])[inner[:, :, 1:]]
    far = np.abs(images[:, :, 4:] - images[:, :, :-4])[inner[:, :, 4:]]
    if not near.size or not far.size:
        return 0.0
    return float(np.log(max(float(np.mean(near)), 1e-3) / max(float(np.mean(far)), 1e-3)))


def _shading(images: FloatArray, brain: BoolArray, spacing_mm: tuple[float, float, float]) -> float:
    """Deviation of the slow variation of tissue within slices, in standardised units."""
    step = max(1, round(4.0 / spacing_mm[1]))
    tissue = (brain & (np.abs(images) < 2.5))[:, ::step, ::step].astype(np.float32)
    sigma = (0.0, SHADING_MM / (step * spacing_mm[1]), SHADING_MM / (step * spacing_mm[2]))
    weight = ndimage.gaussian_filter(tissue, sigma)
    slow = ndimage.gaussian_filter(images[:, ::step, ::step] * tissue, sigma) / np.maximum(weight, 1e-3)
    inside = slow[tissue > 0]
    return float(np.std(inside)) if inside.size else 0.0
