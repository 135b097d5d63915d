"""A recipe applied to the slices of one volume: corruptor, denoiser, sampler and scorer, in batches.

Only slices with brain are shown to the network, in batches, or as one volume the stretch from the first of them to the last.
Every array is [slice, row, column] on the grid the network sees, in standardised units. Nothing here depends on how slices fall
into batches but the rounding of the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inference.recipes.recipe import Recipe, Unit
from inference.slices import Networks, SliceRandom, Slices

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Maps:
    """What a recipe makes of a volume, before anything is calibrated."""

    raw: FloatArray
    """Signed residual, positive where brighter than healthy; 0 on slices without brain."""
    healthy: FloatArray | None
    """The healthy estimate, the image itself on slices without brain; None where the recipe makes none."""
    uncertainty: FloatArray | None


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network is run: where, with which seed, on how many slices at once, padded to which multiple."""

    device: torch.device
    seed: int = 0
    batch: int = 32
    multiple: int = 1


def restore(images: FloatArray, brain: BoolArray, recipe: Recipe, networks: Networks, setting: Setting) -> Maps:
    """The recipe's maps of images[slice, row, column], where brain[slice, row, column] shows any brain."""
    raw, healthy, uncertainty = np.zeros_like(images), images.copy(), np.zeros_like(images)
    estimated, spread = True, False
    for batch in _batches(brain, recipe.unit, setting.batch):
        maps = _restore_batch(images[batch], brain[batch], tuple(batch), recipe, networks, setting)
        raw[batch] = maps.raw
        if maps.healthy is None:
            estimated = False
        else:
            healthy[batch] = maps.healthy
        if maps.uncertainty is not None:
            uncertainty[batch], spread = maps.uncertainty, True
    return Maps(raw, healthy if estimated else None, uncertainty if spread else None)


def _batches(brain: BoolArray, unit: Unit, most: int) -> Iterator[list[int]]:
    """The numbers of the slices that are shown together; those without brain only within a volume."""
    numbers = [int(number) for number in np.flatnonzero(brain.any(axis=(1, 2)))]
    match unit:
        case Unit.SLICES:
            yield from (numbers[start : start + most] for start in range(0, len(numbers), most))
        case Unit.VOLUME:
            yield from ([list(range(numbers[0], numbers[-1] + 1))] if numbers else [])


def _restore_batch(
    images: FloatArray, brain: BoolArray, numbers: tuple[int, ...], recipe: Recipe, networks: Networks, setting: Setting
) -> Maps:
    height, width = images.shape[-2:]
    slices = Slices(
        image=_padded(images, setting),
        brain=_padded(brain.astype(np.float32), setting),
        networks=networks,
        random=SliceRandom(setting.seed, numbers),
        most=setting.batch,
    )
    with torch.no_grad(), torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        scored = recipe.scorer.score(slices, recipe.sampler.stream(slices, recipe.corruptor, recipe.denoiser))

    def back(tensor: Tensor | None) -> FloatArray | None:
        return None if tensor is None else tensor[:, 0, :height, :width].float().cpu().numpy()

    raw = back(scored.raw)
    assert raw is not None
    return Maps(raw, back(scored.healthy), back(scored.uncertainty))


def _padded(images: FloatArray, setting: Setting) -> Tensor:
    """images[slice, row, column] as [slice, 1, row, column] on the device, grown to the multiple by repeating the rim."""
    x = torch.from_numpy(np.ascontiguousarray(images[:, None])).to(setting.device)
    rows, columns = -x.shape[-2] % setting.multiple, -x.shape[-1] % setting.multiple
    if rows or columns:
        x = functional.pad(x, (0, columns, 0, rows), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)
