"""How a stream of healthy estimates becomes one raw map: a distance from the image, an aggregate of
estimates.

Estimates are taken one at a time (Welford 1962), so that memory does not grow with the number of levels or
draws. The raw map is signed: positive where the image is brighter than the healthy estimate. All in
standardised units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from inference.samplers import Estimate


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer makes of one batch; every tensor [batch, 1, row, column]."""

    raw: Tensor
    healthy: Tensor
    uncertainty: Tensor | None
    """Standard deviation of the healthy estimate over the stream; None where the stream held one estimate."""


class Scorer(Protocol):
    """Compares x[batch, 1, row, column] with a stream of estimates of its healthy self."""

    def score(self, x: Tensor, stream: Iterable[Estimate]) -> Scored:
        """The raw map, the healthy estimate and its uncertainty. ValueError where the stream is empty."""
        ...


Distance = Callable[[Tensor, Tensor], Tensor]
"""(x, healthy) -> how far apart, signed as x - healthy is; all of one shape."""


class Aggregate(StrEnum):
    """What a stream of maps amounts to."""

    MEAN = "mean"
    LAST = "last"


class Running:
    """Mean and deviation of tensors seen one at a time (Welford 1962); keeps three, however many come."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)
        self._squares = torch.empty(0)
        self._last = torch.empty(0)

    def add(self, value: Tensor) -> None:
        """Take one more tensor into account; all must have one shape."""
        self.count += 1
        self._last = value
        if self.count == 1:
            self._mean, self._squares = value.clone(), torch.zeros_like(value)
            return
        delta = value - self._mean
        self._mean += delta / self.count
        self._squares += delta * (value - self._mean)

    def value(self, aggregate: Aggregate) -> Tensor:
        """The mean or the last of what was seen. ValueError where nothing was."""
        if self.count == 0:
            raise ValueError("no estimate came: the sampler has no levels")
        match aggregate:
            case Aggregate.MEAN:
                return self._mean
            case Aggregate.LAST:
                return self._last

    def deviation(self) -> Tensor | None:
        """The sample standard deviation (n - 1), None where fewer than two tensors were seen."""
        return None if self.count < 2 else (self._squares / (self.count - 1)).clamp_min(0.0).sqrt()


def signed_difference(x: Tensor, healthy: Tensor) -> Tensor:
    """Image less healthy estimate: positive where brighter than healthy."""
    return x - healthy


@dataclass(frozen=True, slots=True)
class Residual:
    """raw = aggregate over the stream of distance(image, healthy), plus intensity_weight * image where it is bright.

    The weight adds what raw intensity alone knows of tissue brighter than the brain's median (0 in standardised
    units); fluid, dark in every brain, gets none. 0 is the pure residual.
    """

    aggregate: Aggregate = Aggregate.MEAN
    intensity_weight: float = 0.0
    distance: Distance = signed_difference

    def score(self, x: Tensor, stream: Iterable[Estimate]) -> Scored:
        """The aggregate of the signed distances, the aggregate estimate, and the spread of the estimates."""
        estimates, distances = Running(), Running()
        for _, estimate in stream:
            estimates.add(estimate)
            distances.add(self.distance(x, estimate))
        raw = distances.value(self.aggregate) + self.intensity_weight * x.clamp_min(0)
        return Scored(raw, estimates.value(self.aggregate), estimates.deviation())
