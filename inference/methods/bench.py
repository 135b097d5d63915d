"""Trains what is not yet trained, measures what is not yet measured, and keeps both in a work folder.

Killed, it goes on where it was; with more seconds it trains on from there. Weights that saw patients stay in the folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from torch import nn

from inference.bundle import Bundle, load_bundle, weights_file, write_bundle
from inference.card import BRAIN
from inference.learn import Budget, Run, outline, train_networks
from inference.material import Gathered, Origins, gather
from inference.methods import measured, patients
from inference.methods.patients import SLICES_PER_PATIENT, THRESHOLD, TRAINING, VALIDATION, Share, Shown
from inference.methods.row import Figures, Learned, Row, note_name, read_row, write_row
from inference.recipes import RECIPES
from inference.recipes.recipe import Labels, Recipe, plain
from inference.training import label_map_paths

log = structlog.get_logger()

FloatArray = NDArray[np.float32]

SHIPPED = ("cold_outline", "intensity")
"""Measured as the shipped bundle does them too, on its own grid."""
_LABEL_MAPS = 12  # the last four of them only for reference
_PER_HEAD = 60


class Bench:
    """The data, the budget and the work folder that all recipes share."""

    def __init__(self, data: Path, work: Path, brain: Path, seconds: float, seed: int) -> None:
        self.data, self.work, self.seconds, self.seed = data, work, seconds, seed
        self.given = load_bundle(brain, device="cpu")
        self._gathered: dict[object, Gathered] = {}
        self._patients = cache(self._shown)
        self._raw = cache(self._raw_intensity)

    def row(self, recipe: Recipe, *, again: bool = False) -> Row:
        """The recipe, trained and measured; what the work folder holds of either is kept, unless it is to be measured again."""
        note = self.work / note_name(recipe.name, shipped=False)
        known = read_row(note)
        folder = self.work / "bundles" / recipe.name
        learned = known.learned if known is not None and known.learned.digest == self.training_digest(recipe) else None
        if learned is None or not folder.exists():
            learned = self.trained(recipe, folder)
        bundle = load_bundle(folder, device="cpu")
        figures = None if known is None or again else known.figures
        return self._kept(Row(recipe.name, "", learned, self._measured(recipe, bundle, figures)), note)

    def shipped(self, recipe: Recipe, *, again: bool = False) -> Row:
        """The recipe as the shipped bundle does it."""
        note = self.work / note_name(recipe.name, shipped=True)
        known = read_row(note)
        figures = None if known is None or again else known.figures
        name = f"{self.given.card.name} {self.given.card.version}"
        untrained = Learned("", 0.0, 0.0, 0, 0.0)
        return self._kept(Row(recipe.name, name, untrained, self._measured(recipe, self.given, figures)), note)

    def trained(self, recipe: Recipe, folder: Path) -> Learned:
        """The recipe's bundle in that folder, and what it took."""
        budget = Budget(minutes=self.seconds / 60, clock=time.process_time)
        run = Run(budget, self.work, self.seed, "cpu")
        networks: dict[str, nn.Module] = {}
        facts: dict[str, str | int | float] = {}
        if recipe.training.stages:
            networks, facts = train_networks(recipe, self.material(recipe), run)
        weights = {weights_file(name): network.state_dict() for name, network in networks.items()}
        weights[weights_file(BRAIN)] = self.given.brain.state_dict()
        card = outline(recipe, self.given).model_copy(update={"distributable": recipe.labels is Labels.NONE})
        write_bundle(folder, card, weights, {})
        return Learned(
            digest=self.training_digest(recipe),
            budget=self.seconds if networks else 0.0,
            seconds=sum(float(value) for name, value in facts.items() if name.endswith("_seconds")),
            steps=sum(int(value) for name, value in facts.items() if name.endswith("_steps")),
            fall=max((float(value) for name, value in facts.items() if name.endswith("_loss_fall")), default=0.0),
        )

    def training_digest(self, recipe: Recipe) -> str:
        """Of everything here that the weights depend on; the checkpoints in the work folder know the rest."""
        material = [TRAINING, _LABEL_MAPS, _PER_HEAD, recipe.labels]
        budget = self.seconds if recipe.training.stages else 0.0
        return _digest([plain(recipe.training), material, budget, self.seed, self.given.identity.digest])

    def material(self, recipe: Recipe) -> Gathered:
        """The training slices of a recipe, gathered once for all recipes that draw from the same."""
        wanted = frozenset(stage.material for stage in recipe.training.stages)
        key = (wanted, recipe.training.grid)
        if key not in self._gathered:
            origins = Origins(
                readers=() if recipe.labels is Labels.NONE else (patients.patients(self.data, TRAINING),),
                label_maps=tuple(label_map_paths(self.data)[:_LABEL_MAPS]),
                per_head=_PER_HEAD,
            )
            base = outline(recipe, self.given)
            self._gathered[key] = gather(recipe, origins, base, self.given, self.work, self.seed)
        return self._gathered[key]

    def _measured(self, recipe: Recipe, bundle: Bundle, known: Figures | None) -> Figures:
        """The figures that are known, where nothing that they depend on has changed since."""
        listed = [THRESHOLD, VALIDATION, SLICES_PER_PATIENT, measured.VERSION, measured.DRAWS, self.seed]
        digest = _digest([plain(recipe), listed, bundle.identity.digest])
        if known is not None and known.digest == digest:
            return known
        own = bundle is self.given
        choosing, measuring = self._patients(THRESHOLD, own), self._patients(VALIDATION, own)
        return measured.figures(recipe, bundle, choosing, measuring, self._raw(own), digest=digest, seed=self.seed)

    def _shown(self, share: Share, own: bool) -> tuple[Shown, ...]:
        """The patients on the bench's grid, or on that of the shipped bundle."""
        card = self.given.card if own else outline(RECIPES["intensity"], self.given)
        return tuple(patients.shown(self.data, share, card, self.given))

    def _raw_intensity(self, own: bool) -> Sequence[FloatArray]:
        """The scores of raw intensity, which asks no network, for each patient of the list."""
        measuring = self._patients(VALIDATION, own)
        return [measured.scored(RECIPES["intensity"], self.given, patient, self.seed).score for patient in measuring]

    def _kept(self, row: Row, note: Path) -> Row:
        write_row(row, note)
        log.info("measured", **asdict(row))
        return row


def rows_in(work: Path) -> list[Row]:
    """Every row in the work folder."""
    notes = [work / note_name(name, shipped) for name in RECIPES for shipped in (False, True)]
    return [row for row in map(read_row, notes) if row is not None]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
