"""Denoisers show the network what it needs and always answer with the clean image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.corruptors import Noised
from inference.denoisers import (
    ClassifierFree,
    ClassifierGuided,
    CleanImage,
    DynamicallyNormalised,
    Outlined,
    PredictedNoise,
    the_image,
)
from inference.schedules import LINEAR
from tests.inference.heads import Knows, shown


def test_clean_image_tells_the_network_the_level_of_each_slice() -> None:
    told: list[Tensor] = []

    def network(image: Tensor, level: Tensor) -> Tensor:
        told.append(level)
        return image

    CleanImage().estimate(torch.zeros(3, 1, 4, 4), 0.75, shown(torch.zeros(3, 1, 4, 4), restorer=network))

    assert torch.equal(told[0], torch.full((3,), 0.75))


def test_a_fixed_level_overrides_the_level_at_hand() -> None:
    told: list[float] = []

    def network(image: Tensor, level: Tensor) -> Tensor:
        told.append(float(level[0]))
        return image

    CleanImage(told=0.25).estimate(torch.zeros(1, 1, 4, 4), 0.75, shown(torch.zeros(1, 1, 4, 4), restorer=network))

    assert told == [0.25]


def test_of_a_network_that_outlines_the_clean_image_is_the_first_channel() -> None:
    def network(image: Tensor, _: Tensor) -> Tensor:
        return torch.cat([image + 1, image + 7], 1)

    slices = shown(torch.zeros(2, 1, 4, 4), restorer=network)

    assert torch.equal(CleanImage().estimate(slices.image, 0.5, slices), torch.ones(2, 1, 4, 4))
    assert torch.equal(Outlined().estimate(slices.image, 0.5, slices)[:, 1:], torch.full((2, 1, 4, 4), 7.0))


def test_a_network_without_an_outline_cannot_be_asked_for_one() -> None:
    slices = shown(torch.zeros(1, 1, 4, 4), restorer=lambda image, _: image)

    with pytest.raises(ValueError, match="answers with 1 channels"):
        Outlined().estimate(slices.image, 0.5, slices)


def test_what_stands_beside_is_shown_in_the_channels_after_the_image() -> None:
    image, mask = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    seen: list[Tensor] = []

    def network(given: Tensor, level: Tensor) -> Tensor:
        seen.append(given)
        return given[:, :1]

    CleanImage(beside=the_image).estimate(mask, 0.5, shown(image, restorer=network))

    assert seen[0].shape == (2, 2, 4, 4)
    assert torch.equal(seen[0][:, :1], mask)
    assert torch.equal(seen[0][:, 1:], image)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_a_network_that_knows_the_noise_gives_back_the_clean_image(level: float) -> None:
    clean = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = Noised().corrupt(clean, level, shown(clean))

    def network(image: Tensor, _: Tensor) -> Tensor:
        return (image - LINEAR.alpha(level) * clean) / LINEAR.sigma(level)

    estimate = PredictedNoise().estimate(noisy, level, shown(clean, noise=network))

    assert torch.allclose(estimate, clean, atol=1e-9)


def by_class(image: Tensor, level: Tensor, label: Tensor) -> Tensor:
    """A network whose answer is the class it is told, everywhere."""
    return label.to(image)[:, None, None, None].expand_as(image)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_classifier_free_guidance_goes_from_the_null_class_through_the_wanted_one(weight: float) -> None:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    guided = ClassifierFree(towards=0, null=2, weight=weight).estimate(x, 0.3, shown(x, noise=by_class))

    noise = 2.0 + weight * (0.0 - 2.0)
    assert torch.allclose(guided, (x - LINEAR.sigma(0.3) * noise) / LINEAR.alpha(0.3), atol=1e-6)


def no_noise(image: Tensor, level: Tensor) -> Tensor:
    """A network that sees no noise."""
    return torch.zeros_like(image)


def dislikes_brightness(image: Tensor, level: Tensor) -> Tensor:
    """A classifier: the sum of the pixels speaks for class 1."""
    total = image.flatten(1).sum(1)
    return torch.stack([torch.zeros_like(total), total], dim=1)


def test_classifier_guidance_climbs_towards_the_class() -> None:
    x = torch.ones(1, 1, 2, 2)
    slices = shown(x, noise=no_noise, classifier=dislikes_brightness)
    plain, guided = PredictedNoise(), ClassifierGuided(PredictedNoise(), towards=0, scale=2.0)

    uphill = guided.gradient(x, 0.4, slices)
    moved = guided.estimate(x, 0.4, slices) - plain.estimate(x, 0.4, slices)

    # log p(0) = -log(1 + exp(sum)), its derivative by each pixel -sigmoid(sum)
    assert torch.allclose(uphill, torch.full_like(x, -float(torch.sigmoid(torch.tensor(4.0)))))
    assert torch.allclose(moved, LINEAR.sigma(0.4) ** 2 / LINEAR.alpha(0.4) * 2.0 * uphill, atol=1e-6)


def test_dynamic_normalisation_brings_an_estimate_into_the_range_of_the_slice() -> None:
    x = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)

    wild = DynamicallyNormalised(Knows(5 * x)).estimate(x, 0.5, shown(x))
    tame = DynamicallyNormalised(Knows(0.5 * x)).estimate(x, 0.5, shown(x))

    assert float(wild.abs().max()) <= float(x.abs().flatten().quantile(0.99)) + 1e-6
    assert torch.allclose(wild[..., 4:-4, :], x[..., 4:-4, :], atol=0.02)
    assert torch.equal(tame, 0.5 * x)
