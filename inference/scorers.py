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

from inference.blends import smoothed
from inference.samplers import Estimate
from inference.slices import Slices


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer makes of one batch; every tensor [batch, 1, row, column]."""

    raw: Tensor
    healthy: Tensor | None
    """None for a method that marks what departs without saying what would be healthy."""
    uncertainty: Tensor | None
    """Standard deviation of the estimates over the stream; None where the stream held one."""


class Scorer(Protocol):
    """Compares slices with a stream of estimates of their healthy selves."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The raw map, the healthy estimate and its uncertainty. ValueError where the stream is empty."""
        ...


Distance = Callable[[Tensor, Tensor, Slices], Tensor]
"""(image, healthy, slices) -> how far apart, signed as image - healthy is; all of one shape."""


class Aggregate(StrEnum):
    """What a stream of maps amounts to."""

    MEAN = "mean"
    LAST = "last"
    GEOMETRIC = "geometric mean of the magnitudes, with the sign of the mean"
    HARMONIC = "harmonic mean of the magnitudes, with the sign of the mean"


LEAST = 1e-3
"""Magnitudes below this count as this much in geometric and harmonic means, so that one zero does not wipe out the rest."""


class Gathered:
    """A stream of maps as one of the aggregates, seen one at a time."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._aggregate, self._signed, self._bent = aggregate, Running(), Running()

    def add(self, value: Tensor) -> None:
        """Take one more map into account; all must have one shape."""
        self._signed.add(value)
        match self._aggregate:
            case Aggregate.GEOMETRIC:
                self._bent.add(value.abs().clamp_min(LEAST).log())
            case Aggregate.HARMONIC:
                self._bent.add(value.abs().clamp_min(LEAST).reciprocal())
            case Aggregate.MEAN | Aggregate.LAST:
                pass

    def value(self) -> Tensor:
        """The aggregate of what was seen. ValueError where nothing was."""
        match self._aggregate:
            case Aggregate.MEAN:
                return self._signed.mean()
            case Aggregate.LAST:
                return self._signed.last()
            case Aggregate.GEOMETRIC:
                return self._bent.mean().exp() * self._signed.mean().sign()
            case Aggregate.HARMONIC:
                return self._bent.mean().reciprocal() * self._signed.mean().sign()


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

    def mean(self) -> Tensor:
        """The mean of what was seen. ValueError where nothing was."""
        self._check()
        return self._mean

    def last(self) -> Tensor:
        """The last that was seen. ValueError where nothing was."""
        self._check()
        return self._last

    def deviation(self) -> Tensor | None:
        """The sample standard deviation (n - 1), None where fewer than two tensors were seen."""
        return None if self.count < 2 else (self._squares / (self.count - 1)).clamp_min(0.0).sqrt()

    def _check(self) -> None:
        if self.count == 0:
            raise ValueError("no estimate came: the sampler has no levels")


def signed_difference(image: Tensor, healthy: Tensor, slices: Slices) -> Tensor:
    """Image less healthy estimate: positive where brighter than healthy."""
    del slices
    return image - healthy


def squared_difference(image: Tensor, healthy: Tensor, slices: Slices) -> Tensor:
    """The square of the difference, with its sign."""
    del slices
    return (image - healthy) * (image - healthy).abs()


def smoothed_difference(image: Tensor, healthy: Tensor, slices: Slices) -> Tensor:
    """The difference under a Gaussian of two pixels: single pixels count for little."""
    del slices
    return smoothed(image - healthy, 2.0)


def structural_difference(image: Tensor, healthy: Tensor, slices: Slices) -> Tensor:
    """1 - SSIM (Wang et al. 2004) over a Gaussian window of deviation 1.5 pixels, with the sign of the difference.

    The constants are those of the paper for a range of 8 standardised units, from no signal to twice the median.
    """
    del slices
    mean_x, mean_y = _local(image), _local(healthy)
    variance_x, variance_y = _local(image**2) - mean_x**2, _local(healthy**2) - mean_y**2
    shared = _local(image * healthy) - mean_x * mean_y
    c1, c2 = (0.01 * 8) ** 2, (0.03 * 8) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    similar = similar / ((mean_x**2 + mean_y**2 + c1) * (variance_x.clamp_min(0) + variance_y.clamp_min(0) + c2))
    return (1 - similar) * (image - healthy).sign()


@dataclass(frozen=True, slots=True)
class Residual:
    """raw = aggregate over the stream of distance(image, healthy), plus intensity_weight * image where it is bright.

    The weight adds what raw intensity alone knows of tissue brighter than the brain's median (0 in standardised
    units); fluid, dark in every brain, gets none. 0 is the pure residual.
    """

    aggregate: Aggregate = Aggregate.MEAN
    intensity_weight: float = 0.0
    distance: Distance = signed_difference
    healthy: Aggregate = Aggregate.MEAN
    """What the healthy estimate is of the estimates: their mean, or for a chain the last."""
    levels: tuple[float, ...] = ()
    """Levels whose maps count; none named: all."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The aggregate of the signed distances, the aggregate estimate, and the spread of the estimates."""
        maps, estimates, spread = Gathered(self.aggregate), Gathered(self.healthy), Running()
        for level, value, reference in stream:
            estimates.add(value)
            if self.levels and level not in self.levels:
                continue
            spread.add(value)
            maps.add(self.distance(slices.image if reference is None else reference, value, slices))
        raw = maps.value() + self.intensity_weight * slices.image.clamp_min(0)
        return Scored(raw, estimates.value(), spread.deviation())


@dataclass(frozen=True, slots=True)
class OutlinedResidual:
    """For estimates of the clean image and, as a second channel, the logit of being part of an anomaly.

    |raw| = residual_weight |image - healthy| + intensity_weight image (where bright) + outline_weight p, p the probability;
    the sign is that of the residual under a Gaussian of two pixels, so that it does not change from pixel to pixel. Weights
    chosen on development patients (`inference/EXPERIMENTS.md`).
    """

    residual_weight: float = 0.5
    intensity_weight: float = 0.25
    outline_weight: float = 1.0

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The weighted sum of the mean residual, the intensity and the mean probability; the mean estimate; its spread."""
        estimates, outlines = Running(), Running()
        for _, value, _ in stream:
            estimates.add(value[:, :1])
            outlines.add(torch.sigmoid(value[:, 1:]))
        healthy = estimates.mean()
        residual = slices.image - healthy
        brighter = smoothed(residual, 2.0) >= 0
        size = self.residual_weight * residual.abs() + self.outline_weight * outlines.mean()
        size = size + self.intensity_weight * slices.image.clamp_min(0) * brighter
        return Scored(torch.where(brighter, size, -size) * slices.brain, healthy, estimates.deviation())


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """How far the image lies from an ensemble of healthy estimates, pixel by pixel (MHD, Behrendt et al., MICCAI 2024).

    raw = (image - mean) / sqrt(variance + floor^2), times 1 - SSIM of image and mean where `structural`.
    """

    floor: float = 0.1
    """Standard deviation, in standardised units, that every pixel has at least (the paper's regularisation)."""
    structural: bool = True

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The distance in deviations, the mean estimate, and the deviation."""
        estimates = Running()
        for _, value, _ in stream:
            estimates.add(value)
        healthy, deviation = estimates.mean(), estimates.deviation()
        spread = torch.zeros_like(healthy) if deviation is None else deviation
        raw = (slices.image - healthy) / (spread**2 + self.floor**2).sqrt()
        if self.structural:
            raw = raw * structural_difference(slices.image, healthy, slices).abs()
        return Scored(raw, healthy, deviation)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rank of each pixel among those of the brain in its slice, 0 to 1, whatever the estimates (histogram equalisation)."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The ranks; equal pixels share the highest. No healthy estimate."""
        del stream
        ranks = torch.zeros_like(slices.image)
        for rank, image, inside in zip(ranks, slices.image, slices.brain > 0.5, strict=True):
            values = image[inside]
            if len(values):
                below = torch.searchsorted(values.sort().values, values, right=True)
                rank[inside] = below.to(rank) / len(values)
        return Scored(ranks, None, None)


@dataclass(frozen=True, slots=True)
class MaskEnsemble:
    """For estimates that are masks, -1 outside and 1 inside: their mean as a share from 0 to 1 (Wolleb et al., MIDL 2022)."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The mean mask, no healthy estimate, and the deviation over the ensemble."""
        masks = Running()
        for _, value, _ in stream:
            masks.add(((value + 1) / 2).clamp(0, 1))
        return Scored(masks.mean() * slices.brain, None, masks.deviation())


@dataclass(frozen=True, slots=True)
class PixelVote:
    """For estimates that are features: an ensemble of pixel classifiers votes (Baranchuk et al. 2021, arXiv 2112.03126).

    The features of all levels are shown together; the classifiers answer with logits [batch, classifier, row, column].
    """

    network: str = "heads"

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The mean probability over the classifiers, no healthy estimate, and the deviation of their opinions."""
        features = torch.cat([value for _, value, _ in stream], dim=1)
        opinions = torch.sigmoid(slices.networks[self.network](features))
        return Scored(opinions.mean(1, keepdim=True), None, opinions.std(1, keepdim=True))


def _local(values: Tensor) -> Tensor:
    """The mean over a Gaussian window of deviation 1.5 pixels, shape kept."""
    return smoothed(values, 1.5)
