"""How well a bundle does on studies with marked lesions, always beside plain image intensity inside the same brain mask.

Voxels outside the predicted brain score lowest, so a mask that loses a lesion pays for it. Confidence intervals resample
patients. The command is `python -m inference.evaluate --bundle FOLDER --data FOLDER --set lgg --split held-out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy import ndimage

from inference.calibrate import head_volume, healthy_heads, spotted_heads
from inference.data import Lgg, NiftiFolder, Study, is_development, nichart, open_ms
from inference.localizer import Context, RecipeLocalizer, load_localizer
from inference.metrics import LesionCount, ScoreHistogram, count_lesions
from inference.phantom.heads import head_from_atlas
from inference.phantom.tissues import Atlas, read_label_map
from inference.preprocess import BRIGHTEST, UNIT, brain_median, standardise
from inference.training import label_map_paths
from inference.types import Contrast

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

RANGE = (-25.0, 25.0)
"""Scores are binned over this range of standardised units; what lies outside the brain gets the lowest bin."""
FAR_MM = 5.0
"""A finding farther than this from any marked lesion counts as false."""
DIAMETERS_MM = (3.0, 5.0, 8.0, 12.0, 20.0)
CONTRASTS = (0.25, 0.5, 1.0, -0.4)
"""Signal added to white matter, as a fraction of it."""
METHODS = ("model", "score", "intensity", "smoothed", "equalised")
"""Raw map (positive where brighter than healthy), delivered score, and the three baselines."""
SMOOTHED_MM = 2.5
"""In-plane deviation of the smoothed intensity: the best of 0, 1.25 and 2.5 mm on glioma development patients."""


@dataclass(frozen=True, slots=True)
class Case:
    """One study, measured."""

    patient: str
    histograms: dict[str, ScoreHistogram]
    lesions: LesionCount
    found_voxels: int
    """Voxels in findings, in marked lesions, and in both, for the Dice at the fixed threshold."""
    marked_voxels: int
    shared_voxels: int
    lost_by_mask: float
    """Fraction of marked voxels outside the predicted brain; NaN where nothing is marked."""
    seconds: float
    slices: int

    @property
    def dice(self) -> float:
        """Dice of all findings with all marked voxels; NaN where nothing is marked."""
        if not self.marked_voxels:
            return float("nan")
        return 2 * self.shared_voxels / (self.found_voxels + self.marked_voxels)


def assess(localizer: RecipeLocalizer, study: Study) -> Case:
    """One study localized and compared with what is marked in it."""
    started = time.perf_counter()
    result = localizer.localize(study.volume, Context())
    seconds = time.perf_counter() - started
    image = np.asarray(study.volume.array, dtype=np.float32)
    truth = np.zeros(image.shape, dtype=np.bool_) if study.lesion is None else study.lesion
    brain = result.brain.array > 0
    spacing = (study.volume.spacing[0], study.volume.spacing[1], study.volume.spacing[2])
    smooth = localizer.recipe.postprocessor.smooth(result.raw.array)
    maps = {"model": smooth, "score": result.score.array, **intensity_maps(image, brain, spacing)}
    histograms = {name: _histogram(maps[name], truth, brain) for name in METHODS}
    found = result.labels.array > 0
    return Case(
        patient=study.patient,
        histograms=histograms,
        lesions=count_lesions(found, truth, spacing, 0.0, FAR_MM),
        found_voxels=int(found.sum()),
        marked_voxels=int(truth.sum()),
        shared_voxels=int((found & truth).sum()),
        lost_by_mask=float((truth & ~brain).sum() / truth.sum()) if truth.any() else float("nan"),
        seconds=seconds,
        slices=image.shape[0],
    )


def intensity_maps(image: FloatArray, brain: BoolArray, spacing_mm: tuple[float, float, float]) -> dict[str, FloatArray]:
    """The baselines: intensity in standardised units, the same smoothed inside the brain, and its rank inside the brain."""
    standard = standardise(image, brain, brain_median(image, brain))
    sigma = (0.6, SMOOTHED_MM / spacing_mm[1], SMOOTHED_MM / spacing_mm[2])
    weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma)
    smoothed = ndimage.gaussian_filter(standard * brain, sigma) / np.maximum(weight, 1e-3)
    equalised = np.full(image.shape, -UNIT, dtype=np.float32)
    values = image[brain]
    ranks = np.searchsorted(np.sort(values), values, side="right") / max(1, values.size)
    equalised[brain] = ranks * BRIGHTEST
    return {
        "intensity": standard,
        "smoothed": np.where(brain, smoothed, np.float32(-UNIT)).astype(np.float32),
        "equalised": equalised,
    }


def _histogram(values: FloatArray, truth: BoolArray, brain: BoolArray) -> ScoreHistogram:
    histogram = ScoreHistogram(*RANGE)
    histogram.add(np.where(brain, values, np.float32(RANGE[0])), truth)
    return histogram


def pooled(cases: Sequence[Case], method: str) -> ScoreHistogram:
    """All voxels of all cases under one method."""
    total = ScoreHistogram(*RANGE)
    for case in cases:
        total.merge(case.histograms[method])
    return total


def pooled_dice(cases: Sequence[Case]) -> float:
    """Dice at the bundle's own operating point over all voxels of all cases."""
    shared = sum(case.shared_voxels for case in cases)
    total = sum(case.found_voxels + case.marked_voxels for case in cases)
    return 2 * shared / total if total else float("nan")


def interval(
    cases: Sequence[Case], statistic: Callable[[Sequence[Case]], float], seed: int = 0, draws: int = 200
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic when patients are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    values = [statistic([cases[k] for k in rng.integers(0, len(cases), len(cases))]) for _ in range(draws)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def summarise(cases: Sequence[Case], draws: int = 200) -> dict[str, float | int | list[float]]:
    """The figures of one set, by name; intervals are over patients."""
    found: dict[str, float | int | list[float]] = {"patients": len(cases), "slices": sum(case.slices for case in cases)}
    for method in METHODS:
        total = pooled(cases, method)
        best = total.best_dice()
        found[f"{method}_ap"] = total.average_precision()
        found[f"{method}_best_dice"] = best.dice
        found[f"{method}_best_threshold"] = best.threshold
    if len(cases) > 2 and draws:
        found["model_ap_interval"] = list(interval(cases, _precision, draws=draws))
        found["gain_over_intensity_interval"] = list(interval(cases, _gain, draws=draws))
        found["gain_over_smoothed_interval"] = list(interval(cases, _gain_over_smoothed, draws=draws))
        found["dice_interval"] = list(interval(cases, pooled_dice, draws=draws))
    found["dice_at_operating_point"] = pooled_dice(cases)
    found["mean_dice_at_operating_point"] = float(np.nanmean([case.dice for case in cases]))
    lesions = sum(case.lesions.lesions for case in cases)
    found["lesions"] = lesions
    found["lesions_hit"] = sum(case.lesions.hit for case in cases)
    found["false_findings_per_head"] = float(np.mean([case.lesions.false_findings for case in cases]))
    found["median_false_findings"] = float(np.median([case.lesions.false_findings for case in cases]))
    found["marked_lost_by_mask"] = float(np.nanmean([case.lost_by_mask for case in cases]))
    found["seconds_per_head"] = float(np.mean([case.seconds for case in cases]))
    return found


def _precision(cases: Sequence[Case]) -> float:
    return pooled(cases, "model").average_precision()


def _gain(cases: Sequence[Case]) -> float:
    return _precision(cases) - pooled(cases, "intensity").average_precision()


def _gain_over_smoothed(cases: Sequence[Case]) -> float:
    return _precision(cases) - pooled(cases, "smoothed").average_precision()


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How many lesions of one size and contrast were found in lesion-free heads they were painted into."""

    diameter_mm: float
    contrast: float
    lesions: int
    hit: int


def sensitivity(localizer: RecipeLocalizer, atlases: Sequence[Atlas], seed: int = 400) -> list[Sensitivity]:
    """The blind spots: lesions of every size and contrast in white matter, one head of each kind per atlas."""
    rows = []
    for diameter in DIAMETERS_MM:
        for contrast in CONTRASTS:
            count = 12 if diameter <= 8 else 6
            lesions = hit = 0
            for head in spotted_heads(atlases, diameter / 2, contrast, count, seed):
                result = localizer.localize(head_volume(head), Context())
                sign = Contrast.BRIGHTER if contrast > 0 else Contrast.DARKER
                numbers = [finding.number for finding in result.findings if finding.contrast is sign]
                counted = count_lesions(np.isin(result.labels.array, numbers), head.lesion, head.spacing_mm)
                lesions, hit = lesions + counted.lesions, hit + counted.hit
            rows.append(Sensitivity(diameter, contrast, lesions, hit))
            log.info("painted lesions", diameter_mm=diameter, contrast=contrast, lesions=lesions, found=hit)
    return rows


def false_findings(localizer: RecipeLocalizer, atlases: Sequence[Atlas], per_atlas: int = 4) -> dict[str, float | int]:
    """Findings in lesion-free synthetic heads; other heads than those the operating point was chosen on."""
    bright, dark = [], []
    for head in healthy_heads(atlases, per_atlas, seed=77_000):
        findings = localizer.localize(head_volume(head), Context()).findings
        bright.append(sum(finding.contrast is Contrast.BRIGHTER for finding in findings))
        dark.append(len(findings) - bright[-1])
    return {
        "heads": len(bright),
        "mean_bright_findings": float(np.mean(bright)),
        "median_findings": float(np.median(np.add(bright, dark))),
        "mean_dark_findings": float(np.mean(dark)),
        "heads_without_finding": int(np.sum(np.add(bright, dark) == 0)),
    }


def speed(localizer: RecipeLocalizer, atlas: Atlas) -> dict[str, float | int]:
    """What 150 slices of a 3D series cost, brain mask included, after one run to warm up."""
    head = head_from_atlas(atlas, seed=1, spacing_mm=(1.2, 1.0, 1.0))
    volume = head_volume(head)[:150]
    localizer.localize(volume, Context())
    started = time.perf_counter()
    cost = localizer.localize(volume, Context()).provenance.cost
    slices = volume.spatial_shape[0]
    return {
        "slices": slices,
        "seconds": time.perf_counter() - started,
        "gflop_per_slice": cost.gflop / slices,
        "peak_memory_mb": cost.peak_memory_mb,
    }


SETS: dict[str, Callable[[Path], Lgg | NiftiFolder]] = {
    "lgg": lambda data: Lgg(data / "lgg_flair"),
    "wmh": lambda data: nichart(data / "nichart_wmh"),
    "ms": lambda data: open_ms(data / "open_ms"),
}


def chosen(studies: Iterable[Study], split: str) -> Iterator[Study]:
    """The studies of `development` patients, of `held-out` ones, or `all`."""
    for study in studies:
        if split == "all" or is_development(study.patient) == (split == "development"):
            yield study


def main() -> None:
    """The command line; prints the figures as JSON."""
    parser = argparse.ArgumentParser(description="measure a bundle on studies with marked lesions")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=[*sorted(SETS), "healthy", "spots", "speed"], required=True)
    parser.add_argument("--split", choices=["development", "held-out", "all"], default="held-out")
    parser.add_argument("--recipe")
    parser.add_argument("--limit", type=int, help="no more than this many studies")
    wanted = parser.parse_args()
    localizer = load_localizer(wanted.bundle, wanted.recipe)
    if not isinstance(localizer, RecipeLocalizer):
        parser.error("only the recipes of this package can be measured")
    if wanted.set not in SETS:
        atlases = [read_label_map(path) for path in label_map_paths(wanted.data)[-4:]]
        _say(_synthetic(localizer, atlases, wanted.set))
        return
    cases = []
    for study in chosen(SETS[wanted.set](wanted.data).studies(), wanted.split):
        cases.append(assess(localizer, study))
        log.info("measured", patient=study.patient, dice=round(cases[-1].dice, 3), s=round(cases[-1].seconds, 1))
        if wanted.limit and len(cases) >= wanted.limit:
            break
    _say(summarise(cases))


def _synthetic(localizer: RecipeLocalizer, atlases: Sequence[Atlas], wanted: str) -> object:
    if wanted == "healthy":
        return false_findings(localizer, atlases)
    if wanted == "speed":
        return speed(localizer, atlases[0])
    return [asdict(row) for row in sensitivity(localizer, atlases[:2])]


def _say(found: object) -> None:
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
