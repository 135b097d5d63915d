"""Solvers: an oracle gets its image back, levels are as announced, and the second order is a second order."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from inference.corruptors import Noised
from inference.samplers import Chain, Ddim, Pairs, Sampler, pairs_through
from inference.schedules import LINEAR
from inference.slices import Slices
from inference.solvers import DpmSolver, even_ratios
from tests.inference.heads import Knows, shown

FALLING = (0.9, 0.556, 0.444, 0.1, 0.03, 0.0)  # uneven on purpose


def clean_image() -> Tensor:
    return torch.randn(2, 1, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Spread:
    """The best denoiser of pixels from N(1, 0.25): x0_hat = E[x0 | x_t]; its flow is known in closed form."""

    mean, variance = 1.0, 0.25

    def estimate(self, x_t: Tensor, level: float, slices: Slices) -> Tensor:
        """The posterior mean."""
        alpha, sigma = LINEAR.alpha(level), LINEAR.sigma(level)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def deviation(self, level: float) -> float:
        """Of x_t at a level."""
        return math.sqrt(LINEAR.alpha(level) ** 2 * self.variance + LINEAR.sigma(level) ** 2)


def test_an_oracle_recovers_the_clean_image() -> None:
    clean = clean_image()

    ends = list(DpmSolver(pairs_through(FALLING)).stream(shown(clean, seed=5), Noised(), Knows(clean)))

    assert torch.equal(ends[-1].value, clean)


def test_each_step_leaves_the_alpha_and_sigma_that_the_next_is_told() -> None:
    clean = torch.full((2, 1, 200, 200), 4.0, dtype=torch.float64)
    oracle = Knows(clean)

    list(DpmSolver(pairs_through(FALLING)).stream(shown(clean, seed=5), Noised(), oracle))

    assert [level for level, _ in oracle.asked[::2]] == list(FALLING[:-1])
    for level, image in oracle.asked:
        assert float(image.mean()) == pytest.approx(4.0 * LINEAR.alpha(level), abs=0.025 * LINEAR.sigma(level))
        assert float(image.std()) == pytest.approx(LINEAR.sigma(level), rel=0.018)


def test_a_step_is_that_of_algorithm_2() -> None:
    x, x0_before, x0_hat = (torch.randn(4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(3))
    solver = DpmSolver(pairs_through(FALLING))
    q, t, s = 0.8, 0.5, 0.3
    h_before, h = (solver.log_ratio(b) - solver.log_ratio(a) for a, b in ((q, t), (t, s)))

    moved = Ddim().move(x, solver.carried(x0_hat, (q, x0_before), t, s), t, s, shown(x.reshape(1, 1, 2, 2)))

    r = h_before / h
    estimate = (1 + 1 / (2 * r)) * x0_hat - 1 / (2 * r) * x0_before
    expected = LINEAR.sigma(s) / LINEAR.sigma(t) * x - LINEAR.alpha(s) * (math.exp(-h) - 1) * estimate
    assert torch.allclose(moved, expected, atol=1e-12)


def error(sampler: Sampler, last: float) -> float:
    """How far the end of a chain lies from where the flow leads."""
    start = torch.linspace(-1, 3, 8, dtype=torch.float64).reshape(1, 1, 2, 4)
    truth = Spread()
    oracle = Spread()

    class Given:
        def corrupt(self, x: Tensor, level: float | Tensor, slices: Slices) -> Tensor:
            return x

    end = list(sampler.stream(shown(start), Given(), oracle))[-1]
    level = sampler.levels[0]
    place = (start - LINEAR.alpha(level) * truth.mean) / truth.deviation(level)
    x_last = LINEAR.alpha(last) * truth.mean + truth.deviation(last) * place
    return float((end.value - truth.estimate(x_last, last, shown(start))).abs().max())


def even(steps: int) -> Pairs:
    return even_ratios(0.5, 0.03, steps)


def test_with_twice_the_steps_the_error_falls_to_a_quarter_not_to_a_half() -> None:
    second = [error(DpmSolver(even(steps)), 0.03) for steps in (21, 41, 81)]
    first = [error(Chain(even(steps), Ddim()), 0.03) for steps in (21, 41, 81)]

    assert all(3.2 < a / b < 4.8 for a, b in pairwise(second))
    assert all(1.7 < a / b < 2.3 for a, b in pairwise(first))
    assert second[0] < first[2]  # twenty steps of the second order beat eighty of the first


def test_even_ratios_are_even_and_end_at_0() -> None:
    pairs = even_ratios(0.9, 0.03, 8)
    solver = DpmSolver(pairs)

    lengths = [solver.log_ratio(s) - solver.log_ratio(t) for t, s in pairs[:-1]]

    assert len(pairs) == 8
    assert (pairs[0][0], pairs[-1]) == (0.9, (0.03, 0.0))
    assert all(one == pytest.approx(lengths[0], rel=1e-3) for one in lengths)


@pytest.mark.parametrize("pairs", [(), ((0.9, 0.5), (0.4, 0.0)), ((0.2, 0.5),)], ids=["none", "a gap", "rising"])
def test_pairs_that_do_not_fall_and_join_are_an_error(pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="must fall and lead"):
        DpmSolver(pairs)


def test_there_is_no_ratio_without_noise() -> None:
    with pytest.raises(ValueError, match="no noise"):
        DpmSolver(((0.5, 0.0),)).log_ratio(0.0)
