"""Samplers: an oracle that knows the clean image gets it back, and each step leaves what the next is told."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inference.corruptors import Noised, Untouched
from inference.denoisers import BrainMedian
from inference.samplers import Chain, Cold, Ddim, Ensemble, Estimate, OneShot, Step, ddpm, keep_estimate, pairs_through
from inference.schedules import LINEAR
from inference.slices import Slices
from tests.inference.heads import Knows, shown

FALLING = (
    0.9,
    0.556,
    0.444,
    0.1,
    0.03,
    0.0,
)  # uneven on purpose: a stride read off a schedule would be wrong
SLICES = shown(torch.zeros(2, 1, 24, 20), seed=5)


def clean_image() -> Tensor:
    return torch.randn(2, 1, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def watched(chain: Chain, x: Tensor, truth: Tensor) -> tuple[list[Estimate], list[tuple[float, Tensor]]]:
    """Run a chain with an oracle; return its estimates and every (level, slice) that the oracle was shown."""
    oracle = Knows(truth)
    return list(chain.stream(shown(x, seed=5), Noised(), oracle)), oracle.asked


@pytest.mark.parametrize("step", [Ddim(), Ddim(eta=0.5), ddpm(LINEAR)], ids=["ddim", "eta-half", "ddpm"])
def test_an_oracle_recovers_the_clean_image(step: Step) -> None:
    clean = clean_image()

    x_t = Noised().corrupt(clean, FALLING[0], SLICES)
    for place, (t, s) in enumerate(pairs_through(FALLING)):
        x_t = step.move(x_t, clean, t, s, SLICES.after(1 + place))

    assert torch.allclose(x_t, clean, atol=1e-9)


@pytest.mark.parametrize("step", [Ddim(), Ddim(eta=0.5), ddpm(LINEAR)], ids=["ddim", "eta-half", "ddpm"])
def test_each_step_leaves_the_alpha_and_sigma_that_the_next_is_told(step: Step) -> None:
    clean = torch.full((2, 1, 200, 200), 4.0, dtype=torch.float64)

    _, seen = watched(Chain(pairs_through(FALLING), step), clean, clean)

    assert [level for level, _ in seen[::2]] == list(FALLING[:-1])
    for level, image in seen:
        # 40,000 pixels: a standard error of 0.5 % of sigma for the mean, 0.35 % for the deviation
        assert float(image.mean()) == pytest.approx(4.0 * LINEAR.alpha(level), abs=0.025 * LINEAR.sigma(level))
        assert float(image.std()) == pytest.approx(LINEAR.sigma(level), rel=0.018)


def test_a_ddim_step_keeps_the_very_noise_it_found() -> None:
    clean = clean_image()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_t = LINEAR.alpha(0.7) * clean + LINEAR.sigma(0.7) * noise

    x_s = Ddim().move(x_t, clean, 0.7, 0.2, SLICES)

    assert torch.allclose(x_s, LINEAR.alpha(0.2) * clean + LINEAR.sigma(0.2) * noise, atol=1e-9)


@given(st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_a_ddpm_step_meets_the_posterior_of_ho_et_al(t: float, share: float) -> None:
    s = t * share
    alpha_t, alpha_s, sigma_t, sigma_s = LINEAR.alpha(t), LINEAR.alpha(s), LINEAR.sigma(t), LINEAR.sigma(s)
    x_t, clean = (
        torch.ones(1, 1, 2, 2, dtype=torch.float64),
        torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64),
    )
    one = shown(x_t, seed=5)

    moved = ddpm(LINEAR).move(x_t, clean, t, s, one)

    # eq. 6 and 7 of arXiv 2006.11239, the transition from s to t in place of one step
    ratio = alpha_t / alpha_s
    beta = 1.0 - ratio**2
    mean = (alpha_s * beta * clean + ratio * sigma_s**2 * x_t) / sigma_t**2
    deviation = sigma_s / sigma_t * beta**0.5
    expected = mean + deviation * one.random.normal(2, 2).to(torch.float64)
    # float rounding of the betas' logarithms is all that may differ
    assert torch.allclose(moved, expected, atol=1e-6)


def test_inversion_and_decoding_return_the_image() -> None:
    # pixels from N(0, 1): the best denoiser is the posterior mean alpha x_t, smooth in t as a trained one
    x = clean_image()
    # on it a step multiplies by the cosine of its angle: N steps over 0.33 lose 0.33^2 / N, here 1e-4
    up = [0.1 * (k / 1000) ** 2 for k in range(1, 1001)]

    def posterior_mean(x_t: Tensor, level: float) -> Tensor:
        return LINEAR.alpha(level) * x_t

    x_t = x
    for t, s in itertools.chain(pairs_through(up), pairs_through(up[::-1])):
        x_t = Ddim().move(x_t, posterior_mean(x_t, t), t, s, SLICES)

    assert float((x_t - x).abs().max()) < 1e-3


def test_a_step_from_level_0_is_an_error() -> None:
    image = clean_image()

    with pytest.raises(ValueError, match="level 0"):
        Ddim().move(image, image, 0.0, 0.5, SLICES)


def test_a_rising_step_that_draws_is_an_error() -> None:
    image = clean_image()

    with pytest.raises(ValueError, match="must be deterministic"):
        ddpm(LINEAR).move(image, image, 0.2, 0.5, SLICES)


@given(st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_a_cold_step_leaves_the_announced_share_of_the_departure(t: float, s: float) -> None:
    clean = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    departure = torch.full((1, 1, 2, 2), 2.0, dtype=torch.float64)

    x_s = Cold().move(clean + t * departure, clean, t, s, SLICES)

    assert torch.allclose(x_s, clean + s * departure, atol=1e-9)


def test_a_cold_chain_with_an_oracle_ends_at_the_clean_image() -> None:
    clean = clean_image()
    anomaly = clean + 1.5
    chain = Chain(pairs_through((1.0, 0.75, 0.5, 0.25, 0.0)), Cold())
    oracle = Knows(clean)

    estimates = list(chain.stream(shown(anomaly), Untouched(), oracle))

    assert torch.equal(estimates[-1].value, clean)
    left = [float((image - clean[number % 2]).mean()) for number, (_, image) in enumerate(oracle.asked)]
    assert left[::2] == pytest.approx([1.5, 1.125, 0.75, 0.375])


def test_a_cold_step_from_severity_0_is_an_error() -> None:
    image = clean_image()

    with pytest.raises(ValueError, match="severity 0"):
        Cold().move(image, image, 0.0, 0.0, SLICES)


def test_the_blend_decides_what_the_next_step_sees_and_the_scorer_sees_what_was_answered() -> None:
    x = clean_image()
    keep_left = torch.zeros_like(x)
    keep_left[..., :10] = 1.0

    def blend(x0_hat: Tensor, slices: Slices, level: float) -> Tensor:
        return keep_left * slices.image + (1 - keep_left) * x0_hat

    chain = Chain(pairs_through((1.0, 0.5, 0.0)), Cold(), blend)
    nothing = Knows(torch.zeros_like(x))

    estimates = list(chain.stream(shown(x), Untouched(), nothing))

    assert all(not estimate.value.any() for estimate in estimates)
    _, second = nothing.asked[2]
    assert torch.equal(second[..., :10], x[0, ..., :10])  # the input, let back in
    assert torch.allclose(second[..., 10:], x[0, ..., 10:] / 2)  # half of the departure is left


def test_keep_estimate_lets_nothing_of_the_input_back_in() -> None:
    estimate = clean_image()

    assert keep_estimate(estimate, SLICES, 0.5) is estimate


def test_one_shot_asks_once_per_level_and_draw_with_fresh_noise() -> None:
    sampler = OneShot(at=(0.25, 0.75), draws=3)
    mirror = Knows()

    estimates = list(sampler.stream(shown(clean_image()), Noised(), mirror))

    assert tuple(one.level for one in estimates) == sampler.levels == (0.25, 0.75) * 3
    assert not any(torch.allclose(a.value, b.value) for a, b in itertools.combinations(estimates, 2))


@pytest.mark.parametrize("most", [1, 4, 32])
def test_how_many_go_to_the_network_at_once_changes_nothing(most: int) -> None:
    x = clean_image()
    sampler = OneShot(at=(0.25, 0.75), draws=3)
    alone = [Noised().corrupt(x, level, shown(x).of_draw(d).after(k)) for d in range(3) for k, level in enumerate(sampler.at)]

    estimates = list(sampler.stream(shown(x, most=most), Noised(), Knows()))

    assert all(torch.equal(one.value, expected) for one, expected in zip(estimates, alone, strict=True))


@pytest.mark.parametrize("most", [2, 6])
def test_an_ensemble_yields_the_end_of_each_run_and_its_runs_differ(most: int) -> None:
    x = clean_image()
    chain = Chain(pairs_through((0.6, 0.3, 0.1)), ddpm())

    ends = list(Ensemble(chain, draws=3).stream(shown(x, most=most), Noised(), BrainMedian()))
    mirrors = [one.value for one in Ensemble(chain, draws=3).stream(shown(x, most=most), Noised(), Knows())]

    assert len(ends) == 3
    assert {one.level for one in ends} == {0.3}
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(mirrors, 2))


def test_the_runs_of_an_ensemble_do_not_depend_on_how_many_run_at_once() -> None:
    x = clean_image()
    ensemble = Ensemble(Chain(pairs_through((0.6, 0.3, 0.1)), ddpm()), draws=3)

    few, many = ([one.value for one in ensemble.stream(shown(x, most=most), Noised(), Knows())] for most in (2, 6))

    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize("pairs", [(), ((0.9, 0.5), (0.4, 0.0))], ids=["none", "a gap between 0.5 and 0.4"])
def test_pairs_that_do_not_join_are_an_error(pairs: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="must lead from one to the next"):
        Chain(pairs, Cold())


def test_one_level_is_no_chain() -> None:
    with pytest.raises(ValueError, match="at least two levels"):
        pairs_through((0.5,))
