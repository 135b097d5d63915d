"""Whole volumes through the parts that know slices: a batch of neighbouring slices is a volume to its network.

Samplers, corruptors and scorers go on as ever; only the network sees [volume, channel, slice, row, column]. Trained on crops that
are told where in the brain they lie, it is asked for the whole (PatchDDM, Bieder et al. 2023, arXiv 2303.15288).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.corruptors import Noised
from inference.denoisers import Beside, Denoiser
from inference.objectives import Examples, LossOfExamples, Trained
from inference.slices import Level, Network, Slices, from_generator

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan


@dataclass(frozen=True, slots=True)
class AsVolume:
    """Asks another denoiser, whose networks see all slices of a volume at once. For recipes whose unit is the volume."""

    denoiser: Denoiser

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The wrapped denoiser's estimate [slice, channel, row, column]; several draws of a volume are several volumes."""
        depth = len(set(slices.random.slices))
        networks = {name: _Stacked(network, depth) for name, network in slices.networks.items()}
        return self.denoiser.estimate(x_t, level, replace(slices, networks=networks))


@dataclass(frozen=True, slots=True)
class _Stacked:
    """A network of volumes as one of slices."""

    network: Network
    depth: int

    def __call__(self, given: Tensor, level: Tensor) -> Tensor:
        """given[volume * slice, channel, row, column], level[volume * slice] -> the answer in the same order."""
        volumes = given.unflatten(0, (-1, self.depth)).movedim(2, 1).contiguous()
        return self.network(volumes, level[:: self.depth]).movedim(1, 2).flatten(0, 1)


def the_image_and_place(slices: Slices) -> Tensor:
    """The image and, in three further channels, where each voxel lies in the brain: -1 to 1 from its first slice, row and column
    to its last, further beyond. So that a crop knows what it is part of, and no grid need have the size of another.
    """
    inside = slices.brain[:, 0] > 0.5
    numbers = torch.tensor(slices.random.slices, device=inside.device)
    rows, columns = (torch.arange(size, device=inside.device) for size in inside.shape[1:])
    places = [
        _between(numbers, inside.any(2).any(1))[:, None, None],
        _between(rows, inside.any(2).any(0))[None, :, None],
        _between(columns, inside.any(1).any(0))[None, None, :],
    ]
    return torch.cat([slices.image, *(one.expand(inside.shape)[:, None].to(slices.image) for one in places)], dim=1)


def _between(numbers: Tensor, kept: Tensor) -> Tensor:
    """The numbers, scaled so that the kept ones reach from -1 to 1; 0 where there are none."""
    if not kept.any():
        return torch.zeros(len(numbers), device=numbers.device)
    low, high = numbers[kept].min(), numbers[kept].max()
    return (2 * numbers - low - high) / (high - low).clamp_min(1)


@dataclass(frozen=True, slots=True)
class PredictNoiseInCrops:
    """The noise in the noised masks of random crops of one study, over all levels alike; `beside` is made before the cut."""

    crop: tuple[int, int, int]
    """Slices, rows and columns; where the study has fewer, all of them."""
    beside: Beside
    crops: int = 4
    corruptor: Noised = Noised()
    network: str = "noise"
    levels: tuple[float, float] = (0.001, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error of the noise."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        study = Slices(examples.image, examples.brain, networks, from_generator(generator, len(examples.image)))
        whole = torch.cat([2 * examples.lesion - 1, self.beside(study)], dim=1).movedim(1, 0)
        parts = torch.stack([self._cut(whole, generator) for _ in range(self.crops)])
        clean, beside = parts[:, :1], parts[:, 1:]
        low, high = self.levels
        level = (low + (high - low) * torch.rand(self.crops, generator=generator)).to(clean)
        slices = Slices(clean, torch.ones_like(clean), networks, from_generator(generator, self.crops))
        shown = torch.cat([self.corruptor.corrupt(clean, level, slices), beside], dim=1)
        noise = self.corruptor.noise.draw(slices.random, clean)
        return functional.mse_loss(networks[self.network](shown, level).float(), noise)

    def _cut(self, whole: Tensor, generator: torch.Generator) -> Tensor:
        """A crop of whole[channel, slice, row, column], every place alike."""
        for axis, size in enumerate(self.crop, start=1):
            room = max(0, whole.shape[axis] - size)
            start = int(torch.randint(0, room + 1, (1,), generator=generator).item())
            whole = whole.narrow(axis, start, min(size, whole.shape[axis]))
        return whole
