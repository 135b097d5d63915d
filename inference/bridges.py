"""A bridge between the slice at hand and its healthy self: level 1 is the slice, level 0 what it would be in health.

    x_t = (1 - t) x0 + t y + spread sqrt(t (1 - t)) eps        y the slice, x0 its healthy self

Denoising diffusion bridge models (Zhou et al. 2024, arXiv 2309.16948) as used for anomalies by arXiv 2510.13684; the schedule
is the Brownian bridge of BBDM (Li et al. 2023, arXiv 2205.07680). Without spread it is cold diffusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from inference.noise import Noise, White
from inference.slices import Level, Slices, column


@dataclass(frozen=True, slots=True)
class Bridge:
    """The step down a Brownian bridge, and the place on it for training."""

    spread: float
    """Standard deviation in standardised units; the noise is half of it in the middle."""
    noise: Noise = White()

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s given x_t and x0: what lies between two points of a bridge is a bridge again. ValueError unless 0 <= s < t."""
        if not 0.0 <= s < t:
            raise ValueError(f"a bridge is walked down, not from {t} to {s}")
        mean = x0_hat + (s / t) * (x_t - x0_hat)
        deviation = self.spread * math.sqrt(s * (t - s) / t)
        return mean if deviation == 0.0 else mean + deviation * self.noise.draw(slices.random, x_t)

    def between(self, healthy: Tensor, image: Tensor, level: Level, slices: Slices) -> Tensor:
        """x_t of both ends at the level of each slice."""
        t = column(level, image)
        spread = self.spread * (t * (1 - t)) ** 0.5
        return (1 - t) * healthy + t * image + spread * self.noise.draw(slices.random, image)
