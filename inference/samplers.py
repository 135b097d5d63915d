"""The order in which levels are visited, and how one level leads to the next.

A sampler turns a batch of slices into a stream of (level, estimate of the clean image). Steps go over
explicit pairs (t, s) and know nothing of a training schedule's stride: after a step from t to s the image
holds exactly the alpha(s) and sigma(s) that the network is told next.

    x_t = alpha_t x0 + sigma_t eps      t, s in [0, 1]      x0_hat = what the denoiser answers at t
    DDIM  Song et al. 2020, arXiv 2010.02502, eq. 12        DDPM  eta = 1 of the same, for any stride
    cold  Bansal et al. 2022, arXiv 2208.09392, algorithm 2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from inference.corruptors import LINEAR, Corruptor, Schedule, SliceRandom
from inference.denoisers import Estimator

Pairs = tuple[tuple[float, float], ...]

Estimate = tuple[float, Tensor]
"""The level it was made at, and x0_hat[batch, 1, row, column]."""

Blend = Callable[[Tensor, Tensor, float], Tensor]
"""(x0_hat, x, level) -> x0_hat: what of the input is let back into the estimate before the next step."""


class Sampler(Protocol):
    """Visits levels and yields what the denoiser makes of the image at each."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Every level at which the network is asked, in order, once per evaluation."""
        ...

    def stream(self, x: Tensor, corruptor: Corruptor, estimator: Estimator, random: SliceRandom) -> Iterator[Estimate]:
        """The estimates of x[batch, 1, row, column], one at a time so that none need be kept."""
        ...


class Step(Protocol):
    """Moves an image from level t to level s, given the estimate of the clean image at t."""

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, random: SliceRandom) -> Tensor:
        """x_s, same shape as x_t."""
        ...


def keep_estimate(x0_hat: Tensor, x: Tensor, level: float) -> Tensor:
    """The blend that lets nothing of the input back in."""
    del x, level
    return x0_hat


def pairs_through(levels: Sequence[float]) -> Pairs:
    """The pairs (t, s) that lead through these levels in order; they may fall, or rise for an inversion."""
    if len(levels) < 2:
        raise ValueError(f"a chain needs at least two levels, got {len(levels)}")
    return tuple(pairwise(levels))


@dataclass(frozen=True, slots=True)
class OneShot:
    """Asks once per level and draw, each independent of the others: no step leads from one to the next."""

    at: tuple[float, ...]
    draws: int = 1

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of all draws."""
        return self.at * self.draws

    def stream(self, x: Tensor, corruptor: Corruptor, estimator: Estimator, random: SliceRandom) -> Iterator[Estimate]:
        """One estimate per level and draw, draws outermost."""
        for draw in range(self.draws):
            for place, level in enumerate(self.at):
                corrupted = corruptor.corrupt(x, level, random.of_draw(draw).after(place))
                yield level, estimator(corrupted, level)


@dataclass(frozen=True, slots=True)
class Chain:
    """Corrupts to the first level, then steps over the pairs; each estimate passes the blend first."""

    pairs: Pairs
    step: Step
    blend: Blend = keep_estimate

    def __post_init__(self) -> None:
        if not self.pairs or any(left[1] != right[0] for left, right in pairwise(self.pairs)):
            raise ValueError(f"the pairs of a chain must lead from one to the next, got {self.pairs}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The level that each step leaves."""
        return tuple(t for t, _ in self.pairs)

    def stream(self, x: Tensor, corruptor: Corruptor, estimator: Estimator, random: SliceRandom) -> Iterator[Estimate]:
        """One estimate per pair; the last is the end of the chain."""
        x_t = corruptor.corrupt(x, self.pairs[0][0], random)
        for place, (t, s) in enumerate(self.pairs):
            x0_hat = self.blend(estimator(x_t, t), x, t)
            yield t, x0_hat
            x_t = self.step.move(x_t, x0_hat, t, s, random.after(1 + place))


@dataclass(frozen=True, slots=True)
class Ddim:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps_hat + c eps, c = eta * the posterior's deviation (eq. 16).

    s may lie above t: that is the inversion, for eta = 0 only. t must have noise, else eps_hat is not
    defined.
    """

    schedule: Schedule = LINEAR
    eta: float = 0.0

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, random: SliceRandom) -> Tensor:
        """x_s with the alpha and sigma of level s. ValueError where t has no noise or a rising step draws."""
        alpha_t, sigma_t = self.schedule.alpha(t), self.schedule.sigma(t)
        alpha_s, sigma_s = self.schedule.alpha(s), self.schedule.sigma(s)
        if sigma_t == 0.0:
            raise ValueError("no step leads away from level 0: there is no noise to go by")
        if s > t and self.eta > 0.0:
            raise ValueError(f"a rising step ({t} to {s}) must be deterministic, eta is {self.eta}")
        noise_hat = (x_t - alpha_t * x0_hat) / sigma_t
        fresh = self.eta * sigma_s / sigma_t * math.sqrt(max(0.0, 1.0 - (alpha_t / alpha_s) ** 2))
        moved = alpha_s * x0_hat + math.sqrt(max(0.0, sigma_s**2 - fresh**2)) * noise_hat
        if fresh == 0.0:
            return moved
        return moved + fresh * random.normal(x_t.shape[-2], x_t.shape[-1]).to(x_t)


def ddpm(schedule: Schedule) -> Ddim:
    """The ancestral step of Ho et al. 2020 (eq. 6, 7), generalised to any stride: DDIM with eta = 1."""
    return Ddim(schedule=schedule, eta=1.0)


@dataclass(frozen=True, slots=True)
class Cold:
    """x_s = x_t - D(x0, t) + D(x0, s), where D(x0, t) = x0 + t d and d is the departure from the estimate.

    With severity as time the departure is d = (x_t - x0_hat) / t, hence x_s = x0_hat + (s / t)(x_t - x0_hat).
    """

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, random: SliceRandom) -> Tensor:
        """x_s with the share s / t of the departure left. ValueError at t = 0, where none is defined."""
        del random
        if t <= 0.0:
            raise ValueError("no cold step leads away from severity 0")
        return x0_hat + (s / t) * (x_t - x0_hat)
