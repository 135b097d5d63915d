"""A recipe applied to the slices of one volume: corruptor, denoiser, sampler and scorer, in batches.

Only slices with brain are shown to the network. Every array is [slice, row, column] on the grid the network
sees, in standardised units. Nothing here depends on how slices fall into batches but the rounding of the
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inference.corruptors import SliceRandom
from inference.denoisers import Network, bind
from inference.recipes.recipe import Recipe

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

Conditions = Callable[[FloatArray, tuple[int, ...]], FloatArray | None]
"""(images[slice, row, column], slice numbers) -> what is seen beside each, [slice, channel, row, column]."""


@dataclass(frozen=True, slots=True)
class Maps:
    """What a recipe makes of a volume, before anything is calibrated."""

    raw: FloatArray
    """Signed residual, positive where brighter than healthy; 0 on slices without brain."""
    healthy: FloatArray
    """The healthy estimate; the image itself on slices without brain."""
    uncertainty: FloatArray | None


@dataclass(frozen=True, slots=True)
class Setting:
    """How a network is run: where, with which seed, on how many slices at once, padded to which multiple."""

    device: torch.device
    seed: int = 0
    batch: int = 32
    multiple: int = 1


def restore(
    images: FloatArray,
    brain: BoolArray,
    recipe: Recipe,
    network: Network,
    setting: Setting,
    conditions: Conditions | None = None,
) -> Maps:
    """The recipe's maps of images[slice, row, column], where brain[slice, row, column] shows any brain."""
    numbers = np.flatnonzero(brain.any(axis=(1, 2)))
    raw, healthy = np.zeros_like(images), images.copy()
    uncertainty: FloatArray | None = None
    for start in range(0, len(numbers), setting.batch):
        batch = tuple(int(number) for number in numbers[start : start + setting.batch])
        beside = None if conditions is None else conditions(images, batch)
        maps = _restore_batch(images[list(batch)], batch, beside, recipe, network, setting)
        raw[list(batch)], healthy[list(batch)] = maps.raw, maps.healthy
        if maps.uncertainty is not None:
            uncertainty = np.zeros_like(images) if uncertainty is None else uncertainty
            uncertainty[list(batch)] = maps.uncertainty
    return Maps(raw, healthy, uncertainty)


def _restore_batch(
    images: FloatArray,
    numbers: tuple[int, ...],
    beside: FloatArray | None,
    recipe: Recipe,
    network: Network,
    setting: Setting,
) -> Maps:
    height, width = images.shape[-2:]
    x = _padded(images[:, None], setting)
    condition = None if beside is None else _padded(beside, setting)
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False),
    ):
        estimator = bind(recipe.denoiser, network, condition)
        stream = recipe.sampler.stream(x, recipe.corruptor, estimator, SliceRandom(setting.seed, numbers))
        scored = recipe.scorer.score(x, stream)

    def back(tensor: Tensor) -> FloatArray:
        array: FloatArray = tensor[:, 0, :height, :width].float().cpu().numpy()
        return array

    return Maps(
        raw=back(scored.raw),
        healthy=back(scored.healthy),
        uncertainty=None if scored.uncertainty is None else back(scored.uncertainty),
    )


def _padded(images: FloatArray, setting: Setting) -> Tensor:
    """images[slice, channel, row, column] on the device, grown to the multiple by repeating the rim."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(setting.device)
    rows, columns = -x.shape[-2] % setting.multiple, -x.shape[-1] % setting.multiple
    if rows or columns:
        x = functional.pad(x, (0, columns, 0, rows), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)
