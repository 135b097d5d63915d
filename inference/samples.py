"""A picture of what a recipe, trained or in training, makes of a few of its training slices: image, healthy estimate, map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inference.material import Gathered
from inference.phantom.banks import part_of
from inference.preprocess import UNIT
from inference.recipes.recipe import Material, Recipe, Unit
from inference.restoration import Setting, restore
from inference.slices import Networks

COUNT = 6
_ENLARGED = 2


def write_samples(recipe: Recipe, networks: Networks, device: torch.device, material: Gathered, path: Path) -> None:
    """Writes a PNG, one column per slice; rows: the image, the healthy estimate where there is one, the raw map, the marks.

    Grey values go from no signal to twice the brain's median; of the map, -4 to 4 from black through grey to white. Networks
    may be in the midst of their training: nothing of it is touched.
    """
    bank = material.banks.get(Material.LABELLED) or next(iter(material.banks.values()), None)
    if bank is None:
        return
    if recipe.unit is Unit.VOLUME:
        bank = part_of(bank, np.arange(bank.runs[0]))
        asked = np.arange(len(bank.image))
    else:
        asked = _evenly(len(bank.image))
    brain = bank.brain[asked] > 127
    images = np.where(brain, bank.image[asked].astype(np.float32), np.float32(-UNIT))
    maps = restore(images, brain, recipe, networks, Setting(device, multiple=recipe.training.multiple))
    rows = [images] if maps.healthy is None else [images, maps.healthy]
    rows.append(np.where(brain, maps.raw, np.float32(-UNIT)))
    if bank.lesion is not None:
        rows.append(bank.lesion[asked].astype(np.float32) / 255 * 2 * UNIT - UNIT)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = _evenly(len(asked))
    picture = np.concatenate([np.concatenate(list(row[columns]), axis=1) for row in rows], axis=0)
    _grey(picture).resize((picture.shape[1] * _ENLARGED, picture.shape[0] * _ENLARGED)).save(path)


def _evenly(count: int) -> NDArray[np.intp]:
    return np.linspace(0, count - 1, min(COUNT, count)).astype(np.intp)


def _grey(values: NDArray[np.float32]) -> Image.Image:
    scaled = (np.clip(values, -UNIT, UNIT) + UNIT) / (2 * UNIT) * 255
    return Image.fromarray(scaled.round().astype(np.uint8))
