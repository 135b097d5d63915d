"""One study, localized and compared with what is marked in it; small enough to keep for every study of a set.

Every map is kept as a histogram (`curves.CaseCurve`), everything at the delivered operating point as numbers. Nothing in
here is a mean over cases and nothing depends on other cases: pooling is `cohort`'s.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.data import Study, Traits
from inference.evaluation.curves import CaseCurve, case_curve
from inference.evaluation.fidelity import UNKNOWN as NO_FIDELITY
from inference.evaluation.fidelity import Fidelity, fidelity
from inference.evaluation.lesions import FreeResponse, Matched, free_response, lesion_map, match
from inference.evaluation.maps import SPANS, maps_of
from inference.evaluation.pictures import worst_slice
from inference.evaluation.surfaces import SurfaceDistances, surface_distances
from inference.evaluation.uncertainty import UNKNOWN as NO_UNCERTAINTY
from inference.evaluation.uncertainty import UncertaintyQuality, uncertainty_quality
from inference.localizer import Context, Localizer
from inference.metrics import LesionCount, count_lesions
from inference.preprocess import brain_median, standardise
from inference.types import Cost, Localization

FloatArray = NDArray[np.float32]
Values = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]

FAR_MM = 5.0
"""A finding farther than this from anything marked is counted apart: borders of lesions are drawn by taste."""
TOP_VOXELS = 100
"""A slice's score is the mean of its highest hundred voxels; a study's the 99.5th percentile inside the brain."""
STUDY_PERCENTILE = 99.5


@dataclass(frozen=True, slots=True)
class Delivered:
    """The findings as delivered, against what is marked."""

    found_voxels: int
    marked_voxels: int
    shared_voxels: int
    voxel_ml: float
    surfaces: SurfaceDistances
    matched: Matched
    far: LesionCount
    """Counted with false findings those farther than 5 mm from anything marked."""

    @property
    def dice(self) -> float:
        """Of all findings with everything marked; NaN where nothing is marked (never 1)."""
        whole = self.found_voxels + self.marked_voxels
        return 2 * self.shared_voxels / whole if self.marked_voxels else math.nan

    @property
    def volume_error_ml(self) -> float:
        """Volume of the findings less that of what is marked."""
        return (self.found_voxels - self.marked_voxels) * self.voxel_ml


@dataclass(frozen=True, slots=True)
class ImageScores:
    """One number for the study and for each slice with brain, under one map."""

    study: float
    slices: Values


@dataclass(frozen=True, slots=True)
class Case:
    """One study, measured."""

    patient: str
    traits: Traits
    slices: int
    slice_marked: BoolArray
    """For each slice with brain, whether anything is marked on it."""
    curves: dict[str, CaseCurve]
    responses: dict[str, FreeResponse]
    images: dict[str, ImageScores]
    delivered: Delivered
    fidelity: Fidelity
    uncertainty: UncertaintyQuality
    lost_by_mask: float
    """Share of marked voxels outside the predicted brain; NaN where nothing is marked."""
    cost: Cost
    seconds: float
    remarks: tuple[str, ...]
    picture: bytes
    """PNG of the slice with most wrong voxels; empty where none was asked for."""

    @property
    def has_marks(self) -> bool:
        """Whether anything is marked in the study."""
        return self.delivered.marked_voxels > 0


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts, stated in every report."""

    minimum_mm3: float = 20.0
    """Marked components smaller than this are no lesions: they are counted as voxels only."""
    pictures: bool = True


def measure_case(localizer: Localizer, study: Study, rules: Rules, context: Context) -> Case:
    """One study localized and compared with what is marked in it. Raises what the localizer raises."""
    started = time.perf_counter()
    result = localizer.localize(study.volume, context)
    seconds = time.perf_counter() - started
    image = np.asarray(study.volume.array, dtype=np.float32)
    truth = np.zeros(image.shape, dtype=np.bool_) if study.lesion is None else study.lesion
    brain = result.brain.array > 0
    mm = (study.volume.spacing[0], study.volume.spacing[1], study.volume.spacing[2])
    labels = lesion_map(truth, mm, rules.minimum_mm3)
    maps = maps_of(result, image, mm)
    with_brain = np.flatnonzero(brain.any(axis=(1, 2)))
    marked_slices = np.asarray(truth.any(axis=(1, 2)))[with_brain]
    standard = standardise(image, brain, brain_median(image, brain))
    return Case(
        patient=study.patient,
        traits=study.traits,
        slices=image.shape[0],
        slice_marked=marked_slices,
        curves={name: _curve(values, truth, labels, brain, name) for name, values in maps.items()},
        responses={
            name: free_response(values, brain, truth, labels, mm, SPANS[name].thresholds(), rules.minimum_mm3)
            for name, values in maps.items()
        },
        images={name: _image_scores(values, brain) for name, values in maps.items()},
        delivered=_delivered(result, truth, labels, image, mm),
        fidelity=_fidelity(result, image, truth, standard),
        uncertainty=_uncertainty(result, truth),
        lost_by_mask=float((truth & ~brain).sum() / truth.sum()) if truth.any() else math.nan,
        cost=result.provenance.cost,
        seconds=seconds,
        remarks=result.provenance.quality,
        picture=worst_slice(standard, result.labels.array > 0, truth, mm) if rules.pictures else b"",
    )


def _curve(score: FloatArray, truth: BoolArray, labels: NDArray[np.int32], brain: BoolArray, name: str) -> CaseCurve:
    """Small marked components have no lesion number, yet their voxels are marked: they go under one more number."""
    span = SPANS[name]
    numbered = int(labels.max(initial=0))
    rest = truth & (labels == 0)
    outside = float(np.count_nonzero(~brain & ~truth))
    if not rest.any():
        return replace(case_curve(score, labels, span.low, span.high), outside=outside)
    whole = case_curve(score, np.where(rest, numbered + 1, labels).astype(np.int32), span.low, span.high)
    shares = case_curve(score, labels, span.low, span.high)
    return CaseCurve(whole.bins, whole.marked, whole.unmarked, shares.lesion_share, shares.saturated_share, numbered, outside)


def _image_scores(values: FloatArray, brain: BoolArray) -> ImageScores:
    """Never of a map divided by its own maximum: a quiet study must score low."""
    if not brain.any():
        return ImageScores(math.nan, np.zeros(0))
    means = []
    for part, inside in zip(values, brain, strict=True):
        if inside.any():
            found = part[inside]
            top = min(TOP_VOXELS, found.size)
            means.append(float(np.mean(np.partition(found, found.size - top)[-top:])))
    return ImageScores(float(np.percentile(values[brain], STUDY_PERCENTILE)), np.array(means))


def _delivered(result: Localization, truth: BoolArray, labels: NDArray[np.int32], image: FloatArray, mm: Spacing) -> Delivered:
    found = result.labels.array > 0
    brain = result.brain.array > 0
    return Delivered(
        found_voxels=int(found.sum()),
        marked_voxels=int(truth.sum()),
        shared_voxels=int((found & truth).sum()),
        voxel_ml=math.prod(mm) / 1000,
        surfaces=surface_distances(found, truth, mm),
        matched=match(found, truth, labels, image, brain, mm),
        far=count_lesions(found, truth, mm, 0.0, FAR_MM),
    )


def _fidelity(result: Localization, image: FloatArray, truth: BoolArray, standard: FloatArray) -> Fidelity:
    if result.pseudo_healthy is None:
        return NO_FIDELITY
    brain = result.brain.array > 0
    healthy = standardise(np.asarray(result.pseudo_healthy.array, dtype=np.float32), brain, brain_median(image, brain))
    return fidelity(standard, healthy, truth, brain)


def _uncertainty(result: Localization, truth: BoolArray) -> UncertaintyQuality:
    if result.uncertainty is None:
        return NO_UNCERTAINTY
    brain = result.brain.array > 0
    wrong = (result.labels.array > 0) != truth
    return uncertainty_quality(np.asarray(result.uncertainty.array, dtype=np.float32)[brain], wrong[brain])
