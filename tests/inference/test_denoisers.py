"""Denoisers show the network what it needs and always answer with the clean image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.corruptors import LINEAR, GaussianNoise, SliceRandom
from inference.denoisers import CleanImage, PredictedNoise, bind


def test_clean_image_tells_the_network_the_level_of_each_slice() -> None:
    told: list[Tensor] = []

    def network(image: Tensor, level: Tensor) -> Tensor:
        told.append(level)
        return image

    CleanImage().estimate(network, torch.zeros(3, 1, 4, 4), 0.75, None)

    assert torch.equal(told[0], torch.full((3,), 0.75))


def test_a_fixed_level_overrides_the_level_at_hand() -> None:
    told: list[float] = []

    def network(image: Tensor, level: Tensor) -> Tensor:
        told.append(float(level[0]))
        return image

    CleanImage(told=0.25).estimate(network, torch.zeros(1, 1, 4, 4), 0.75, None)

    assert told == [0.25]


def test_the_condition_is_shown_in_the_channels_after_the_image() -> None:
    image, beside = torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 4, 4)
    seen: list[Tensor] = []

    def network(shown: Tensor, level: Tensor) -> Tensor:
        seen.append(shown)
        return shown[:, :1]

    bind(CleanImage(), network, beside)(image, 0.5)

    assert seen[0].shape == (2, 4, 4, 4)
    assert torch.equal(seen[0][:, :1], image)
    assert torch.equal(seen[0][:, 1:], beside)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_a_network_that_knows_the_noise_gives_back_the_clean_image(level: float) -> None:
    clean = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = GaussianNoise().corrupt(clean, level, SliceRandom(0, (0, 1)))

    def network(image: Tensor, _: Tensor) -> Tensor:
        return (image - LINEAR.alpha(level) * clean) / LINEAR.sigma(level)

    estimate = PredictedNoise().estimate(network, noisy, level, None)

    assert torch.allclose(estimate, clean, atol=1e-9)
