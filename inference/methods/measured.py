"""A recipe's figures on the list: average precision with its interval, Dice, and what a slice costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import process_time

import numpy as np
from numpy.typing import NDArray

from inference.bundle import Bundle
from inference.card import BRAIN
from inference.cost import Meter
from inference.evaluation.curves import STATISTICS, CaseCurve, Curves, Thresholds, case_curve
from inference.evaluation.resampling import Estimate, Resampling
from inference.methods.memory import PeakMemory
from inference.methods.patients import Shown
from inference.methods.row import Figures
from inference.metrics import ScoreHistogram, average_precision, dice
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Unit
from inference.restoration import Setting, restore

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

VERSION = 2
"""Of the way of measuring: a higher one makes every row be measured again."""
DRAWS = 2000
OUTSIDE = np.float32(-1e6)
"""The score of voxels outside the predicted brain: lower than any."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a recipe made of the listed slices of one patient."""

    score: FloatArray
    truth: BoolArray
    evaluations: int
    gflop: float
    seconds: float
    """Processor seconds."""
    slices: int
    """The recipe was given: those of the list, or all of a volume."""
    seen: int
    """Of these, the ones that show brain."""


def scored(recipe: Recipe, bundle: Bundle, shown: Shown, seed: int) -> Scored:
    """Raw map and truth over all voxels of the listed slices, and their cost.

    Voxels outside the predicted brain score lowest. The recipe's filter across slices is left out: the slices of the list
    are not neighbours. A recipe of volumes is given all slices, and the cost is that of all.
    """
    watched = {name: network for name, network in bundle.networks.items() if name != BRAIN}
    setting = Setting(bundle.device, seed, multiple=bundle.card.multiple)
    whole = recipe.unit is Unit.VOLUME
    brain = shown.prepared.brain if whole else shown.listed()
    started = process_time()
    with Meter(watched, bundle.device, {}) as meter:
        maps = restore(shown.prepared.images, brain, recipe, bundle.networks, setting)
    seconds = process_time() - started
    post = recipe.postprocessor
    post = replace(post, through_sigma=0.0, support=None) if isinstance(post, Components) else post
    smooth = shown.way_back.bring(post.smooth(maps.raw, shown.prepared.spacing_mm))
    levels = list(shown.levels)
    score = np.where(shown.way_back.brain[levels], smooth[levels], OUTSIDE).astype(np.float32)
    cost = meter.cost()
    given, seen = len(brain) if whole else len(levels), int(brain.any(axis=(1, 2)).sum())
    return Scored(score, shown.truth(), cost.network_evaluations, cost.gflop, seconds, given, seen)


def memory_mb(recipe: Recipe, bundle: Bundle, shown: Shown, seed: int) -> float:
    """What scoring every slice of the patient that shows brain takes at its peak, in batches as `fovea localize` makes them."""
    setting = Setting(bundle.device, seed, multiple=bundle.card.multiple)
    images, brain = shown.prepared.images, shown.prepared.brain
    first = int(np.argmax(brain.any(axis=(1, 2))))
    restore(images[first : first + 1], brain[first : first + 1], recipe, bundle.networks, setting)  # what libraries keep for good
    with PeakMemory() as memory:
        restore(images, brain, recipe, bundle.networks, setting)
    return memory.mb


def figures(
    recipe: Recipe,
    bundle: Bundle,
    choosing: Sequence[Shown],
    measured: Sequence[Shown],
    intensity: Sequence[FloatArray],
    *,
    digest: str,
    seed: int,
) -> Figures:
    """The figures on `measured`, at the threshold of `choosing`; `intensity` holds raw intensity's scores of the same slices."""
    threshold = best_threshold([(one.score, one.truth) for one in (scored(recipe, bundle, s, seed) for s in choosing)])
    found = [scored(recipe, bundle, patient, seed) for patient in measured]
    score, truth = np.concatenate([one.score for one in found]), np.concatenate([one.truth for one in found])
    seen = sum(one.seen for one in found)
    each = [
        one.seconds / one.slices + patient.seconds / patient.study.volume.spatial_shape[0]
        for one, patient in zip(found, measured, strict=True)
    ]
    ap, gain = intervals([one.score for one in found], intensity, [one.truth for one in found])
    return Figures(
        digest=digest,
        ap_pooled=ap,
        gain=gain,
        dice=dice(score >= threshold, truth),
        threshold=threshold,
        evaluations=sum(one.evaluations for one in found) / seen,
        gflop=sum(one.gflop for one in found) / seen,
        seconds_per_150=150 * float(np.mean(each)),
        memory_mb=memory_mb(recipe, bundle, measured[0], seed),
        slices=sum(len(patient.levels) for patient in measured),
        patients=len(measured),
        prevalence=float(truth.mean()),
    )


def intervals(
    scores: Sequence[FloatArray], others: Sequence[FloatArray], truths: Sequence[BoolArray]
) -> tuple[Estimate, Estimate]:
    """Pooled average precision of the scores, one array for each patient, and its gain over the others', 95 % by patient.

    The figures themselves are exact; only the draws are binned.
    """
    resampling = Resampling.of([str(number) for number in range(len(truths))], DRAWS)
    rows, exact = [], []
    truth = np.concatenate(truths)
    for parts in (scores, others):
        exact.append(average_precision(np.concatenate(parts), truth))
        rows.append(_precision(parts, truths, resampling))
    spread, gap = resampling.estimate(rows[0]), resampling.estimate(rows[0] - rows[1])
    return Estimate(exact[0], spread.low, spread.high), Estimate(exact[0] - exact[1], gap.low, gap.high)


def best_threshold(chosen: Sequence[tuple[FloatArray, BoolArray]]) -> float:
    """The threshold of highest pooled Dice."""
    low, high = _range([score for score, _ in chosen])
    histogram = ScoreHistogram(low, high)
    for score, truth in chosen:
        histogram.add(np.maximum(score, histogram.low), truth)
    return histogram.best_dice().threshold


def _precision(parts: Sequence[FloatArray], truths: Sequence[BoolArray], resampling: Resampling) -> NDArray[np.float64]:
    """Average precision under every weighting of the patients."""
    low, high = _range(parts)
    curves: list[CaseCurve] = [
        case_curve(np.maximum(score, np.float32(low)), truth.astype(np.int32), low, high)
        for score, truth in zip(parts, truths, strict=True)
    ]
    rows = Curves.of(curves, low, high).thinned().statistics(resampling.rows(), Thresholds())
    values: NDArray[np.float64] = rows[:, STATISTICS.index("ap_pooled")]
    return values


def _range(parts: Sequence[FloatArray]) -> tuple[float, float]:
    """Of the scores inside the brain, widened so that what lies outside falls into a bin of its own."""
    values = np.concatenate([score[score > OUTSIDE / 2] for score in parts])
    low, high = float(values.min()), float(values.max())
    margin = max(1e-3, 1e-3 * (high - low))
    return low - margin, high + margin
