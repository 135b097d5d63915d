"""From a raw map to a calibrated score, a mask and findings measured in the patient.

The score is minus log10 of the fraction of reference voxels that score at least as high, by a table for each
sign of contrast or by one for both. Nothing is normalised by the image at hand: the same voxel value means the same in every
study. Coordinates are LPS in millimetres, arrays [slice, row, column].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from inference.card import Calibration, OperatingPointCard
from inference.measure import Region, measure
from inference.types import Contrast, Finding

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]

ALL_26_NEIGHBOURS = np.ones((3, 3, 3), dtype=np.int8)
STUDY_PERCENTILE = 99.5
TABLE_POINTS = 256
"""Points of a calibration table: 36 for each factor of ten where ten million voxels are the reference."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a post-processor makes of one raw map; arrays on the grid of that map."""

    score: FloatArray
    labels: NDArray[np.uint16]
    findings: tuple[Finding, ...]
    findings_left_out: int
    study_score: float


class PostProcessor(Protocol):
    """Turns a raw map into a score and findings."""

    def smooth(self, raw: FloatArray, spacing_mm: Spacing) -> FloatArray:
        """raw[slice, row, column] of the network's grid as it is calibrated; 0 outside the brain.

        It is smoothed before it goes back to the source grid; the reference voxels of a calibration pass through too.
        """
        ...

    def calibrate(self, raw: NDArray[np.floating], reference: str) -> Calibration:
        """The tables of reference voxels raw[n], smoothed; `reference` says in words what they are."""
        ...

    def assess(self, raw: Volume, brain: BoolArray, calibration: Calibration, operating_point: OperatingPointCard) -> Assessment:
        """Score, labels and findings of the smoothed raw[slice, row, column] inside `brain` of the same shape."""
        ...


@dataclass(frozen=True, slots=True)
class Support:
    """Voxels in company weigh more: what of the neighbourhood is striking, in all three directions, is added to each.

    raw + weight * (share of the neighbourhood above `above` - share below -`above`), the neighbourhood a Gaussian.
    """

    above: float
    """The raw score from which a voxel is striking."""
    sigma_mm: float
    weight: float

    def add(self, raw: FloatArray, spacing_mm: Spacing) -> FloatArray:
        """raw[slice, row, column], supported."""
        striking = (raw > self.above).astype(np.float32) - (raw < -self.above)
        sigma = [self.sigma_mm / spacing for spacing in spacing_mm]
        share = ndimage.gaussian_filter(striking, sigma, truncate=3.0)
        return np.asarray(raw + self.weight * share, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Components:
    """Calibrates, thresholds each sign of contrast, and takes the 26-connected components as findings."""

    median: int = 1
    """Side, in voxels within the slice, of a median filter over the raw map; 1 leaves it as it is."""

    through_sigma: float = 0.0
    """Standard deviation, in slices, of a Gaussian across the slices: a departure that neighbours share weighs more."""

    support: Support | None = None
    """What neighbours add, after both filters."""

    one_table: bool = False
    """Whether both signs of contrast share one calibration table, for raw scores that measure both ways alike."""

    def calibrate(self, raw: NDArray[np.floating], reference: str) -> Calibration:
        """One table for each sign, or one for both."""
        return calibrate_together(raw, reference) if self.one_table else calibrate(raw, reference)

    def smooth(self, raw: FloatArray, spacing_mm: Spacing) -> FloatArray:
        """The raw map after the median filter and the Gaussian across slices, with the support of its neighbours."""
        smooth = raw if self.median == 1 else ndimage.median_filter(raw, size=(1, self.median, self.median))
        if self.through_sigma > 0:
            smooth = np.asarray(ndimage.gaussian_filter1d(smooth, self.through_sigma, axis=0), dtype=np.float32)
        return smooth if self.support is None else self.support.add(smooth, spacing_mm)

    def assess(self, raw: Volume, brain: BoolArray, calibration: Calibration, operating_point: OperatingPointCard) -> Assessment:
        """Score, labels and findings, largest first. Each sign has its score; the larger is the voxel's."""
        scores = {sign: _scored_inside(brain, raw.array, calibration, sign) for sign in Contrast}
        score = np.maximum(scores[Contrast.BRIGHTER], scores[Contrast.DARKER])
        is_brighter = scores[Contrast.BRIGHTER] >= scores[Contrast.DARKER]
        regions: list[Region] = []
        for sign in Contrast:
            own = is_brighter if sign is Contrast.BRIGHTER else ~is_brighter
            above = brain & own & (scores[sign] >= operating_point.threshold[sign])
            found = _components(above, sign, raw, operating_point.minimum_volume_mm3)
            least = operating_point.least_evidence.get(sign, 0.0)
            regions += [region for region in found if _evidence(region, scores[sign], raw.voxel_volume) >= least]
        regions.sort(key=lambda region: (-region.voxels, _place(raw, region)))  # the same on every grid of the same voxels
        kept = regions[: operating_point.maximum_findings]
        labels = np.zeros(score.shape, dtype=np.uint16)
        for number, region in enumerate(kept, start=1):
            labels[tuple(region.indices.T)] = number
        brain_x = _brain_midline_x(raw, brain)
        findings = tuple(measure(region, number, raw, score, brain_x) for number, region in enumerate(kept, start=1))
        return Assessment(score, labels, findings, len(regions) - len(kept), study_score(score, brain))


def calibrated(raw: FloatArray, calibration: Calibration, sign: Contrast) -> FloatArray:
    """The score of each raw value for one sign of contrast: float32, never falling with the departure, 0 or
    more.

    Between two entries of the table log10 of the fraction is interpolated. Beyond every reference voxel there is no fraction to
    state: the score goes on rising, by less than one more, so that what departs further still ranks higher.
    """
    departure = raw if sign is Contrast.BRIGHTER else -raw
    table_raw = np.asarray(calibration.raw[sign], dtype=np.float64)
    table_score = -np.log10(np.asarray(calibration.exceedance, dtype=np.float64))
    first = np.concatenate([[True], np.diff(table_raw) > 0])
    table_raw, table_score = table_raw[first], table_score[first]
    score = np.clip(np.interp(departure, table_raw, table_score), 0.0, math.log10(calibration.voxels))
    beyond = np.maximum(departure - table_raw[-1], 0.0) / _last_unit(table_raw, table_score)
    return np.asarray(score + beyond / (1 + beyond), dtype=np.float32)


def _last_unit(table_raw: NDArray[np.float64], table_score: NDArray[np.float64]) -> float:
    """How much raw score the last whole unit of score took."""
    before = float(np.interp(table_score[-1] - 1, table_score, table_raw))
    return max(float(table_raw[-1]) - before, 1e-6)


def check_calibration(calibration: Calibration) -> None:
    """ValueError, with the reason, where a table is not one: empty, falling, or of unequal length."""
    fractions = np.asarray(calibration.exceedance)
    if not len(fractions) or np.any(fractions <= 0) or np.any(fractions > 1) or np.any(np.diff(fractions) > 0):
        raise ValueError("exceedance must be falling fractions above 0, at most 1, and at least one of them")
    for sign in Contrast:
        raw = calibration.raw.get(sign)
        if raw is None or len(raw) != len(fractions):
            raise ValueError(f"raw scores for {sign}: {0 if raw is None else len(raw)}, expected {len(fractions)}")
        if not np.all(np.isfinite(raw)) or np.any(np.diff(raw) < 0):
            raise ValueError(f"raw scores for {sign} must be finite and rising")
    if calibration.voxels < 1:
        raise ValueError(f"a reference of {calibration.voxels} voxels")


def calibrate(raw: NDArray[np.floating], reference: str) -> Calibration:
    """The tables of reference voxels raw[n], each the smoothed raw score of one voxel inside a brain; a table for each sign.

    At rank k of n a table holds the k-th highest departure and k/n; ranks fall geometrically from n to 1,
    so that the tail, where thresholds lie, is as fine as the reference allows. ValueError where there is no
    finite voxel.
    """
    return _tables(reference, brighter=raw, darker=-raw)


def calibrate_together(raw: NDArray[np.floating], reference: str) -> Calibration:
    """The same with one table for both signs: how many reference voxels depart at least as far, whichever way.

    For raw scores that measure both ways alike, such as residuals: apart, a rare sign has a short tail in the reference, and an
    ordinary departure of that sign would score as high as a striking one of the other.
    """
    return _tables(reference, brighter=np.abs(raw), darker=np.abs(raw))


def _tables(reference: str, *, brighter: NDArray[np.floating], darker: NDArray[np.floating]) -> Calibration:
    count = brighter.size
    if not count or not np.all(np.isfinite(brighter)):
        raise ValueError(f"{count} reference voxels, all must be finite and there must be one")
    ranks = np.unique(np.geomspace(count, 1, TABLE_POINTS).round().astype(np.int64))[::-1]
    departures = {Contrast.BRIGHTER: brighter, Contrast.DARKER: darker}
    highest = {sign: np.sort(np.asarray(values, dtype=np.float64).ravel()) for sign, values in departures.items()}
    return Calibration(
        reference=reference,
        voxels=count,
        raw={str(sign): tuple(float(value) for value in values[count - ranks]) for sign, values in highest.items()},
        exceedance=tuple(float(rank) / count for rank in ranks),
    )


def study_score(score: FloatArray, brain: BoolArray) -> float:
    """The 99.5th percentile of the score inside the brain; 0 where there is none."""
    return float(np.percentile(score[brain], STUDY_PERCENTILE)) if brain.any() else 0.0


def check_operating_point(operating_point: OperatingPointCard) -> None:
    """ValueError where a threshold is missing or the cap does not fit 16 bits."""
    thresholds: Mapping[str, float] = operating_point.threshold
    missing = [str(sign) for sign in Contrast if sign not in thresholds]
    if missing:
        raise ValueError(f"no threshold for {', '.join(missing)}")
    if not 1 <= operating_point.maximum_findings <= np.iinfo(np.uint16).max:
        raise ValueError(f"maximum_findings {operating_point.maximum_findings} outside 1 to 65535")


def _scored_inside(brain: BoolArray, raw: FloatArray, calibration: Calibration, sign: Contrast) -> FloatArray:
    score = np.zeros(raw.shape, dtype=np.float32)
    score[brain] = calibrated(raw[brain], calibration, sign)
    return score


def _components(above: BoolArray, sign: Contrast, grid: Volume, minimum_mm3: float) -> list[Region]:
    labelled, count = ndimage.label(above, structure=ALL_26_NEIGHBOURS)
    least = minimum_mm3 / grid.voxel_volume
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)
    regions = []
    for label, box in enumerate(ndimage.find_objects(labelled), start=1):
        if sizes[label] < least - 1e-6:
            continue
        corner = np.array([axis.start for axis in box])
        indices = np.argwhere(labelled[box] == label) + corner
        regions.append(Region(sign, indices))
    return regions


def evidence_of(peak_score: float, volume_mm3: float) -> float:
    """Peak score plus log10 of the volume in mm3: a small finding must be striking, a faint one large."""
    return peak_score + math.log10(volume_mm3)


def _evidence(region: Region, score: FloatArray, voxel_mm3: float) -> float:
    return evidence_of(float(score[tuple(region.indices.T)].max()), region.voxels * voxel_mm3)


def _place(grid: Volume, region: Region) -> tuple[float, ...]:
    """The region's centroid in LPS mm, to a hundredth."""
    centroid = grid.affine @ np.append(region.indices.mean(axis=0), 1.0)
    return tuple(float(value) for value in np.round(centroid[:3], 2))


def _brain_midline_x(grid: Volume, brain: BoolArray) -> float | None:
    """LPS x in mm of the brain's centroid: the sagittal plane through it is taken for the midline."""
    if not brain.any():
        return None
    centroid = np.argwhere(brain).mean(axis=0)
    return float((grid.affine @ np.append(centroid, 1.0))[0])
