"""Chains that move only the places which a network marks as destroyed, and leave all others where they are.

A healthy place is then never noised, and holds at every level what it held at first (MAD-AD, arXiv 2502.16943).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.samplers import Step
from inference.slices import Level, Slices, told


@dataclass(frozen=True, slots=True)
class WhereMarked:
    """For a network that answers with the clean image and, as a last channel, the logit of a place being destroyed."""

    network: str = "restorer"
    above: float = 0.5

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The answer where a place is destroyed with a probability above `above`, x_t itself elsewhere."""
        answer = slices.networks[self.network](x_t, told(level, x_t))
        marked = torch.sigmoid(answer[:, -1:]) > self.above
        return torch.where(marked, answer[:, : x_t.shape[1]], x_t)


@dataclass(frozen=True, slots=True)
class Selective:
    """Another step, taken only at places where the estimate differs from x_t."""

    of: Step

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s where there is anything to restore, x_t elsewhere."""
        differs = (x0_hat != x_t).any(dim=1, keepdim=True)
        return torch.where(differs, self.of.move(x_t, x0_hat, t, s, slices), x_t)


@dataclass(frozen=True, slots=True)
class Velocity:
    """For a network that answers with the velocity of the straight way from x0 (level 0) to what was corrupted (level 1).

    x_t = x0 + t v, hence x0_hat = x_t - t v: one Euler step (Liu et al. 2022, arXiv 2209.03003). `samplers.Cold` takes several.
    """

    network: str = "velocity"

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The end of the way at level 0."""
        levels = told(level, x_t)
        return x_t - levels[:, None, None, None] * slices.networks[self.network](x_t, levels)
