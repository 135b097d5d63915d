"""A bridge: an oracle crosses it to the healthy slice, with the mean and the noise that each level is told."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.bridges import Bridged, BridgeStep
from inference.samplers import Chain, Cold, pairs_through
from tests.inference.heads import Knows, shown

LEVELS = (1.0, 0.85, 0.5, 0.45, 0.1, 0.0)


def test_an_oracle_crosses_to_the_healthy_slice_and_every_level_holds_what_it_is_told() -> None:
    sick, healthy = torch.full((2, 1, 200, 200), 5.0), torch.full((2, 1, 200, 200), 1.0)
    oracle = Knows(healthy)

    ends = list(Chain(pairs_through(LEVELS), BridgeStep(1.5)).stream(shown(sick), Bridged(1.5), oracle))

    assert torch.equal(oracle.asked[0][1], sick[0])  # the bridge starts at the image itself
    assert torch.equal(ends[-1].value, healthy)
    for level, image in oracle.asked[2:]:
        deviation = 1.5 * (level * (1 - level)) ** 0.5
        # 40,000 pixels: a standard error of 0.5 % of the deviation for the mean, 0.35 % for the deviation
        assert float(image.mean()) == pytest.approx(5 * level + (1 - level), abs=0.025 * deviation)
        assert float(image.std()) == pytest.approx(deviation, rel=0.018)


def test_in_training_a_slice_lies_where_its_level_says_between_health_and_its_image() -> None:
    sick, healthy = torch.full((2, 1, 200, 200), 5.0), torch.full((2, 1, 200, 200), 1.0)

    x_t = Bridged(2.0).corrupt(healthy, torch.tensor([0.2, 0.7]), shown(sick))

    assert x_t.mean((1, 2, 3)).tolist() == pytest.approx([1.8, 3.8], abs=0.025)
    assert x_t.std((1, 2, 3)).tolist() == pytest.approx([0.8, 2 * 0.21**0.5], rel=0.018)


@given(st.floats(0.05, 1.0), st.floats(0.0, 0.99))
def test_without_noise_a_bridge_is_cold_diffusion(t: float, share: float) -> None:
    x_t, x0 = (torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1))

    crossed, cold = (step.move(x_t, x0, t, share * t, shown(x0)) for step in (BridgeStep(0.0), Cold()))

    assert torch.allclose(crossed, cold, atol=1e-9)


@pytest.mark.parametrize("pair", [(0.5, 0.5), (0.5, 0.7), (0.0, 0.0), (1.2, 0.5)])
def test_a_bridge_is_crossed_one_way_only(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="crossed from 1 down to 0"):
        BridgeStep().move(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), *pair, shown(torch.zeros(1, 1, 2, 2)))
