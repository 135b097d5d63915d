"""How unlikely each place is under a diffusion model, and a chain that makes anew only what is too unlikely.

    KL(q(x_s | x_t, x0) || p(x_s | x_t)) = (SNR(s) - SNR(t)) / 2 * (x0 - x0_hat)^2      SNR = alpha^2 / sigma^2

Kingma et al. 2021, arXiv 2107.00630, eq. 13, which holds for any stride; as a map after Pinaya et al. 2022, arXiv 2206.03461.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.corruptors import Corruptor, Noised
from inference.denoisers import Denoiser
from inference.objectives import Examples, LossOfExamples, Trained
from inference.samplers import Chain, Estimate, OneShot
from inference.schedules import LINEAR, Schedule
from inference.scorers import Running
from inference.slices import Slices, from_generator

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan

_STRIDE = 0.001  # one of the thousand steps of the training's chain


@dataclass(frozen=True, slots=True)
class Unlikelihood:
    """The divergence of the model's step from the true one in nats, averaged over channels and levels."""

    scan: OneShot
    schedule: Schedule = LINEAR

    def of(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Tensor:
        """[batch, 1, row, column]; not below 0."""
        seen = Running()
        for level, value, _ in self.scan.stream(slices, corruptor, denoiser):
            weight = (self._ratio(level - _STRIDE) - self._ratio(level)) / 2
            seen.add(weight * ((slices.image - value) ** 2).mean(1, keepdim=True))
        return seen.mean()

    def _ratio(self, level: float) -> float:
        return (self.schedule.alpha(level) / self.schedule.sigma(level)) ** 2


@dataclass(frozen=True, slots=True)
class Inpainted:
    """Marks what is less likely than a learned limit, makes it anew by a chain, keeps all else; yields the chain's end."""

    unlikelihood: Unlikelihood
    chain: Chain
    limit: str = "limit"
    """The network that holds the limit."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Those of the scan, then those of the chain."""
        return self.unlikelihood.scan.levels + self.chain.levels

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate: the slices wherever they are likely enough."""
        nats = self.unlikelihood.of(slices, corruptor, denoiser)
        marked = nats > slices.networks[self.limit](nats)

        def blend(x0_hat: Tensor, slices: Slices, level: float) -> Tensor:
            del level
            return torch.where(marked, x0_hat, slices.image)

        chain = Chain(self.chain.pairs, self.chain.step, blend)
        for last in chain.stream(slices.of_draw(1), corruptor, denoiser):
            end = last
        yield Estimate(end.level, blend(end.value, slices, end.level))


@dataclass(frozen=True, slots=True)
class LearnLimit:
    """The unlikelihood that this share of the healthy places within the brain stays below (pinball loss of its logarithm)."""

    unlikelihood: Unlikelihood
    denoiser: Denoiser
    share: float = 0.975
    corruptor: Corruptor = Noised()
    network: str = "limit"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean pinball loss."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = Slices(examples.image, examples.brain, networks, from_generator(generator, len(examples.image)))
        with torch.no_grad():
            nats = self.unlikelihood.of(slices, self.corruptor, self.denoiser).float()
        away = nats.clamp_min(1e-12).log() - networks[self.network](nats).log()
        inside = (slices.brain > 0.5).to(away)
        return (torch.maximum(self.share * away, (self.share - 1) * away) * inside).sum() / inside.sum().clamp_min(1)
