"""Corruptors destroy as much as they say, the same way whatever the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.corruptors import CoarseNoise, Inversion, Noised, Untouched
from inference.samplers import even_pairs
from inference.schedules import LINEAR, Schedule
from inference.slices import SliceRandom
from tests.inference.heads import Knows, shown

LEVELS = st.floats(0.0, 1.0, allow_nan=False)


def test_a_slice_gets_the_same_noise_in_any_batch() -> None:
    together = SliceRandom(7, (3, 4, 5)).normal(8, 6)

    alone = SliceRandom(7, (4,)).normal(8, 6)

    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize(
    "other",
    [
        SliceRandom(8, (4,)),
        SliceRandom(7, (5,)),
        SliceRandom(7, (4,)).of_draw(1),
        SliceRandom(7, (4,)).after(1),
    ],
    ids=["seed", "slice", "draw", "use"],
)
def test_noise_differs_by(other: SliceRandom) -> None:
    assert not torch.allclose(SliceRandom(7, (4,)).normal(16, 16), other.normal(16, 16))


def test_noise_of_neighbouring_draws_is_uncorrelated_and_standard() -> None:
    first = SliceRandom(1, (0,)).normal(256, 256).ravel()
    second = SliceRandom(1, (0,)).of_draw(1).normal(256, 256).ravel()

    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]

    # 65,536 samples: a standard error of 0.004 for each of the three
    assert abs(float(correlation)) < 0.02
    assert abs(float(first.mean())) < 0.02
    assert abs(float(first.std()) - 1.0) < 0.02


@given(LEVELS)
def test_the_schedule_preserves_variance(level: float) -> None:
    assert LINEAR.alpha(level) ** 2 + LINEAR.sigma(level) ** 2 == pytest.approx(1.0)


@given(LEVELS, LEVELS)
def test_the_schedule_only_ever_destroys(one: float, other: float) -> None:
    low, high = sorted((one, other))

    assert LINEAR.alpha(low) >= LINEAR.alpha(high)


def test_the_schedule_meets_the_product_of_its_betas() -> None:
    schedule = Schedule(steps=4, first_beta=0.1, last_beta=0.4)

    # half-way of four steps: (1 - 0.1)(1 - 0.2)
    assert schedule.alpha(0.5) ** 2 == pytest.approx(0.9 * 0.8)
    assert schedule.alpha(0.0) == 1.0


@pytest.mark.parametrize("level", [-0.01, 1.01, float("nan")])
def test_a_level_outside_0_to_1_is_an_error(level: float) -> None:
    with pytest.raises(ValueError, match="outside 0 to 1"):
        LINEAR.alpha(level)


def test_untouched_returns_the_image_itself() -> None:
    x = torch.randn(2, 1, 8, 8)

    assert Untouched().corrupt(x, 1.0, shown(x)) is x


def test_gaussian_noise_leaves_alpha_of_the_image_and_sigma_of_noise() -> None:
    x = torch.full((1, 1, 200, 200), 3.0)

    noisy = Noised().corrupt(x, 0.4, shown(x))

    assert float(noisy.mean()) == pytest.approx(3.0 * LINEAR.alpha(0.4), abs=0.03)
    assert float(noisy.std()) == pytest.approx(LINEAR.sigma(0.4), rel=0.02)


def test_coarse_noise_is_smooth_and_spares_the_background() -> None:
    x = torch.full((1, 1, 64, 64), -4.0)
    x[..., 16:48, 16:48] = 1.0

    added = CoarseNoise(cells=8, sigma=0.5).corrupt(x, 1.0, shown(x)) - x

    inside = added[..., 16:48, 16:48]
    background = torch.ones_like(x, dtype=torch.bool)
    background[..., 16:48, 16:48] = False
    assert torch.count_nonzero(added[background]) == 0
    assert float(inside.std()) > 0.1
    assert float(inside.diff(dim=-1).abs().max()) < 0.25  # one cell of 8 pixels spans at most a few deviations


@given(LEVELS)
def test_coarse_noise_grows_with_its_level(level: float) -> None:
    x = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    full = CoarseNoise(cells=4, sigma=0.5).corrupt(x, 1.0, shown(x)) - x

    part = CoarseNoise(cells=4, sigma=0.5).corrupt(x, level, shown(x)) - x

    assert torch.allclose(part, level * full, atol=1e-6)


def test_a_level_for_each_slice_corrupts_each_to_its_own() -> None:
    x = torch.randn(2, 1, 12, 10, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([0.2, 0.7])

    together = Noised().corrupt(x, levels, shown(x))

    for number, level in enumerate((0.2, 0.7)):
        assert torch.allclose(together[number], Noised().corrupt(x, level, shown(x))[number], atol=1e-6)


def test_an_inversion_ends_where_it_was_made_to() -> None:
    climb = Inversion(Knows(torch.zeros(1, 1, 4, 4)), even_pairs(0.001, 0.5, 5))
    x = torch.ones(1, 1, 4, 4)

    inverted = climb.corrupt(x, 0.5, shown(x))

    # with x0 = 0 all of x is noise, and grows with sigma
    assert float(inverted.mean()) == pytest.approx(LINEAR.sigma(0.5) / LINEAR.sigma(0.001), rel=1e-5)
    with pytest.raises(ValueError, match=r"ends at 0\.5"):
        climb.corrupt(x, 0.4, shown(x))
