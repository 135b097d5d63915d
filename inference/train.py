"""Training a bundle, from data to model card: the call behind `fovea train`, and a command of its own.

`train` fits both networks, keeps one patient in five out for calibration, and writes a bundle. Killed and started again with
the same arguments it goes on where it was and ends with the same weights. It needs nothing but what it is given: without
label maps the synthetic heads are the ones made by code, without studies it learns from synthetic heads alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from torch import nn

from inference.brain import BrainMask
from inference.card import ModelCard, Source
from inference.data import Reader, is_validation, soop_bank
from inference.healthy import healthy_slices
from inference.phantom.banks import Bank, join_banks
from inference.preprocess import prepare
from inference.publish import Ingredients, outline, public_sources, publish
from inference.training import RECIPES, TrainingRecipe, label_map_paths, part, train_brain, train_restorer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Healthy:
    """Standardised slices of the given studies, those of validation patients apart."""

    training: Bank | None
    validation: Bank | None
    patients: dict[str, int]
    """How many patients each reader had, by its name."""
    left_out: int
    """Slices left out because too much of them was unusually bright."""


def train(
    recipe: TrainingRecipe,
    data: Sequence[Reader],
    out: Path,
    work: Path,
    label_maps: Sequence[Path] = (),
    soop: Path | None = None,
) -> ModelCard:
    """Trains both networks and writes a bundle to `out`; banks and checkpoints live in `work`, which may be deleted after.

    `data` holds studies of patients believed healthy in the weighting that the bundle is for; marked lesions and unusually
    bright tissue are painted out. Raises what the readers raise, and ValueError where nothing is left to train on.
    """
    maps = sorted(label_maps)
    brain = train_brain(recipe, maps, work)
    healthy = healthy_studies(recipe, data, brain)
    real = [bank for bank in (healthy.training,) if bank is not None]
    kept = [bank for bank in (healthy.validation,) if bank is not None]
    if soop is not None:
        cleaned = soop_bank(soop, recipe.restore_shape, recipe.restore_spacing_mm, work / "bank-soop")
        real.append(part(cleaned, training=True))
        kept.append(part(cleaned, training=False))
    train_restorer(recipe, maps, join_banks(real), work)
    own = tuple(
        Source(name=name, licence="the owner's", use="healthy slices", digest="", count=count)
        for name, count in healthy.patients.items()
    )
    held_out = maps[len(maps) - recipe.held_out_label_maps :]
    sources = (*public_sources(maps, soop, recipe), *own)
    return publish(Ingredients(recipe, sources, tuple(held_out), join_banks(kept)), work, out)


def healthy_studies(recipe: TrainingRecipe, data: Sequence[Reader], brain: nn.Module) -> Healthy:
    """The slices of all studies on the network's grid, cleaned, split by patient."""
    shelves: dict[bool, list[Bank]] = {True: [], False: []}
    patients: dict[str, int] = {}
    left_out = 0
    for reader in data:
        seen: set[str] = set()
        for study in reader.studies():
            prepared = prepare(study.volume, outline(recipe), BrainMask(brain))
            bank, suspects = healthy_slices(reader.name, study, prepared, recipe.restore_shape)
            left_out += sum(not suspect.used for suspect in suspects)
            seen.add(study.patient)
            if bank is not None:
                shelves[is_validation(study.patient)].append(bank)
        patients[reader.name] = len(seen)
    log.info("healthy studies read", patients=sum(patients.values()), slices_left_out=left_out)
    return Healthy(join_banks(shelves[False]), join_banks(shelves[True]), patients, left_out)


def main() -> None:
    """The command line: `python -m inference.train RECIPE --data FOLDER --work FOLDER [--only brain|restore]`."""
    parser = argparse.ArgumentParser(description="train the networks of a bundle; start it again to resume")
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder with synthseg_label_maps and soop_flair")
    parser.add_argument("--work", type=Path, required=True, help="where banks and checkpoints are kept")
    parser.add_argument("--out", type=Path, help="where the bundle goes; without it only the networks are trained")
    parser.add_argument("--only", choices=["brain", "restore"], help="train one of the two networks")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    recipe = RECIPES[chosen.recipe]
    maps, soop = label_map_paths(chosen.data), chosen.data / "soop_flair"
    if chosen.out is not None:
        train(recipe, (), chosen.out, chosen.work, maps, soop)
    elif chosen.only != "restore":
        train_brain(recipe, maps, chosen.work)
    if chosen.out is None and chosen.only != "brain":
        real = soop_bank(soop, recipe.restore_shape, recipe.restore_spacing_mm, chosen.work / "bank-soop")
        train_restorer(recipe, maps, part(real, training=True), chosen.work)


if __name__ == "__main__":
    main()
