"""What a finding must pass: a score for every voxel of it, and for the whole of it peak and volume together.

Chosen on lesion-free heads and on development patients, never on those who are measured. A finding is false where it comes
nowhere near a marked lesion. The threshold decides how far a finding reaches, so it is the one of highest pooled Dice; the
evidence (peak score plus log10 of the volume) decides whether a finding is shown, so false ones are kept rare by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy import ndimage

from inference.card import Calibration, OperatingPointCard
from inference.domain import Figures
from inference.metrics import ScoreHistogram
from inference.postprocess import ALL_26_NEIGHBOURS, calibrated, evidence_of
from inference.types import Contrast

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

MOST_FALSE = {Contrast.BRIGHTER: 1.75, Contrast.DARKER: 0.25}
"""False findings in a head, on average: two of both signs together."""
LEAST_MM3 = 40.0
MOST_FINDINGS = 50
_KEPT_DICE = 0.97
_FAR_MM = 5.0
_STEP = 0.05
_LOWEST_THRESHOLD = 3.0  # where no patient has a say: one reference voxel in a thousand


@dataclass(frozen=True, slots=True)
class RawHead:
    """The raw map of one head, smoothed as the recipe does, on its own grid."""

    raw: FloatArray
    brain: BoolArray
    spacing_mm: tuple[float, float, float]
    lesion: BoolArray | None
    near: BoolArray | None
    """Within 5 mm of the marked lesion."""
    figures: Figures | None = None
    """What the study looks like to the model (`inference.domain`)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One connected region above a threshold and the least volume."""

    evidence: float
    voxels: int
    marked: int
    """How many of its voxels are marked lesion."""
    is_false: bool


def near_lesion(lesion: BoolArray, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Which voxels lie within 5 mm of a marked one; none where nothing is marked."""
    if not lesion.any():
        return np.zeros_like(lesion)
    return np.asarray(ndimage.distance_transform_edt(~lesion, sampling=spacing_mm) <= _FAR_MM)


def operating_point(
    calibration: Calibration, healthy: Sequence[RawHead], patients: Sequence[RawHead], words: str
) -> OperatingPointCard:
    """Thresholds and evidence: best pooled Dice for bright findings, few false ones of either sign."""
    threshold = _best_threshold(calibration, patients)
    evidence = {
        Contrast.BRIGHTER: _bright_evidence(calibration, healthy, patients, threshold),
        Contrast.DARKER: _dark_evidence(calibration, (healthy, patients), threshold),
    }
    log.info(
        "operating point", threshold=round(threshold, 2), evidence={str(sign): round(one, 2) for sign, one in evidence.items()}
    )
    return OperatingPointCard(
        threshold={str(sign): round(threshold, 3) for sign in Contrast},
        minimum_volume_mm3=LEAST_MM3,
        least_evidence={str(sign): round(one, 3) for sign, one in evidence.items()},
        maximum_findings=MOST_FINDINGS,
        rule=words,
    )


def rule_words(who: str, patients: Sequence[RawHead]) -> str:
    """The rule as the card states it; `who` the patients are."""
    few = f"at most {MOST_FALSE[Contrast.BRIGHTER]:g} bright and {MOST_FALSE[Contrast.DARKER]:g} dark findings"
    if not patients:
        return f"{few} in each lesion-free synthetic head; no patient had a say"
    return (
        f"the threshold, of both signs, has the highest Dice of bright findings pooled over {who}; peak score plus log10 of the "
        f"volume in mm3 is raised until {few} farther than 5 mm from a marked lesion are left in a lesion-free synthetic head, "
        "and in a patient as far as the Dice of bright ones stays within 3 % of its best"
    )


def candidates(head: RawHead, calibration: Calibration, sign: Contrast, threshold: float) -> list[Candidate]:
    """The regions of one head that pass the threshold and the least volume."""
    score = np.where(head.brain, calibrated(head.raw, calibration, sign), np.float32(0))
    labels, count = ndimage.label(score >= threshold, ALL_26_NEIGHBOURS)
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(score, labels, numbers)
    marked = np.zeros(count) if head.lesion is None else ndimage.sum_labels(head.lesion, labels, numbers)
    near = np.zeros(count) if head.near is None else ndimage.maximum(head.near, labels, numbers)
    each = float(np.prod(head.spacing_mm))
    return [
        Candidate(evidence_of(float(peak), number * each), int(number), int(hit), not close)
        for peak, number, hit, close in zip(peaks, voxels, marked, near, strict=True)
        if number * each >= LEAST_MM3 - 1e-6
    ]


def false_per_head(
    calibration: Calibration, heads: Sequence[RawHead], sign: Contrast, threshold: float, evidence: float = 0.0
) -> float:
    """Mean number of false findings of at least the least volume and this evidence; 0 of no heads."""
    found = [candidates(head, calibration, sign, threshold) for head in heads]
    return _false_among(found, evidence)


def _false_among(found: Sequence[Sequence[Candidate]], evidence: float) -> float:
    return float(np.mean([sum(one.is_false and one.evidence >= evidence for one in head) for head in found])) if found else 0.0


def _best_threshold(calibration: Calibration, patients: Sequence[RawHead]) -> float:
    total = ScoreHistogram(0.0, 10.0)
    for head in patients:
        if head.lesion is not None:
            total.add(np.where(head.brain, calibrated(head.raw, calibration, Contrast.BRIGHTER), np.float32(0)), head.lesion)
    return total.best_dice().threshold if total.marked.any() else _LOWEST_THRESHOLD


def _bright_evidence(
    calibration: Calibration, healthy: Sequence[RawHead], patients: Sequence[RawHead], threshold: float
) -> float:
    most = MOST_FALSE[Contrast.BRIGHTER]
    in_healthy, in_patients = (
        [candidates(head, calibration, Contrast.BRIGHTER, threshold) for head in heads] for heads in (healthy, patients)
    )
    truth = sum(int(head.lesion.sum()) for head in patients if head.lesion is not None)
    evidence = 0.0
    while _false_among(in_healthy, evidence) > most:
        evidence += _STEP
    enough = _KEPT_DICE * _dice(in_patients, truth, 0.0)
    while _false_among(in_patients, evidence) > most and _dice(in_patients, truth, evidence + _STEP) > enough:
        evidence += _STEP
    log.info(
        "least evidence",
        false_per_healthy=_false_among(in_healthy, evidence),
        false_per_patient=_false_among(in_patients, evidence),
        dice=round(_dice(in_patients, truth, evidence), 3),
        dice_without=round(enough / _KEPT_DICE, 3),
    )
    return evidence


def _dice(found: Sequence[Sequence[Candidate]], truth: int, evidence: float) -> float:
    kept = [one for head in found for one in head if one.evidence >= evidence]
    total = sum(one.voxels for one in kept) + truth
    return 2 * sum(one.marked for one in kept) / total if total else 0.0


def _dark_evidence(calibration: Calibration, groups: Sequence[Sequence[RawHead]], threshold: float) -> float:
    evidence = 0.0
    for heads in groups:
        found = [candidates(head, calibration, Contrast.DARKER, threshold) for head in heads]
        while _false_among(found, evidence) > MOST_FALSE[Contrast.DARKER]:
            evidence += _STEP
    return evidence
