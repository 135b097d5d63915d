"""A second, shorter chain that paints only where the first one departed from the image; the rest is the image itself.

AutoDDPM masks, stitches and resamples (Bercea et al. 2023, arXiv 2305.19643) by the method of RePaint (Lugmayr et al. 2022,
arXiv 2201.09865, algorithm 1): after each step down the known part is put in, noised to that level, and the step is taken
again from noise added back, so that the painted part comes to fit its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.blends import Departed
from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.samplers import Ddim, Estimate, Pairs, Sampler
from inference.slices import Slices

_SECOND = 100_000  # place in the draw where the noise of the second chain starts, beyond that of the first


@dataclass(frozen=True, slots=True)
class Repainted:
    """Runs a sampler to its end, and from there another chain where the end departs from the image."""

    first: Sampler
    departed: Departed
    pairs: Pairs
    """Of the second chain, falling; it ends at level 0."""
    step: Ddim
    again: int = 5
    """Times that each step is taken."""

    def __post_init__(self) -> None:
        if not self.pairs or self.pairs[-1][1] != 0.0 or self.again < 1:
            raise ValueError(f"the second chain must end at level 0 and take each step, got {self.pairs} {self.again} times")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of both chains."""
        return self.first.levels + tuple(t for t, _ in self.pairs for _ in range(self.again))

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """Two estimates: the end of the first chain and the end of the second."""
        for last in self.first.stream(slices, corruptor, denoiser):
            end = last
        yield end
        painted = self.departed.where(end.value, slices)
        stitched = torch.where(painted, end.value, slices.image)
        use = _SECOND
        x_t = corruptor.corrupt(stitched, self.pairs[0][0], slices.after(use))
        for t, s in self.pairs:
            for turn in range(self.again):
                x0_hat = denoiser.estimate(x_t, t, slices)
                inside = self.step.move(x_t, x0_hat, t, s, slices.after(use + 1))
                known = corruptor.corrupt(slices.image, s, slices.after(use + 2))
                x_s = torch.where(painted, inside, known)
                use += 3
                x_t = x_s if turn == self.again - 1 else self.back_up(x_s, s, t, slices.after(use))
        yield Estimate(0.0, x_t)

    def back_up(self, x_s: Tensor, s: float, t: float, slices: Slices) -> Tensor:
        """x_t, with the noise added that lies between the levels (Ho et al. 2020, eq. 2)."""
        schedule = self.step.schedule
        ratio = schedule.alpha(t) / schedule.alpha(s)
        missing = math.sqrt(max(0.0, schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(s) ** 2))
        return ratio * x_s + missing * self.step.noise.draw(slices.random, x_s)
