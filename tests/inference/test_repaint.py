"""The second chain paints where the first departed, and nowhere else; levels hold the noise that they are told."""

from __future__ import annotations

import pytest
import torch

from inference.blends import Departed
from inference.corruptors import Noised
from inference.repaint import Repainted
from inference.samplers import Chain, ddpm, even_pairs
from inference.schedules import LINEAR
from tests.inference.heads import Knows, shown

SAMPLER = Repainted(Chain(even_pairs(0.2, 0.0, 4), ddpm()), Departed(), even_pairs(0.06, 0.0, 3), ddpm(), again=3)


def test_what_departs_is_widened_and_a_single_faint_pixel_does_not_count() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 10:16, 10:16] = 3.0
    image[..., 25, 25] = 1.5

    where = Departed(least=1.0, sigma=1.0, widened=3).where(torch.zeros_like(image), shown(image))

    assert where[..., 9:17, 11:15].all()
    assert not where[..., 20:, 20:].any()
    assert int(where.sum()) < 110


def test_an_oracle_paints_the_healthy_slice_and_leaves_the_rest_as_it_was() -> None:
    healthy = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    image = healthy.clone()
    image[:, :, 10:20, 10:20] += 4.0
    oracle = Knows(healthy)

    first, second = SAMPLER.stream(shown(image), Noised(), oracle)

    assert torch.equal(first.value, healthy)
    assert torch.equal(second.value, healthy)
    assert [level for level, _ in oracle.asked[::2]] == pytest.approx(list(SAMPLER.levels))
    assert len(SAMPLER.levels) == 4 + 3 * 3


def test_painted_and_known_parts_hold_the_signal_and_noise_that_the_network_is_told() -> None:
    healthy, image = torch.full((1, 1, 400, 400), 4.0), torch.full((1, 1, 400, 400), 4.0)
    image[..., :200] = 8.0
    oracle = Knows(healthy)

    list(SAMPLER.stream(shown(image), Noised(), oracle))

    for level, seen in oracle.asked[4:]:
        for part, value in ((seen[..., :190], 4.0), (seen[..., 210:], 4.0)):
            assert float(part.mean()) == pytest.approx(value * LINEAR.alpha(level), abs=0.03 * LINEAR.sigma(level))
            assert float(part.std()) == pytest.approx(LINEAR.sigma(level), rel=0.018)


def test_a_second_chain_that_stops_above_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must end at level 0"):
        Repainted(SAMPLER.first, Departed(), even_pairs(0.1, 0.02, 2), ddpm())
