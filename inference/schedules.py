"""How much signal and how much noise an image holds at each level: the noise schedules of diffusion.

Levels run from 0 (clean) to 1. The schedule is shared by the corruptors, the denoisers and the chains of
`inference.samplers` (Ho et al. 2020, arXiv 2006.11239, eq. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.slices import Level, column


@dataclass(frozen=True, slots=True)
class Schedule:
    """The variance-preserving schedule x_t = alpha(t) x_0 + sigma(t) eps over levels t in [0, 1].

    alpha^2 = product of (1 - beta_i), i = 1..t*steps, beta rising linearly; alpha(0) = 1. Between two whole
    steps the logarithm is interpolated, so that any t may be asked for. Constants: Ho et al. 2020, section 4.
    """

    steps: int = 1000
    first_beta: float = 1e-4
    last_beta: float = 0.02

    def alpha(self, level: float) -> float:
        """The factor that the clean image has at this level. ValueError outside [0, 1]."""
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level {level} outside 0 to 1")
        betas = np.linspace(self.first_beta, self.last_beta, self.steps)
        log_alpha = np.concatenate([[0.0], np.cumsum(0.5 * np.log1p(-betas))])
        return math.exp(float(np.interp(level * self.steps, np.arange(self.steps + 1), log_alpha)))

    def sigma(self, level: float) -> float:
        """The standard deviation of the noise at this level."""
        return math.sqrt(max(0.0, 1.0 - self.alpha(level) ** 2))

    def mixing(self, level: Level, like: Tensor) -> tuple[Level, Level]:
        """alpha and sigma of one level, or of a level for each slice in the shape that multiplies `like`."""
        if not isinstance(level, Tensor):
            return self.alpha(level), self.sigma(level)
        levels = [float(one) for one in level]
        alpha = torch.tensor([self.alpha(one) for one in levels])
        sigma = torch.tensor([self.sigma(one) for one in levels])
        return column(alpha, like), column(sigma, like)


LINEAR = Schedule()
"""The schedule of Ho et al. 2020: a thousand steps, linear beta."""
