"""Bernoulli diffusion: flips as announced, posteriors by Bayes' rule, and chains that find a mask again."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from inference.bernoulli import BernoulliStep, Flipped, PredictedFlips, TossUp, keep, posterior, tossed, unflipped
from inference.samplers import Chain, pairs_through
from inference.schedules import LINEAR
from tests.inference.heads import Knows, shown

FALLING = (0.9, 0.5, 0.3, 0.1, 0.02, 0.0)  # uneven on purpose


def mask(size: int = 200) -> Tensor:
    """-1 outside and 1 inside a square of a quarter of the slice."""
    x = -torch.ones(2, 1, size, size)
    x[..., : size // 2, : size // 2] = 1
    return x


@pytest.mark.parametrize("level", [0.05, 0.3, 0.6])
def test_at_each_level_the_announced_share_of_the_mean_is_left(level: float) -> None:
    clean = torch.ones(2, 1, 200, 200)

    flipped = Flipped().corrupt(clean, level, shown(clean, seed=1))

    assert torch.equal(flipped.abs(), torch.ones_like(flipped))
    # 80,000 tosses: a standard error of at most 0.0036
    assert float(flipped.mean()) == pytest.approx(LINEAR.alpha(level) ** 2, abs=0.015)


def test_a_level_for_each_slice_flips_each_by_its_own() -> None:
    clean = torch.ones(2, 1, 200, 200)

    flipped = Flipped().corrupt(clean, torch.tensor([0.02, 0.9]), shown(clean, seed=1))

    assert float(flipped[0].mean()) > 0.95
    assert abs(float(flipped[1].mean())) < 0.02


def test_nothing_is_left_of_what_is_tossed_up() -> None:
    assert abs(float(TossUp().corrupt(mask(), 0.9, shown(mask())).mean())) < 0.015


@pytest.mark.parametrize(("x_t", "x0"), list(itertools.product((-1.0, 1.0), repeat=2)))
@pytest.mark.parametrize(("t", "s"), [(0.5, 0.2), (0.3, 0.29)])
def test_the_posterior_is_that_of_bayes_rule(x_t: float, x0: float, t: float, s: float) -> None:
    keep_t, keep_s = LINEAR.alpha(t) ** 2, LINEAR.alpha(s) ** 2

    mean = posterior(torch.tensor(x_t), torch.tensor(x0), keep_t, keep_s)

    joint = {x_s: (1 + keep_t / keep_s * x_t * x_s) / 2 * (1 + keep_s * x_s * x0) / 2 for x_s in (-1.0, 1.0)}
    expected = (joint[1.0] - joint[-1.0]) / (joint[1.0] + joint[-1.0])
    assert float(mean) == pytest.approx(expected, abs=1e-5)


def test_an_oracle_recovers_the_mask_and_each_step_leaves_what_the_next_is_told() -> None:
    clean = mask()
    oracle = Knows(clean)
    chain = Chain(pairs_through(FALLING), BernoulliStep())

    ends = list(chain.stream(shown(clean, seed=4), Flipped(), oracle))

    assert torch.equal(ends[-1].value, clean)
    for level, x_t in oracle.asked:
        # of 40,000 values, by their truth: half of what is lost of the mean is flipped
        assert float((x_t * clean[0]).mean()) == pytest.approx(LINEAR.alpha(level) ** 2, abs=0.02)


def test_at_the_end_of_a_chain_stands_the_estimate() -> None:
    clean = mask(40)
    noisy = Flipped().corrupt(clean, 0.4, shown(clean))

    assert torch.equal(BernoulliStep().move(noisy, clean, 0.4, 0.0, shown(clean)), clean)


def test_a_rising_toss_is_an_error() -> None:
    with pytest.raises(ValueError, match="lower level only"):
        BernoulliStep().move(mask(4), mask(4), 0.2, 0.5, shown(mask(4)))


def test_a_network_that_knows_the_flips_gives_back_the_mask() -> None:
    clean = mask(40)
    noisy = Flipped().corrupt(clean, 0.5, shown(clean))

    def network(given: Tensor, level: Tensor) -> Tensor:
        return 60.0 * (given != clean).to(given) - 30.0

    assert torch.allclose(PredictedFlips().estimate(noisy, 0.5, shown(clean, flips=network)), clean)
    assert torch.equal(unflipped(noisy, torch.zeros_like(noisy)), torch.zeros_like(noisy))


def test_tosses_depend_on_the_slice_and_the_draw_alone() -> None:
    mean = torch.zeros(3, 1, 16, 16)
    slices = shown(mean, seed=7)

    assert torch.equal(tossed(mean, slices), tossed(mean, slices))
    assert not torch.equal(tossed(mean, slices), tossed(mean, slices.of_draw(1)))
    assert not torch.equal(tossed(mean, slices), tossed(mean, slices.after(1)))


def test_what_is_kept_falls_from_all_to_next_to_nothing() -> None:
    kept = [keep(LINEAR, level, mask(4)) for level in (0.0, 0.25, 0.5, 1.0)]

    assert kept[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(kept))
    assert float(kept[-1]) < 1e-3
