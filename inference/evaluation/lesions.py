"""Marked lesions one by one: how large, of which sign, from which score on each counts as found; and false findings.

lesion       26-connected component of what is marked, of at least the stated volume
found        a tenth or more of its voxels predicted (`any`: one voxel; `iou`: the findings that touch it overlap it by
             more than 0.1, intersection over union); several findings may share a lesion and one may find several
false        a predicted component of which no voxel lies within 2 mm of anything marked
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.metrics import ALL_26_NEIGHBOURS, HIT_OVERLAP, NEAR_MM

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Labels = NDArray[np.int32]
Spacing = tuple[float, float, float]

FALSE_PER_SCAN = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False findings per scan at which the free-response curve is read."""
RING_MM = 4.0
"""Width of the surroundings that a lesion's contrast is measured against."""
ISO = 0.08
"""A lesion within 8 % of its surroundings' signal is called isointense."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One marked lesion, and how it fared under one set of findings."""

    volume_mm3: float
    contrast: float
    """Mean signal over that of brain within 4 mm of it, less 1; NaN where there is none."""
    found: bool
    touched: bool
    overlaps: bool
    """Intersection over union with the findings that touch it above 0.1."""

    @property
    def sign(self) -> str:
        """`brighter`, `darker` or `isointense` than what surrounds it; `unknown` where nothing does."""
        if math.isnan(self.contrast):
            return "unknown"
        if abs(self.contrast) <= ISO:
            return "isointense"
        return "brighter" if self.contrast > 0 else "darker"


@dataclass(frozen=True, slots=True)
class Matched:
    """The lesions of one case, and its findings."""

    lesions: tuple[Lesion, ...]
    findings: int
    false_findings: int


@dataclass(frozen=True, slots=True)
class FreeResponse:
    """One case at a list of thresholds, the same for all cases."""

    lesions: int
    found: Values
    false: Values


def lesion_map(truth: BoolArray, spacing_mm: Spacing, minimum_mm3: float) -> Labels:
    """The number of the lesion at each voxel, 1..n; what is marked but too small has no number."""
    labels, _ = ndimage.label(truth, structure=ALL_26_NEIGHBOURS)
    sizes = np.bincount(labels.ravel()) * math.prod(spacing_mm)
    kept = sizes >= minimum_mm3 - 1e-9
    kept[0] = False
    number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.asarray(number[labels], dtype=np.int32)


def match(predicted: BoolArray, truth: BoolArray, labels: Labels, image: FloatArray, brain: BoolArray, mm: Spacing) -> Matched:
    """The lesions numbered in `labels` under the predicted mask; image gives their contrast. All [slice, row, column]."""
    findings, count = ndimage.label(predicted, structure=ALL_26_NEIGHBOURS)
    sizes = np.bincount(findings.ravel(), minlength=count + 1)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        own = labels[box] == number
        touching = findings[box][own]
        shared = int(np.count_nonzero(touching))
        met = np.unique(touching[touching > 0])
        union = int(own.sum()) + int(sizes[met].sum()) - shared
        lesions.append(
            Lesion(
                volume_mm3=float(own.sum()) * math.prod(mm),
                contrast=_contrast(number, box, labels, truth, image, brain, mm),
                found=bool(shared > 0 and shared >= HIT_OVERLAP * own.sum()),
                touched=shared > 0,
                overlaps=union > 0 and shared / union > 0.1,
            )
        )
    true = np.unique(findings[near(truth, mm) & predicted])
    return Matched(tuple(lesions), int(count), int(count) - int(np.count_nonzero(true)))


def near(truth: BoolArray, spacing_mm: Spacing, distance_mm: float = NEAR_MM) -> BoolArray:
    """Voxels within that distance of anything marked."""
    if not truth.any():
        return np.zeros_like(truth)
    distance = ndimage.distance_transform_edt(~truth, sampling=spacing_mm)
    return np.asarray(distance <= distance_mm + 1e-9)


def free_response(
    score: FloatArray, brain: BoolArray, truth: BoolArray, labels: Labels, mm: Spacing, thresholds: Values, least_mm3: float
) -> FreeResponse:
    """Lesions found and false findings of at least `least_mm3` at each threshold, inside the brain."""
    needed = _found_from(np.where(brain, score, -np.inf), labels)
    box = _box(brain)
    score, inside, beside = score[box], brain[box], near(truth, mm)[box]
    least = least_mm3 / math.prod(mm)
    false = []
    for threshold in thresholds:
        found, count = ndimage.label(inside & (score >= threshold), structure=ALL_26_NEIGHBOURS)
        sizes = np.bincount(found.ravel(), minlength=count + 1)
        wrong = sizes >= least - 1e-6
        wrong[np.unique(found[beside])] = False
        wrong[0] = False
        false.append(int(wrong.sum()))
    hits = [int(np.count_nonzero(needed >= threshold)) for threshold in thresholds]
    return FreeResponse(len(needed), np.array(hits, dtype=np.float64), np.array(false, dtype=np.float64))


def free_response_score(found: Values, false: Values, lesions: float, scans: float) -> Values:
    """Sensitivity at each of FALSE_PER_SCAN from summed hits and false findings at falling strictness; NaN of no lesions."""
    if lesions <= 0 or scans <= 0:
        return np.full(len(FALSE_PER_SCAN), np.nan)
    x, y = false / scans, found / lesions
    order = np.lexsort((y, x))
    best = np.maximum.accumulate(y[order])
    return np.interp(FALSE_PER_SCAN, np.concatenate([[0.0], x[order]]), np.concatenate([[0.0], best]))


def _found_from(score: FloatArray, labels: Labels) -> Values:
    """For each lesion the highest threshold at which a tenth of its voxels is above."""
    needed = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        values = np.sort(score[box][labels[box] == number])[::-1]
        needed.append(values[max(0, math.ceil(HIT_OVERLAP * values.size) - 1)])
    return np.array(needed, dtype=np.float64)


def _contrast(
    number: int, box: tuple[slice, ...], labels: Labels, truth: BoolArray, image: FloatArray, brain: BoolArray, mm: Spacing
) -> float:
    pad = [math.ceil(RING_MM / step) for step in mm]
    wide = tuple(
        slice(max(0, part.start - more), min(size, part.stop + more))
        for part, more, size in zip(box, pad, labels.shape, strict=True)
    )
    own = labels[wide] == number
    distance = ndimage.distance_transform_edt(~own, sampling=mm)
    ring = (distance <= RING_MM) & brain[wide] & ~truth[wide]
    if not ring.any():
        return math.nan
    around = float(np.mean(image[wide][ring]))
    return float(np.mean(image[wide][own])) / around - 1 if around > 0 else math.nan


def _box(mask: BoolArray) -> tuple[slice, ...]:
    boxes = ndimage.find_objects(mask.astype(np.int8))
    return tuple(boxes[0]) if boxes else tuple(slice(0, size) for size in mask.shape)
