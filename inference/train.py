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

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from inference.brain import BrainMask
from inference.card import ModelCard, Source
from inference.data import Reader, Study, is_validation, paint_out, soop_bank
from inference.phantom.banks import UNIT, Bank, join_banks
from inference.preprocess import prepare
from inference.publish import Ingredients, outline, public_sources, publish
from inference.training import RECIPES, TrainingRecipe, label_map_paths, part, train_brain, train_restorer

log = structlog.get_logger()

_MOST_PAINTED = 0.12  # a slice of which more had to be painted out is no example of health
_LEAST_BRAIN_MM2 = 1500.0


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
    healthy = healthy_slices(recipe, data, brain)
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


def healthy_slices(recipe: TrainingRecipe, data: Sequence[Reader], brain: nn.Module) -> Healthy:
    """The slices of all studies on the network's grid, cleaned, split by patient."""
    shelves: dict[bool, list[Bank]] = {True: [], False: []}
    patients: dict[str, int] = {}
    left_out = 0
    for reader in data:
        seen: set[str] = set()
        for study in reader.studies():
            bank, lost = _slices_of(recipe, study, brain)
            left_out += lost
            seen.add(study.patient)
            if bank is not None:
                shelves[is_validation(study.patient)].append(bank)
        patients[reader.name] = len(seen)
    log.info("healthy studies read", patients=sum(patients.values()), slices_left_out=left_out)
    return Healthy(join_banks(shelves[False]), join_banks(shelves[True]), patients, left_out)


def _slices_of(recipe: TrainingRecipe, study: Study, brain: nn.Module) -> tuple[Bank | None, int]:
    prepared = prepare(study.volume, outline(recipe), BrainMask(brain))
    marked = np.zeros(study.volume.spatial_shape, dtype=np.float32)
    if study.lesion is not None:
        marked += ndimage.binary_dilation(study.lesion, iterations=2)
    doubtful = prepared.from_source(marked, order=0) > 0.5
    images, brains, lost = [], [], 0
    for image, inside, doubt in zip(prepared.images, prepared.brain, doubtful, strict=True):
        if inside.sum() * recipe.restore_spacing_mm**2 < _LEAST_BRAIN_MM2:
            continue
        cleaned, painted = paint_out(image + UNIT, inside, doubt)
        if painted.sum() > _MOST_PAINTED * inside.sum():
            lost += 1
            continue
        images.append(_centred(cleaned - UNIT, recipe.restore_shape, -UNIT))
        brains.append(_centred(inside.astype(np.float32), recipe.restore_shape, 0.0))
    if not images:
        return None, lost
    stack, mask = np.stack(images), np.stack(brains)
    white = (mask > 0) & (np.abs(ndimage.gaussian_filter(stack, (0, 1, 1))) < 0.6)
    as_bytes = [(values * 255).astype(np.uint8) for values in (mask, white.astype(np.float32))]
    return Bank(stack.astype(np.float16), as_bytes[0], as_bytes[1]), lost


def _centred(values: NDArray[np.float32], shape: tuple[int, int], fill: float) -> NDArray[np.float32]:
    """values[row, column] in the middle of an array of that shape, cut or filled."""
    out = np.full(shape, fill, dtype=np.float32)
    take, put = [], []
    for size, wanted in zip(values.shape, shape, strict=True):
        common = min(size, wanted)
        take.append(slice((size - common) // 2, (size - common) // 2 + common))
        put.append(slice((wanted - common) // 2, (wanted - common) // 2 + common))
    out[put[0], put[1]] = values[take[0], take[1]]
    return out


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
