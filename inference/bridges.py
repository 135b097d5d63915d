"""A diffusion that ends at the image itself instead of at noise: a Brownian bridge from the healthy slice to the one at hand.

    x_t = t image + (1 - t) x0 + c_t eps     c_t = width sqrt(t (1 - t))     t = 0 healthy, t = 1 the image
    x_s = (s/t) x_t + (1 - s/t) x0 + width sqrt(s (t - s) / t) eps           the bridge from x0 to x_t, at s < t

Bridges between two images: DDBM (Zhou et al. 2023, arXiv 2309.16948) and BBDM (Li et al. 2022, arXiv 2205.07680, whose schedule
this is). Without noise, width 0, the step is that of cold diffusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.noise import Noise, White
from inference.slices import Level, Slices, column


@dataclass(frozen=True, slots=True)
class Bridged:
    """Goes from what is handed over towards the slices' own image; at run time the two are the same, and noise remains."""

    width: float = 1.0
    """Twice the standard deviation of the noise half way, in standardised units."""
    noise: Noise = White()

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x at this level of its way to the image."""
        t = column(level, x)
        return t * slices.image + (1 - t) * x + self.deviation(level, x) * self.noise.draw(slices.random, x)

    def deviation(self, level: Level, like: Tensor) -> Level:
        """c_t of one level, or of a level for each slice in the shape that multiplies `like`."""
        if isinstance(level, Tensor):
            return column(self.width * torch.sqrt(level * (1 - level)), like)
        return self.width * math.sqrt(level * (1 - level))


@dataclass(frozen=True, slots=True)
class BridgeStep:
    """The step of a bridge with the deviation and the mean that the next level is told."""

    width: float = 1.0
    noise: Noise = White()

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s. ValueError unless 0 <= s < t <= 1."""
        if not 0.0 <= s < t <= 1.0:
            raise ValueError(f"a bridge is crossed from 1 down to 0, not from {t} to {s}")
        moved = (s / t) * x_t + (1 - s / t) * x0_hat
        fresh = self.width * math.sqrt(s * (t - s) / t)
        return moved if fresh == 0.0 else moved + fresh * self.noise.draw(slices.random, x_t)
