"""How a network is asked for the healthy image: what it is shown beside the slice, and what it answers.

A denoiser is a value that holds no weights; the network is handed to it. Whatever a network was trained to
predict, a denoiser answers with the estimate of the clean image x0, so that samplers and scorers know only
one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inference.corruptors import LINEAR, Schedule

Network = Callable[[Tensor, Tensor], Tensor]
"""(image[batch, channel, row, column], level[batch] in 0 to 1) -> [batch, 1, row, column]."""

Estimator = Callable[[Tensor, float], Tensor]
"""(x_t[batch, 1, row, column], level) -> x0_hat of the same shape: a denoiser bound to its network."""


class Denoiser(Protocol):
    """Asks a network for the clean image behind x_t[batch, 1, row, column]."""

    def estimate(self, network: Network, x_t: Tensor, level: float, condition: Tensor | None) -> Tensor:
        """x0_hat of the same shape as x_t; `condition` [batch, channel, row, column] is shown beside it."""
        ...


@dataclass(frozen=True, slots=True)
class CleanImage:
    """For a network that answers with the clean image itself, told the severity of the corruption."""

    told: float | None = None
    """The severity that the network is always told; None tells it the level at hand."""

    def estimate(self, network: Network, x_t: Tensor, level: float, condition: Tensor | None) -> Tensor:
        """The network's answer as it is."""
        return _ask(network, x_t, level if self.told is None else self.told, condition)


@dataclass(frozen=True, slots=True)
class PredictedNoise:
    """For a network that answers with the noise: x0 = (x_t - sigma eps) / alpha (Ho et al. 2020, eq. 9)."""

    schedule: Schedule = LINEAR

    def estimate(self, network: Network, x_t: Tensor, level: float, condition: Tensor | None) -> Tensor:
        """The clean image that follows from the noise which the network sees."""
        noise = _ask(network, x_t, level, condition)
        return (x_t - self.schedule.sigma(level) * noise) / self.schedule.alpha(level)


@dataclass(frozen=True, slots=True)
class BrainMedian:
    """Asks no network: the healthy brain is its own median everywhere, 0 in standardised units."""

    def estimate(self, network: Network, x_t: Tensor, level: float, condition: Tensor | None) -> Tensor:
        """0 wherever there is image, so that the residual is the intensity itself."""
        del network, level, condition
        return torch.zeros_like(x_t)


def bind(denoiser: Denoiser, network: Network, condition: Tensor | None) -> Estimator:
    """The denoiser as a function of the corrupted image and its level, which is all that a sampler needs."""

    def estimator(x_t: Tensor, level: float) -> Tensor:
        return denoiser.estimate(network, x_t, level, condition)

    return estimator


def _ask(network: Network, x_t: Tensor, level: float, condition: Tensor | None) -> Tensor:
    image = x_t if condition is None else torch.cat([x_t, condition], dim=1)
    return network(image, torch.full((x_t.shape[0],), level, dtype=x_t.dtype, device=x_t.device))
