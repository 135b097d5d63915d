"""Trainings of methods that work on codes: the codec first, then whatever diffusion learns, with codes in place of slices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.codecs import Codec, LearnedCodec, encoded
from inference.corruptors import Noised
from inference.objectives import Examples, LossOfExamples, Objective, Trained
from inference.phantom.lesions import AnomalyPainter
from inference.slices import Slices, column, from_generator

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan


@dataclass(frozen=True, slots=True)
class LearnCodec:
    """The slice itself after it went through the code: the mean absolute error, and what the code costs."""

    codec: LearnedCodec

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The sum of both."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = _slices(networks, examples, generator)
        made, cost = self.codec.trial(slices)
        return functional.l1_loss(made.float(), examples.image) + cost


@dataclass(frozen=True, slots=True)
class OnCodes:
    """Another objective, shown the code of each slice in place of its image."""

    codec: Codec
    of: Objective

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The loss of the other objective; the codec learns nothing by it."""
        inner = self.of.begin(grid, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            with torch.no_grad():
                hidden = encoded(_slices(networks, examples, generator), self.codec)
            return inner(networks, replace(examples, image=hidden.image.float(), brain=hidden.brain), generator)

        return loss


@dataclass(frozen=True, slots=True)
class RestorePatches:
    """The clean image, and the logit of a place having been noised, where random patches were noised (MAD-AD).

    The mean square error of the noised places and of all places in equal parts, and the cross-entropy of the mask.
    """

    corruptor: Noised = Noised()
    network: str = "restorer"
    patch: int = 2
    """Side of a patch."""
    most: float = 0.6
    """Share of the patches that are noised at most; the share is drawn anew for each slice."""
    levels: tuple[float, float] = (0.05, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The sum of all three."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = _slices(networks, examples, generator)
        clean = examples.image
        low, high = self.levels
        level = (low + (high - low) * torch.rand(len(clean), generator=generator)).to(clean)
        share = self.most * torch.rand(len(clean), generator=generator).to(clean)
        mask = patches(clean, share, self.patch, slices.after(1))
        x_t = torch.where(mask > 0, self.corruptor.corrupt(clean, level, slices), clean)
        answer = networks[self.network](x_t, level).float()
        restored, evidence = answer[:, : clean.shape[1]], answer[:, clean.shape[1] :]
        error = ((restored - clean) ** 2).mean(1, keepdim=True)
        noised = (error * mask).sum() / mask.sum().clamp_min(1)
        return noised + error.mean() + functional.binary_cross_entropy_with_logits(evidence, mask)


@dataclass(frozen=True, slots=True)
class FlowFromAnomalies:
    """The velocity of the straight way from a healthy slice's code to that of the same slice with a painted anomaly (REFLECT)."""

    codec: Codec
    network: str = "velocity"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error, over all places on the way alike."""
        painter = AnomalyPainter((grid.rows, grid.columns), grid.spacing_mm, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            severity = 0.05 + 0.95 * torch.rand(len(examples.image), generator=generator)
            clean, brain, white = (one.cpu() for one in (examples.image, examples.brain, examples.white))
            painted = painter(clean, brain, white, severity, generator)
            with torch.no_grad():
                pair = torch.cat([painted.image, painted.target]).to(examples.image)
                sick, healthy = self.codec.encode(pair, networks).float().chunk(2)
            level = torch.rand(len(clean), generator=generator).to(healthy)
            x_t = healthy + column(level, healthy) * (sick - healthy)
            return functional.mse_loss(networks[self.network](x_t, level).float(), sick - healthy)

        return loss


def patches(like: Tensor, share: Tensor, side: int, slices: Slices) -> Tensor:
    """1 on square patches that cover the share[batch] of like[batch, channel, row, column], else 0: [batch, 1, row, column]."""
    rows, columns = like.shape[2:]
    drawn = slices.random.uniform(1, -(-rows // side), -(-columns // side)).to(like)
    cells = (drawn < share[:, None, None, None]).to(like)
    return cells.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :rows, :columns]


def _slices(networks: Trained, examples: Examples, generator: torch.Generator) -> Slices:
    return Slices(examples.image, examples.brain, networks, from_generator(generator, len(examples.image)))
