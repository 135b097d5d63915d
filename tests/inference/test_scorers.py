"""Scorers keep the sign, and count deviations as numpy does, without keeping the stream."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inference.samplers import Estimate
from inference.scorers import (
    Aggregate,
    Gathered,
    Mahalanobis,
    MaskEnsemble,
    OutlinedResidual,
    PixelVote,
    Residual,
    Running,
    structural_difference,
)
from inference.slices import Slices
from tests.inference.heads import shown


def stream(values: list[float]) -> Iterator[Estimate]:
    return (Estimate(0.5, torch.full((1, 1, 2, 2), value)) for value in values)


def test_the_residual_is_positive_where_the_image_is_brighter() -> None:
    x = torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)

    scored = Residual().score(shown(x), [Estimate(0.5, torch.ones_like(x))])

    assert scored.raw.ravel().tolist() == [2.0, -2.0]


def test_the_intensity_weight_adds_the_image_where_it_is_bright() -> None:
    x = torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)

    scored = Residual(intensity_weight=0.5).score(shown(x), [Estimate(0.5, torch.ones_like(x))])

    assert scored.raw.ravel().tolist() == [3.5, -2.0]


def test_the_distance_is_taken_of_each_estimate_before_they_are_aggregated() -> None:
    def signed_square(x: Tensor, healthy: Tensor, slices: Slices) -> Tensor:
        return (x - healthy) * (x - healthy).abs()

    scored = Residual(distance=signed_square).score(shown(torch.zeros(1, 1, 2, 2)), stream([1.0, 3.0]))

    # mean of -1 and -9, not the square of the mean difference of 2
    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), -5.0))


def test_an_outline_adds_to_the_residual_and_keeps_its_sign() -> None:
    image = torch.full((1, 1, 32, 32), 2.0)
    image[..., 16:] = -2.0
    answer = torch.zeros(1, 2, 32, 32)  # healthy is 0 everywhere; a logit of 0 is a probability of one half

    scored = OutlinedResidual(residual_weight=0.5, intensity_weight=0.25, outline_weight=4.0).score(
        shown(image), [Estimate(0.5, answer)]
    )

    assert scored.raw[0, 0, 8, 4].item() == pytest.approx(0.5 * 2 + 0.25 * 2 + 4 * 0.5)
    assert scored.raw[0, 0, 8, 28].item() == pytest.approx(-(0.5 * 2 + 4 * 0.5))  # dark pixels get no intensity
    assert scored.healthy is not None
    assert scored.healthy.shape == image.shape


def test_outlines_without_a_residual_count_where_a_residual_without_outline_does_not() -> None:
    image, logits = torch.zeros(1, 1, 32, 32), torch.full((1, 1, 32, 32), -12.0)
    logits[..., 16:] = 12.0

    scored = OutlinedResidual().score(shown(image), [Estimate(0.5, torch.cat([image, logits], 1))])

    assert scored.raw[..., 16:].min() > 0.9 * OutlinedResidual().outline_weight
    assert scored.raw[..., :16].abs().max() < 1e-3


def test_one_estimate_has_no_uncertainty() -> None:
    assert Residual().score(shown(torch.zeros(1, 1, 2, 2)), stream([1.0])).uncertainty is None


@pytest.mark.parametrize(("aggregate", "healthy"), [(Aggregate.MEAN, 2.0), (Aggregate.LAST, 5.0)], ids=["mean", "last"])
def test_the_aggregate_names_the_healthy_estimate(aggregate: Aggregate, healthy: float) -> None:
    scored = Residual(aggregate, healthy=aggregate).score(shown(torch.zeros(1, 1, 2, 2)), stream([0.0, 1.0, 5.0]))

    assert scored.healthy is not None
    assert torch.allclose(scored.healthy, torch.full((1, 1, 2, 2), healthy))
    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), -healthy))


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match="no levels"):
        Residual().score(shown(torch.zeros(1, 1, 2, 2)), stream([]))


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12))
def test_running_mean_and_deviation_equal_numpys(values: list[float]) -> None:
    running = Running()

    for value in values:
        running.add(torch.tensor([value], dtype=torch.float64))
    deviation = running.deviation()

    assert deviation is not None
    assert float(running.mean()[0]) == pytest.approx(np.mean(values), abs=1e-9)
    assert float(deviation[0]) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_estimates_are_not_kept() -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def estimates() -> Iterator[Estimate]:
        for value in range(20):
            estimate = torch.full((1, 1, 3, 5), float(value))
            seen.append(weakref.ref(estimate))
            yield Estimate(0.5, estimate)
            del estimate
            alive.append(sum(reference() is not None for reference in seen))

    Residual().score(shown(torch.zeros(1, 1, 3, 5)), estimates())

    assert max(alive) == 1


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (Aggregate.MEAN, -3.5),
        (Aggregate.LAST, -4.0),
        (Aggregate.GEOMETRIC, -((2 * 4 * 4 * 4) ** 0.25)),
        (Aggregate.HARMONIC, -3.2),
    ],
)
def test_maps_are_gathered_as_their_aggregate_says(aggregate: Aggregate, expected: float) -> None:
    gathered = Gathered(aggregate)

    for value in (-2.0, -4.0, -4.0, -4.0):
        gathered.add(torch.tensor([value]))

    assert float(gathered.value()) == pytest.approx(expected)


def test_a_level_on_which_all_is_well_pulls_the_harmonic_mean_down() -> None:
    stable, fleeting = Gathered(Aggregate.HARMONIC), Gathered(Aggregate.HARMONIC)

    for value in (1.0, 1.0, 1.0):
        stable.add(torch.tensor([value]))
    for value in (1.45, 1.45, 0.1):  # the same arithmetic mean
        fleeting.add(torch.tensor([value]))

    assert float(fleeting.value()) < 0.3 * float(stable.value())


def test_only_the_named_levels_count() -> None:
    maps = [Estimate(level, torch.full((1, 1, 2, 2), level)) for level in (0.9, 0.5, 0.1)]

    scored = Residual(levels=(0.5, 0.1), healthy=Aggregate.LAST).score(shown(torch.zeros(1, 1, 2, 2)), maps)

    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), -0.3))
    assert scored.healthy is not None
    assert torch.allclose(scored.healthy, torch.full((1, 1, 2, 2), 0.1))


def test_a_reference_stands_in_for_the_image() -> None:
    one, two = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)

    scored = Residual().score(shown(torch.zeros(1, 1, 2, 2)), [Estimate(0.5, one, reference=two)])

    assert torch.allclose(scored.raw, one)


def test_an_uncertain_estimate_is_forgiven_a_departure() -> None:
    image = torch.full((1, 1, 16, 16), 3.0)
    sure = [Estimate(0.5, torch.full((1, 1, 16, 16), value)) for value in (0.9, 1.1)]
    unsure = [Estimate(0.5, torch.full((1, 1, 16, 16), value)) for value in (-1.0, 3.0)]

    near, far = (Mahalanobis(structural=False).score(shown(image), one).raw.mean() for one in (unsure, sure))

    assert float(far) == pytest.approx(2.0 / (0.02 + 0.01) ** 0.5, rel=1e-4)
    assert float(near) < 0.1 * float(far)


def test_equal_images_have_no_structural_difference_and_unlike_ones_have() -> None:
    image, other = (torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))

    assert torch.allclose(structural_difference(image, image, shown(image)), torch.zeros_like(image))
    assert float(structural_difference(image, other, shown(image)).abs().mean()) > 0.7


def test_masks_are_averaged_and_their_spread_is_kept() -> None:
    masks = [Estimate(0.0, torch.full((1, 1, 2, 2), value)) for value in (-1.0, 1.0, 1.0, 1.0)]

    scored = MaskEnsemble().score(shown(torch.zeros(1, 1, 2, 2)), masks)

    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), 0.75))
    assert scored.healthy is None
    assert scored.uncertainty is not None
    assert torch.allclose(scored.uncertainty, torch.full((1, 1, 2, 2), 0.5))


def test_pixel_classifiers_vote_over_the_features_of_all_levels() -> None:
    features = [Estimate(level, torch.full((1, 2, 3, 3), level)) for level in (0.25, 0.5)]
    seen: list[Tensor] = []

    def heads(given: Tensor) -> Tensor:
        seen.append(given)
        return torch.cat([torch.full_like(given[:, :1], 50.0), torch.full_like(given[:, :1], -50.0)], dim=1)

    scored = PixelVote().score(shown(torch.zeros(1, 1, 3, 3), heads=heads), features)

    assert seen[0].shape == (1, 4, 3, 3)
    assert torch.allclose(scored.raw, torch.full((1, 1, 3, 3), 0.5))
    assert scored.uncertainty is not None
    assert torch.allclose(scored.uncertainty, torch.full((1, 1, 3, 3), 0.5**0.5))
