"""Noise: unit variance, the same for a slice in any batch, and as smooth as it says."""

from __future__ import annotations

import pytest
import torch

from inference.noise import Noise, Pyramid, Simplex, White
from inference.slices import SliceRandom

PLANE = torch.zeros(6, 1, 96, 80)
SOURCE = SliceRandom(4, tuple(range(6)))
KINDS = {"white": White(), "pyramid": Pyramid(), "simplex": Simplex(24.0)}


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS.keys())
def test_noise_has_no_mean_and_unit_variance(noise: Noise) -> None:
    field = noise.draw(SOURCE, PLANE)

    assert field.shape == PLANE.shape
    assert torch.isfinite(field).all()
    assert abs(float(field.mean())) < 0.25  # six planes hold few periods of the coarsest octave
    assert float(field.std()) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("noise", KINDS.values(), ids=KINDS.keys())
def test_a_slice_gets_the_same_noise_in_any_batch_and_another_in_the_next_draw(noise: Noise) -> None:
    together = noise.draw(SOURCE, PLANE)

    alone = noise.draw(SliceRandom(4, (3,)), PLANE[:1])
    again = noise.draw(SliceRandom(4, (3,)).of_draw(1), PLANE[:1])
    later = noise.draw(SliceRandom(4, (3,)).after(1), PLANE[:1])

    assert torch.equal(together[3:4], alone)
    assert not torch.allclose(alone, again)
    assert not torch.allclose(alone, later)


def correlation_at(field: torch.Tensor, pixels: int) -> float:
    here, there = field[..., pixels:].flatten(), field[..., :-pixels].flatten()
    return float(torch.corrcoef(torch.stack([here, there]))[0, 1])


def test_simplex_noise_reaches_as_far_as_its_period() -> None:
    fine, coarse = (Simplex(period, octaves=1).draw(SOURCE, PLANE) for period in (4.0, 32.0))

    assert correlation_at(coarse, 3) > 0.9
    assert abs(correlation_at(fine, 12)) < 0.15
    assert correlation_at(White().draw(SOURCE, PLANE), 1) < 0.05


def test_simplex_noise_has_no_jumps() -> None:
    field = Simplex(32.0, octaves=1).draw(SOURCE, PLANE)

    # a period of 32 pixels: no neighbours differ by more than a few times 2 pi / 32 of the deviation
    assert float(field.diff(dim=-1).abs().max()) < 0.6
    assert float(field.diff(dim=-2).abs().max()) < 0.6


def test_octaves_add_detail_of_the_stated_persistence() -> None:
    one, two = (Simplex(16.0, octaves, persistence=0.5).draw(SOURCE, PLANE) for octaves in (1, 2))

    detail = two * (1 + 0.5**2) ** 0.5 - one

    assert float(detail.std()) == pytest.approx(0.5, abs=0.1)
    assert correlation_at(detail, 3) < correlation_at(one, 3)
