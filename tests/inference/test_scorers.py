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
from inference.scorers import Aggregate, Residual, Running


def stream(values: list[float]) -> Iterator[Estimate]:
    return ((0.5, torch.full((1, 1, 2, 2), value)) for value in values)


def test_the_residual_is_positive_where_the_image_is_brighter() -> None:
    x = torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)

    scored = Residual().score(x, [(0.5, torch.ones_like(x))])

    assert scored.raw.ravel().tolist() == [2.0, -2.0]


def test_the_intensity_weight_adds_the_image_where_it_is_bright() -> None:
    x = torch.tensor([3.0, -1.0]).reshape(1, 1, 1, 2)

    scored = Residual(intensity_weight=0.5).score(x, [(0.5, torch.ones_like(x))])

    assert scored.raw.ravel().tolist() == [3.5, -2.0]


def test_the_distance_is_taken_of_each_estimate_before_they_are_aggregated() -> None:
    def signed_square(x: Tensor, healthy: Tensor) -> Tensor:
        return (x - healthy) * (x - healthy).abs()

    scored = Residual(distance=signed_square).score(torch.zeros(1, 1, 2, 2), stream([1.0, 3.0]))

    # mean of -1 and -9, not the square of the mean difference of 2
    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), -5.0))


def test_one_estimate_has_no_uncertainty() -> None:
    assert Residual().score(torch.zeros(1, 1, 2, 2), stream([1.0])).uncertainty is None


@pytest.mark.parametrize(("aggregate", "healthy"), [(Aggregate.MEAN, 2.0), (Aggregate.LAST, 5.0)], ids=["mean", "last"])
def test_the_aggregate_names_the_healthy_estimate(aggregate: Aggregate, healthy: float) -> None:
    scored = Residual(aggregate).score(torch.zeros(1, 1, 2, 2), stream([0.0, 1.0, 5.0]))

    assert torch.allclose(scored.healthy, torch.full((1, 1, 2, 2), healthy))
    assert torch.allclose(scored.raw, torch.full((1, 1, 2, 2), -healthy))


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match="no levels"):
        Residual().score(torch.zeros(1, 1, 2, 2), stream([]))


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12))
def test_running_mean_and_deviation_equal_numpys(values: list[float]) -> None:
    running = Running()

    for value in values:
        running.add(torch.tensor([value], dtype=torch.float64))
    deviation = running.deviation()

    assert deviation is not None
    assert float(running.value(Aggregate.MEAN)[0]) == pytest.approx(np.mean(values), abs=1e-9)
    assert float(deviation[0]) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_estimates_are_not_kept() -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def estimates() -> Iterator[Estimate]:
        for value in range(20):
            estimate = torch.full((1, 1, 3, 5), float(value))
            seen.append(weakref.ref(estimate))
            yield 0.5, estimate
            del estimate
            alive.append(sum(reference() is not None for reference in seen))

    Residual().score(torch.zeros(1, 1, 3, 5), estimates())

    assert max(alive) == 1
