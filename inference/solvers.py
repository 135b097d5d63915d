"""Samplers of higher order: a step goes by more than the estimate at hand.

DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) takes the first-order step, which is that of DDIM, with an
estimate carried forward along the line through the last two. Levels are explicit pairs; lambda is half the log signal-to-noise.

    lambda = log(alpha / sigma)     h_i = lambda_i - lambda_{i-1}     r = h_{i-1} / h_i
    D_i = (1 + 1 / 2r) x0_i - (1 / 2r) x0_{i-1}                       x_s = Ddim(x_t, D_i)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.samplers import Ddim, Estimate, Pairs, pairs_through
from inference.schedules import LINEAR, Schedule
from inference.slices import Slices


@dataclass(frozen=True, slots=True)
class DpmSolver:
    """DPM-Solver++ 2M over falling pairs; first order for the first step and for the last, which ends without noise."""

    pairs: Pairs
    schedule: Schedule = LINEAR

    def __post_init__(self) -> None:
        if not self.pairs or any(s >= t for t, s in self.pairs) or any(a[1] != b[0] for a, b in pairwise(self.pairs)):
            raise ValueError(f"the pairs of a solver must fall and lead from one to the next, got {self.pairs}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The level that each step leaves."""
        return tuple(t for t, _ in self.pairs)

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate per pair; the last is the end of the chain."""
        x_t = corruptor.corrupt(slices.image, self.pairs[0][0], slices)
        before: tuple[float, Tensor] | None = None
        for place, (t, s) in enumerate(self.pairs):
            x0_hat = denoiser.estimate(x_t, t, slices)
            yield Estimate(t, x0_hat)
            x_t = Ddim(self.schedule).move(x_t, self.carried(x0_hat, before, t, s), t, s, slices.after(1 + place))
            before = t, x0_hat

    def carried(self, x0_hat: Tensor, before: tuple[float, Tensor] | None, t: float, s: float) -> Tensor:
        """The estimate for the whole step from t to s, by the estimate at t and the one before it."""
        if before is None or s == 0.0:
            return x0_hat
        level, x0_before = before
        half = 0.5 * (self.log_ratio(s) - self.log_ratio(t)) / (self.log_ratio(t) - self.log_ratio(level))
        return x0_hat + half * (x0_hat - x0_before)

    def log_ratio(self, level: float) -> float:
        """lambda: half the logarithm of signal to noise. ValueError at level 0, where there is no noise."""
        if level <= 0.0:
            raise ValueError("level 0 has no noise: its ratio of signal to noise has no logarithm")
        return math.log(self.schedule.alpha(level) / self.schedule.sigma(level))


def even_ratios(first: float, last: float, steps: int, schedule: Schedule = LINEAR) -> Pairs:
    """Falling pairs of `steps` steps, all but the last of equal length in lambda; that last goes from `last` to 0.

    The spacing that DPM-Solver's few steps are made for (Lu et al. 2022, arXiv 2206.00927, section 3.3).
    """
    solver = DpmSolver(((first, 0.0),), schedule)
    top, bottom = solver.log_ratio(first), solver.log_ratio(last)
    inner = [_level_of(top + (bottom - top) * n / (steps - 1), solver) for n in range(1, steps - 1)]
    return pairs_through([first, *inner, last, 0.0])


def _level_of(wanted: float, solver: DpmSolver) -> float:
    """The level of this lambda, to 1e-6, by halving: lambda falls with the level."""
    low, high = 1e-6, 1.0
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if solver.log_ratio(middle) > wanted else (low, middle)
    return round((low + high) / 2, 6)
