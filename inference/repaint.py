"""A chain in two rounds: the first finds where the slice may be sick, the second paints only there, the rest as context.

AutoDDPM (Bercea et al. 2023, arXiv 2305.19643) with the resampling of RePaint (Lugmayr et al. 2022, arXiv 2201.09865,
algorithm 1): after a step down what was painted and what is known are noised back up together, so that they come to agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from inference.blends import smoothed
from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.samplers import Chain, Ddim, Estimate, Pairs
from inference.slices import Slices


@dataclass(frozen=True, slots=True)
class Doubtful:
    """Where a slice departs from its estimate: the smoothed magnitude against a fixed number, then widened."""

    above: float
    """In standardised units; never a share of the slice's own maximum."""
    sigma: float = 2.0
    widened: int = 3
    """Side in pixels of the square by which it grows; odd."""

    def mask(self, image: Tensor, estimate: Tensor) -> Tensor:
        """1 where doubtful, 0 elsewhere, in the shape of the image."""
        doubt = (smoothed((image - estimate).abs(), self.sigma) > self.above).to(image)
        return functional.max_pool2d(doubt, self.widened, stride=1, padding=self.widened // 2)


@dataclass(frozen=True, slots=True)
class Repainted:
    """Runs a chain, then paints anew what it left doubtful, from a lower level."""

    first: Chain
    doubtful: Doubtful
    pairs: Pairs
    step: Ddim
    rounds: int = 5
    """Times that each step of the second chain is taken."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Those of the first chain, then those of the second, each `rounds` times."""
        return self.first.levels + tuple(t for t, _ in self.pairs for _ in range(self.rounds))

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """The estimates of the first chain, then one for each pair of the second; other tissue is the slice's own."""
        found = slices.image
        for estimate in self.first.stream(slices, corruptor, denoiser):
            found = estimate.value
            yield estimate
        mask = self.doubtful.mask(slices.image, found)
        later = slices.after(1 + len(self.first.pairs))
        x_t = corruptor.corrupt(mask * found + (1 - mask) * slices.image, self.pairs[0][0], later)
        for place, (t, s) in enumerate(self.pairs):
            for turn in range(self.rounds):
                now = later.after(1 + 3 * (place * self.rounds + turn))
                painted = mask * denoiser.estimate(x_t, t, now) + (1 - mask) * slices.image
                if turn == self.rounds - 1:
                    yield Estimate(t, painted)
                known = corruptor.corrupt(slices.image, s, now.after(1))
                x_s = mask * self.step.move(x_t, painted, t, s, now) + (1 - mask) * known
                x_t = x_s if turn == self.rounds - 1 else self._back(x_s, s, t, now.after(2))

    def _back(self, x_s: Tensor, s: float, t: float, slices: Slices) -> Tensor:
        """x_t of x_s: the forward process from s up to t (RePaint, line 9)."""
        schedule = self.step.schedule
        share = schedule.alpha(t) / schedule.alpha(s)
        deviation = math.sqrt(max(0.0, schedule.sigma(t) ** 2 - (share * schedule.sigma(s)) ** 2))
        return share * x_s + deviation * self.step.noise.draw(slices.random, x_s)
