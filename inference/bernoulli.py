"""Diffusion of images that know only two values, such as masks and binary codes: corruption is flipping.

Values are -1 and 1. The mean of what is left of a value x0 at a level is keep(level) x0; at level 1 next to nothing is, and a
flip is a toss-up. As in `inference.samplers`, steps go over explicit pairs (t, s) and are exact for any stride.

    P(x_t = 1 | x0) = (1 + keep_t x0) / 2       keep_t = product of (1 - beta_i)      keep_ts = keep_t / keep_s
    E[x_s | x_t, x0] = (keep_ts x_t + keep_s x0) / (1 + keep_t x_t x0)                 for x0 = -1, 1

Sohl-Dickstein et al. 2015, arXiv 1503.03585, table App. 1; conditional: BerDiff, Chen et al. 2023, arXiv 2304.04429.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.denoisers import Beside, Denoiser
from inference.schedules import LINEAR, Schedule
from inference.slices import Level, Slices, column, told

_SURE = 1e-6  # what an estimate stays away from -1 and 1, so that no probability is 0


def keep(schedule: Schedule, level: Level, like: Tensor) -> Level:
    """The share of a value's mean that is left at a level, 1 to 0; for levels of slices in the shape that multiplies `like`."""
    if not isinstance(level, Tensor):
        return schedule.alpha(level) ** 2
    return column(torch.tensor([schedule.alpha(float(one)) ** 2 for one in level]), like)


def tossed(mean: Tensor, slices: Slices) -> Tensor:
    """Values -1 and 1 of this mean[batch, channel, row, column], each tossed for itself."""
    return torch.where(slices.random.uniform(*mean.shape[1:]).to(mean) < (1 + mean) / 2, 1.0, -1.0).to(mean)


@dataclass(frozen=True, slots=True)
class Flipped:
    """A corruptor: flips values of -1 and 1, more often the higher the level."""

    schedule: Schedule = LINEAR

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x with some values flipped."""
        return tossed(keep(self.schedule, level, x) * x, slices)


@dataclass(frozen=True, slots=True)
class TossUp:
    """A corruptor that leaves nothing: where a chain starts that makes a mask or a code."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """-1 or 1 in the shape of x, even odds."""
        del level
        return tossed(torch.zeros_like(x), slices)


@dataclass(frozen=True, slots=True)
class PredictedFlips:
    """For a network that answers with the logit of a value having been flipped: E[x0] = x_t (1 - 2 p)."""

    network: str = "flips"
    beside: Beside | None = None

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The mean of the clean value, -1 to 1."""
        shown = x_t if self.beside is None else torch.cat([x_t, self.beside(slices)], dim=1)
        return unflipped(x_t, slices.networks[self.network](shown, told(level, x_t)))


@dataclass(frozen=True, slots=True)
class UnlessFlipped:
    """Keeps each value of the image unless the estimate holds that it was flipped (Wolleb et al. 2024, arXiv 2403.11667).

    Of a value x and its estimated mean m, the probability of a flip is (1 - x m) / 2.
    """

    denoiser: Denoiser
    above: float = 0.5

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The wrapped denoiser's means where a flip is likelier than `above`, the image elsewhere."""
        x0_hat = self.denoiser.estimate(x_t, level, slices)
        return torch.where((1 - slices.image * x0_hat) / 2 > self.above, x0_hat, slices.image)


def unflipped(x_t: Tensor, logit: Tensor) -> Tensor:
    """The mean of the clean value where x_t was flipped with this log-odds."""
    return x_t * (1 - 2 * torch.sigmoid(logit))


def posterior(x_t: Tensor, x0_hat: Tensor, keep_t: Level, keep_s: Level) -> Tensor:
    """E[x_s | x_t] where x0 has the mean `x0_hat`: the mean over both values that x0 may have, weighted by its odds."""
    keep_ts = keep_t / keep_s
    likely = ((1 + x0_hat) / 2).clamp(_SURE, 1 - _SURE)
    one = (keep_ts * x_t + keep_s) / (1 + keep_t * x_t)
    other = (keep_ts * x_t - keep_s) / (1 - keep_t * x_t)
    return likely * one + (1 - likely) * other


@dataclass(frozen=True, slots=True)
class BernoulliStep:
    """The ancestral step: x_s is tossed by its posterior, given x_t and the estimate of x0 (arXiv 1503.03585; BerDiff, eq. 7)."""

    schedule: Schedule = LINEAR

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s, of values -1 and 1. ValueError where s does not lie below t."""
        if s >= t:
            raise ValueError(f"a toss leads to a lower level only, not from {t} to {s}")
        mean = posterior(x_t, x0_hat, self.schedule.alpha(t) ** 2, self.schedule.alpha(s) ** 2)
        return tossed(mean, slices)
