"""A picture of what a freshly trained recipe makes of a few of its training slices: image, healthy estimate, map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.localizer import RecipeLocalizer
from inference.material import Gathered
from inference.preprocess import UNIT
from inference.recipes.recipe import Material
from inference.restoration import Setting, restore

COUNT = 6
_ENLARGED = 2


def write_samples(localizer: RecipeLocalizer, material: Gathered, path: Path) -> None:
    """Writes a PNG, one column per slice; rows: the image, the healthy estimate where there is one, the raw map, the marks.

    Grey values go from no signal to twice the brain's median; of the map, -4 to 4 from black through grey to white.
    """
    bank = material.banks.get(Material.LABELLED) or next(iter(material.banks.values()), None)
    if bank is None:
        return
    chosen = np.linspace(0, len(bank.image) - 1, min(COUNT, len(bank.image))).astype(np.intp)
    brain = bank.brain[chosen] > 127
    images = np.where(brain, bank.image[chosen].astype(np.float32), np.float32(-UNIT))
    setting = Setting(localizer.bundle.device, multiple=localizer.bundle.card.multiple)
    maps = restore(images, brain, localizer.recipe, localizer.bundle.networks, setting)
    rows = [images] if maps.healthy is None else [images, maps.healthy]
    rows.append(np.where(brain, maps.raw, np.float32(-UNIT)))
    if bank.lesion is not None:
        rows.append(bank.lesion[chosen].astype(np.float32) / 255 * 2 * UNIT - UNIT)
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    _grey(picture).resize((picture.shape[1] * _ENLARGED, picture.shape[0] * _ENLARGED)).save(path)


def _grey(values: NDArray[np.float32]) -> Image.Image:
    scaled = (np.clip(values, -UNIT, UNIT) + UNIT) / (2 * UNIT) * 255
    return Image.fromarray(scaled.round().astype(np.uint8))
