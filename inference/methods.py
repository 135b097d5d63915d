"""Every recipe trained with one small budget and measured on one fixed list of slices: the command behind METHODS.md.

`python -m inference.methods --data FOLDER --work FOLDER --seconds 240` trains what is not yet trained, measures, and writes
the table. Killed, it goes on where it was; with more seconds it trains on from there. The slices come from low-grade glioma
patients that no training and no threshold has seen; weights that saw such patients stay in the work folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import nn

from inference.brain import BrainMask
from inference.bundle import Bundle, load_bundle, weights_file, write_bundle
from inference.card import BRAIN
from inference.cost import Meter
from inference.data import Chosen, Lgg, Study, fraction_of
from inference.learn import Budget, Run, outline, train_networks
from inference.localizer import WayBack
from inference.material import Gathered, Origins, gather
from inference.methods_page import page
from inference.metrics import ScoreHistogram, average_precision, dice
from inference.postprocess import Components
from inference.preprocess import Prepared, prepare
from inference.recipes import RECIPES
from inference.recipes.recipe import Labels, Recipe
from inference.restoration import Setting, restore
from inference.training import label_map_paths

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

TRAINING, THRESHOLD, VALIDATION = (0.0, 0.24), (0.24, 0.30), (0.30, 0.40)
"""Shares of the patients, by `fraction_of`: all below 0.4, hence development patients; the others are never opened."""
SLICES_PER_PATIENT = 8
"""Of a validation patient; half as many of one who chooses the threshold."""
_MIDDLE = (0.25, 0.85)  # of the slices of a patient, foot to head: where the brain is
_LABEL_MAPS = 12  # the last four of them only for reference
_PER_HEAD = 60


@dataclass(frozen=True, slots=True)
class Row:
    """What one recipe did."""

    recipe: str
    ap_pooled: float
    dice: float
    threshold: float
    """Of the raw map; best pooled Dice on the threshold patients."""
    evaluations: float
    """Network passes for each slice with brain, the mask's own left out; guidance by a classifier counts its passes too."""
    gflop: float
    """For each slice, the brain's left out."""
    seconds_per_150: float
    """Processor seconds of one core for 150 slices, scaled from those measured; the brain mask included."""
    trained_seconds: float
    """By the clock, which on a shared machine says little; the budget is in processor seconds."""
    steps: int
    fall: float
    """By how much of itself the loss fell from the third quarter to the last, of the stage that fell most."""
    slices: int
    patients: int
    prevalence: float


@dataclass(frozen=True, slots=True)
class Shown:
    """A patient as every recipe sees it."""

    study: Study
    prepared: Prepared
    way_back: WayBack
    levels: tuple[int, ...]
    """The slices of the list, on the study's own grid."""
    seconds: float
    """Processor seconds of preparing it."""


def levels_of(slices: int, count: int = SLICES_PER_PATIENT) -> tuple[int, ...]:
    """The slices of a patient that are on the list: `count`, evenly spaced over the middle of the head."""
    low, high = (share * (slices - 1) for share in _MIDDLE)
    return tuple(sorted({round(value) for value in np.linspace(low, high, count)}))


def within(share: tuple[float, float], patient: str) -> bool:
    """Whether a patient falls into that share."""
    return share[0] <= fraction_of(patient) < share[1]


class Bench:
    """The data, the budget and the work folder that all recipes share."""

    def __init__(self, data: Path, work: Path, brain: Path, seconds: float, seed: int) -> None:
        self.data, self.work, self.brain, self.seconds, self.seed = data, work, brain, seconds, seed
        self.given = load_bundle(brain, device="cpu")
        self._shown = cache(self._prepare)
        self._gathered: dict[object, Gathered] = {}

    def row(self, recipe: Recipe) -> Row:
        """The recipe, trained and measured; from the work folder where that was done with this budget."""
        note = self.work / f"{recipe.name}.json"
        if note.exists():
            known = json.loads(note.read_text(encoding="utf-8"))
            if known.pop("budget") == self.seconds:
                return Row(**known)
        bundle, steps, spent, fall = self.trained(recipe)
        row = self.measured(recipe, bundle, steps, spent, fall)
        note.write_text(json.dumps({**asdict(row), "budget": self.seconds}, indent=1) + "\n", encoding="utf-8")
        log.info("measured", **asdict(row))
        return row

    def trained(self, recipe: Recipe) -> tuple[Bundle, int, float, float]:
        """The recipe's bundle, the steps and processor seconds it took, and how much the loss still fell."""
        budget = Budget(minutes=self.seconds / 60, clock=time.process_time)
        run = Run(budget, self.work, self.seed, "cpu")
        base = outline(recipe, self.given)
        networks: dict[str, nn.Module] = {}
        facts: dict[str, str | int | float] = {}
        if recipe.training.stages:
            networks, facts = train_networks(recipe, self.material(recipe), run)
        weights = {weights_file(name): network.state_dict() for name, network in networks.items()}
        weights[weights_file(BRAIN)] = self.given.brain.state_dict()
        folder = self.work / "bundles" / recipe.name
        write_bundle(folder, base.model_copy(update={"distributable": recipe.labels is Labels.NONE}), weights, {})
        steps = sum(int(value) for name, value in facts.items() if name.endswith("_steps"))
        spent = sum(float(value) for name, value in facts.items() if name.endswith("_seconds"))
        falls = [float(value) for name, value in facts.items() if name.endswith("_loss_fall")]
        return load_bundle(folder, device="cpu"), steps, spent, max(falls, default=0.0)

    def material(self, recipe: Recipe) -> Gathered:
        """The training slices of a recipe, gathered once for all recipes that draw from the same."""
        wanted = frozenset(stage.material for stage in recipe.training.stages)
        key = (wanted, recipe.training.grid)
        if key not in self._gathered:
            origins = Origins(
                readers=() if recipe.labels is Labels.NONE else (self.patients(TRAINING),),
                label_maps=tuple(label_map_paths(self.data)[:_LABEL_MAPS]),
                per_head=_PER_HEAD,
            )
            base = outline(recipe, self.given)
            self._gathered[key] = gather(recipe, origins, base, self.given, self.work, self.seed)
        return self._gathered[key]

    def measured(self, recipe: Recipe, bundle: Bundle, steps: int, spent: float, fall: float) -> Row:
        """The recipe's figures on the list."""
        chosen = [self.scored(recipe, bundle, shown)[:2] for shown in self._shown(THRESHOLD)]
        threshold = best_threshold(chosen)
        scores, truths, costs, seconds, count, seen = [], [], [0.0, 0.0], 0.0, 0, 0
        for shown in self._shown(VALIDATION):
            score, truth, evaluations, gflop, took = self.scored(recipe, bundle, shown)
            scores.append(score)
            truths.append(truth)
            costs[0] += evaluations
            costs[1] += gflop
            count += len(shown.levels)
            seen += int(self._listed(shown).any(axis=(1, 2)).sum())
            seconds += took / len(shown.levels) + shown.seconds / shown.study.volume.spatial_shape[0]
        score, truth = np.concatenate(scores), np.concatenate(truths)
        return Row(
            recipe=recipe.name,
            ap_pooled=average_precision(score, truth),
            dice=dice(score >= threshold, truth),
            threshold=threshold,
            evaluations=costs[0] / seen,
            gflop=costs[1] / seen,
            seconds_per_150=150 * seconds / len(scores),
            trained_seconds=spent,
            steps=steps,
            fall=fall,
            slices=count,
            patients=len(scores),
            prevalence=float(truth.mean()),
        )

    def scored(self, recipe: Recipe, bundle: Bundle, shown: Shown) -> tuple[FloatArray, BoolArray, int, float, float]:
        """Raw map and truth over all voxels of the listed slices, evaluations, GFLOP, processor seconds.

        Voxels outside the predicted brain score lowest. What looks across slices is left out: the slices of the list
        are not neighbours.
        """
        brain = self._listed(shown)
        watched = {name: network for name, network in bundle.networks.items() if name != BRAIN}
        setting = Setting(bundle.device, self.seed, multiple=bundle.card.multiple)
        started = time.process_time()
        with Meter(watched, bundle.device, {}) as meter:
            maps = restore(shown.prepared.images, brain, recipe, bundle.networks, setting)
        seconds = time.process_time() - started
        post = recipe.postprocessor
        post = replace(post, through_sigma=0.0, support=None) if isinstance(post, Components) else post
        smooth = shown.way_back.bring(post.smooth(maps.raw, shown.prepared.spacing_mm))
        levels = list(shown.levels)
        inside = shown.way_back.brain[levels]
        assert shown.study.lesion is not None
        score = np.where(inside, smooth[levels], np.float32(-1e6)).astype(np.float32)
        cost = meter.cost()
        return score, shown.study.lesion[levels], cost.network_evaluations, cost.gflop, seconds

    @staticmethod
    def _listed(shown: Shown) -> BoolArray:
        """The brain on the slices of the list, on the network's grid."""
        listed = np.zeros(shown.study.volume.spatial_shape, dtype=np.float32)
        listed[list(shown.levels)] = 1
        return shown.prepared.brain & (shown.prepared.from_source(listed, order=0) > 0.5)

    def patients(self, share: tuple[float, float]) -> Chosen:
        """The low-grade glioma patients of that share."""
        return Chosen(Lgg(self.data / "lgg_flair"), lambda patient: within(share, patient))

    def _prepare(self, share: tuple[float, float]) -> tuple[Shown, ...]:
        return tuple(self._prepared(share))

    def _prepared(self, share: tuple[float, float]) -> Iterator[Shown]:
        card = outline(RECIPES["intensity"], self.given)
        brain = BrainMask(self.given.brain, grid_spacing_mm=card.grid_spacing_mm[0])
        for study in self.patients(share).studies():
            started = time.process_time()
            prepared = prepare(study.volume, card, brain)
            seconds = time.process_time() - started
            count = SLICES_PER_PATIENT if share == VALIDATION else SLICES_PER_PATIENT // 2
            yield Shown(study, prepared, WayBack.of(prepared), levels_of(study.volume.spatial_shape[0], count), seconds)


def best_threshold(chosen: Sequence[tuple[FloatArray, BoolArray]]) -> float:
    """The threshold of highest pooled Dice."""
    values = np.concatenate([score[score > -1e5] for score, _ in chosen])
    histogram = ScoreHistogram(float(values.min()) - 1e-3, float(values.max()) + 1e-3)
    for score, truth in chosen:
        histogram.add(np.maximum(score, histogram.low), truth)
    return histogram.best_dice().threshold


def main() -> None:
    """The command line; the table goes to `--out`."""
    parser = argparse.ArgumentParser(description="train every recipe with one small budget, measure it, and write METHODS.md")
    parser.add_argument("--data", type=Path, required=True, help="folder with lgg_flair and synthseg_label_maps")
    parser.add_argument("--work", type=Path, required=True, help="where weights and results are kept, to go on later")
    parser.add_argument("--seconds", type=float, default=240.0, help="processor seconds of one core to train each recipe for")
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--brain", type=Path, default=Path(__file__).parent / "models" / "brain-flair")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, help="the page, of everything measured so far; without it only the work folder is filled"
    )
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    wanted.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(wanted.data, wanted.work, wanted.brain, wanted.seconds, wanted.seed)
    for name in wanted.only:
        bench.row(RECIPES[name])
    if wanted.out is not None:
        wanted.out.write_text(page(rows_in(wanted.work)), encoding="utf-8")


def rows_in(work: Path) -> dict[str, tuple[Row, float]]:
    """Every row in the work folder with the budget, in processor seconds, that it was trained for."""
    found = {}
    for name in RECIPES:
        note = work / f"{name}.json"
        if note.exists():
            known = json.loads(note.read_text(encoding="utf-8"))
            budget = float(known.pop("budget"))
            found[name] = (Row(**known), budget)
    return found


if __name__ == "__main__":
    main()
