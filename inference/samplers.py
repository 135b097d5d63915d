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
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from inference.denoisers import Denoiser
from inference.noise import Noise, White
from inference.schedules import LINEAR, Schedule
from inference.slices import Slices

if TYPE_CHECKING:
    from inference.corruptors import Corruptor

Pairs = tuple[tuple[float, float], ...]


class Estimate(NamedTuple):
    """What came of the slices at one level."""

    level: float
    value: Tensor
    """x0_hat as the denoiser answered it, before any blending [batch, 1, row, column]; or a mask, or features."""
    reference: Tensor | None = None
    """What `value` is to be compared with where that is not the image itself, such as what a codec makes of it."""


Blend = Callable[[Tensor, Slices, float], Tensor]
"""(x0_hat, slices, level) -> x0_hat: what of the input is let back into the estimate before the next step."""


class Sampler(Protocol):
    """Visits levels and yields what the denoiser makes of the image at each."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Every level at which the denoiser is asked, in order, once per time that it is."""
        ...

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """The estimates of the slices, one at a time so that none need be kept."""
        ...


class Step(Protocol):
    """Moves an image from level t to level s, given the estimate of the clean image at t."""

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s, same shape as x_t."""
        ...


def keep_estimate(x0_hat: Tensor, slices: Slices, level: float) -> Tensor:
    """The blend that lets nothing of the input back in."""
    del slices, level
    return x0_hat


def pairs_through(levels: Sequence[float]) -> Pairs:
    """The pairs (t, s) that lead through these levels in order; they may fall, or rise for an inversion."""
    if len(levels) < 2:
        raise ValueError(f"a chain needs at least two levels, got {len(levels)}")
    return tuple(pairwise(levels))


def even_pairs(first: float, last: float, steps: int) -> Pairs:
    """The pairs of a chain of `steps` equal steps from one level to another."""
    return pairs_through([first + (last - first) * n / steps for n in range(steps)] + [last])


@dataclass(frozen=True, slots=True)
class OneShot:
    """Asks once per level and draw, each independent of the others: no step leads from one to the next.

    As many of them as fit go to the network in one call.
    """

    at: tuple[float, ...]
    draws: int = 1

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of all draws."""
        return self.at * self.draws

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate per level and draw, draws outermost."""
        count = slices.image.shape[0]
        asked = [(draw, place, level) for draw in range(self.draws) for place, level in enumerate(self.at)]
        together = max(1, slices.most // count)
        for start in range(0, len(asked), together):
            part = asked[start : start + together]
            corrupted = [corruptor.corrupt(slices.image, level, slices.of_draw(draw).after(place)) for draw, place, level in part]
            levels = torch.tensor([level for _, _, level in part]).repeat_interleave(count).to(slices.image)
            whole = slices.of_draws(tuple(draw for draw, _, _ in part))
            answers = denoiser.estimate(torch.cat(corrupted), part[0][2] if len(part) == 1 else levels, whole)
            for (_, _, level), answer in zip(part, answers.split(count), strict=True):
                yield Estimate(level, answer)


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

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate per pair; the last is the end of the chain."""
        x_t = corruptor.corrupt(slices.image, self.pairs[0][0], slices)
        for place, (t, s) in enumerate(self.pairs):
            x0_hat = denoiser.estimate(x_t, t, slices)
            yield Estimate(t, x0_hat)
            x_t = self.step.move(x_t, self.blend(x0_hat, slices, t), t, s, slices.after(1 + place))


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Runs another sampler several times with noise of its own and yields only how each run ended."""

    of: Sampler
    draws: int

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of all runs."""
        return self.of.levels * self.draws

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate per draw; as many draws as fit run side by side."""
        count = slices.image.shape[0]
        together = max(1, slices.most // count)
        for start in range(0, self.draws, together):
            draws = tuple(range(start, min(start + together, self.draws)))
            for last in self.of.stream(slices.of_draws(draws), corruptor, denoiser):
                end = last
            references = (None,) * len(draws) if end.reference is None else end.reference.split(count)
            for answer, reference in zip(end.value.split(count), references, strict=True):
                yield Estimate(end.level, answer, reference)


@dataclass(frozen=True, slots=True)
class Ddim:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps_hat + c eps, c = eta * the posterior's deviation (eq. 16).

    s may lie above t: that is the inversion, for eta = 0 only. t must have noise, else eps_hat is not
    defined.
    """

    schedule: Schedule = LINEAR
    eta: float = 0.0
    noise: Noise = White()

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
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
        return moved + fresh * self.noise.draw(slices.random, x_t)


def ddpm(schedule: Schedule = LINEAR, noise: Noise = White()) -> Ddim:  # a frozen value
    """The ancestral step of Ho et al. 2020 (eq. 6, 7), generalised to any stride: DDIM with eta = 1."""
    return Ddim(schedule=schedule, eta=1.0, noise=noise)


@dataclass(frozen=True, slots=True)
class Cold:
    """x_s = x_t - D(x0, t) + D(x0, s), where D(x0, t) = x0 + t d and d is the departure from the estimate.

    With severity as time the departure is d = (x_t - x0_hat) / t, hence x_s = x0_hat + (s / t)(x_t - x0_hat).
    """

    def move(self, x_t: Tensor, x0_hat: Tensor, t: float, s: float, slices: Slices) -> Tensor:
        """x_s with the share s / t of the departure left. ValueError at t = 0, where none is defined."""
        del slices
        if t <= 0.0:
            raise ValueError("no cold step leads away from severity 0")
        return x0_hat + (s / t) * (x_t - x0_hat)
