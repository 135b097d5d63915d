"""From trained networks to a bundle: reference voxels, calibration tables, operating point, model card.

The score is calibrated on reference voxels that hold no lesion: synthetic heads of label maps kept out of training and
real slices kept out of training. The threshold for bright findings is the one of highest pooled Dice on the development
patients of an evaluation set, raised where the lesion-free heads would show more than two findings each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from highdicom import Volume
from numpy.typing import NDArray
from scipy import ndimage

from inference.card import Calibration, OperatingPointCard
from inference.data import Study, axial_volume
from inference.localizer import Context, RecipeLocalizer
from inference.metrics import ScoreHistogram
from inference.phantom.banks import Bank
from inference.phantom.heads import Lesions, SyntheticHead, head_from_atlas
from inference.phantom.tissues import Atlas
from inference.postprocess import calibrate, calibrated
from inference.preprocess import UNIT
from inference.restoration import Setting, restore
from inference.types import Contrast

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

REFERENCE_SPACINGS_MM = ((5.0, 0.9, 0.9), (5.0, 0.5, 0.5), (3.0, 0.9, 0.9), (1.2, 1.0, 1.0))
"""Clinical 2D series, a fine matrix, thinner slices, and a 3D series."""
MOST_FALSE_PER_HEAD = 2.0
LEAST_MM3 = 40.0
MOST_FINDINGS = 50
_VOXELS_PER_HEAD = 150_000
_DARK_FALSE_PER_HEAD = 0.25
_LOWEST_THRESHOLD = 3.0  # where no patient has a say: one reference voxel in a thousand


@dataclass(frozen=True, slots=True)
class RawHead:
    """The raw map of one head, smoothed as the recipe does, on its own grid."""

    raw: FloatArray
    brain: BoolArray
    voxel_mm3: float
    lesion: BoolArray | None


def head_volume(head: SyntheticHead) -> Volume:
    """A synthetic head as a volume in LPS."""
    return axial_volume(head.image, head.spacing_mm)


def healthy_heads(atlases: Sequence[Atlas], per_atlas: int, seed: int) -> Iterator[SyntheticHead]:
    """Lesion-free heads, the spacings taking turns; unrestrained looks, as training saw them."""
    for number, atlas in enumerate(atlases):
        for turn in range(per_atlas):
            spacing = REFERENCE_SPACINGS_MM[(number + turn) % len(REFERENCE_SPACINGS_MM)]
            yield head_from_atlas(atlas, seed=seed + 100 * number + turn, spacing_mm=spacing, ordinary=turn % 2 == 0)


def spotted_heads(atlases: Sequence[Atlas], radius_mm: float, contrast: float, count: int, seed: int) -> Iterator[SyntheticHead]:
    """Heads with `count` lesions of one size and contrast each, 1 mm slices: what a sensitivity table is made of."""
    plan = Lesions(count, (radius_mm, radius_mm), (contrast, contrast), apart_mm=14.0)
    for number, atlas in enumerate(atlases):
        yield head_from_atlas(atlas, seed=seed + number, spacing_mm=(3.0, 0.9, 0.9), lesions=plan)


def raw_head(localizer: RecipeLocalizer, volume: Volume, lesion: BoolArray | None = None) -> RawHead:
    """What the recipe's network makes of a volume, before calibration."""
    maps = localizer.raw_maps(volume, Context())
    smooth = localizer.recipe.postprocessor.smooth(maps.raw)
    return RawHead(smooth, maps.brain, float(volume.voxel_volume), lesion)


def real_reference(localizer: RecipeLocalizer, bank: Bank, limit: int = 240) -> FloatArray:
    """Raw scores inside the brain of real single slices, already standardised in the bank."""
    step = max(1, len(bank.image) // limit)
    brain = bank.brain[::step] > 127
    images = np.where(brain, bank.image[::step].astype(np.float32), np.float32(-UNIT))
    setting = Setting(torch.device("cpu"), multiple=16)
    maps = restore(images, brain, localizer.recipe, localizer.bundle.restorer, setting)
    inner = ndimage.binary_erosion(brain, ndimage.generate_binary_structure(2, 1)[None], iterations=1)
    return np.asarray(localizer.recipe.postprocessor.smooth(maps.raw)[inner], dtype=np.float32)


def reference_table(heads: Sequence[RawHead], real: FloatArray, words: str, seed: int = 0) -> Calibration:
    """The calibration of at most 150,000 voxels of each head and as many real ones as all heads together."""
    rng = np.random.default_rng(seed)
    parts = []
    for head in heads:
        values = head.raw[head.brain]
        parts.append(rng.choice(values, min(_VOXELS_PER_HEAD, values.size), replace=False))
    synthetic = np.concatenate(parts)
    if real.size:
        parts.append(rng.choice(real, min(real.size, synthetic.size), replace=False))
    return calibrate(np.concatenate(parts), words)


def operating_point(
    calibration: Calibration, healthy: Sequence[RawHead], development: Sequence[RawHead], words: str
) -> OperatingPointCard:
    """Thresholds on the calibrated score: best pooled Dice for bright findings, rare false ones for both signs."""
    total = ScoreHistogram(-25.0, 25.0)
    for head in development:
        if head.lesion is not None:
            total.add(np.where(head.brain, head.raw, np.float32(-25)), head.lesion)
    brighter = _LOWEST_THRESHOLD
    best = total.best_dice()
    if total.marked.any():
        brighter = score_of(calibration, best.threshold, Contrast.BRIGHTER)
    log.info("best pooled Dice on development", dice=round(best.dice, 3), raw=round(best.threshold, 3), score=brighter)
    while false_per_head(calibration, healthy, Contrast.BRIGHTER, brighter) > MOST_FALSE_PER_HEAD:
        brighter += 0.05
    darker = brighter
    while false_per_head(calibration, healthy, Contrast.DARKER, darker) > _DARK_FALSE_PER_HEAD and darker < 6:
        darker += 0.1
    return OperatingPointCard(
        threshold={"brighter": round(brighter, 3), "darker": round(darker, 3)},
        minimum_volume_mm3=LEAST_MM3,
        maximum_findings=MOST_FINDINGS,
        rule=words,
    )


def score_of(calibration: Calibration, raw: float, sign: Contrast) -> float:
    """The calibrated score of one raw value."""
    value = np.array([raw if sign is Contrast.BRIGHTER else -raw], dtype=np.float32)
    return float(calibrated(value, calibration, sign)[0])


def false_per_head(calibration: Calibration, healthy: Sequence[RawHead], sign: Contrast, threshold: float) -> float:
    """Mean number of findings of at least the minimum volume in lesion-free heads."""
    counts = []
    for head in healthy:
        above = head.brain & (calibrated(head.raw, calibration, sign) >= threshold)
        labels, _ = ndimage.label(above, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:] * head.voxel_mm3
        counts.append(int((sizes >= LEAST_MM3).sum()))
    return float(np.mean(counts)) if counts else 0.0


def development_heads(localizer: RecipeLocalizer, studies: Iterator[Study]) -> list[RawHead]:
    """Raw maps of studies with marked lesions, kept in half precision's worth of memory."""
    return [dataclasses.replace(raw_head(localizer, study.volume), lesion=study.lesion) for study in studies]
