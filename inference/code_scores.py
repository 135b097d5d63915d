"""Scorers for estimates that show the code of a slice: enlarged to the slice, alone or beside the decoded slice.

Codes are standardised, hence their numbers are in deviations of the healthy codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from inference.blends import smoothed
from inference.samplers import Estimate
from inference.scorers import Running, Scored
from inference.slices import Slices


@dataclass(frozen=True, slots=True)
class ImageAndCode:
    """For a decoded slice as the first channel and its code as the others (`codecs.BothShown`), as in REFLECT.

    |raw| = image_weight |D(z_hat) - D(z)| + code_weight mean over channels |z_hat - z|, each under a Gaussian, the first cut off
    at `most`; the sign is that of the smoothed difference of the slices.
    """

    image_weight: float = 0.5
    code_weight: float = 0.5
    sigma: float = 1.0
    """Pixels of the slice."""
    most: float = 3.2
    """Standardised units, 0.4 of the range from no signal to twice the brain's median."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The mean of the weighted sums, the mean decoded slice, and its spread. ValueError where there is no reference."""
        maps, estimates = Running(), Running()
        for _, value, reference in stream:
            if reference is None:
                raise ValueError("the estimates show no code to compare with")
            estimates.add(value[:, :1])
            maps.add(self._map(reference - value))
        return Scored(maps.mean() * slices.brain, estimates.mean(), estimates.deviation())

    def _map(self, difference: Tensor) -> Tensor:
        image, code = difference[:, :1], difference[:, 1:].abs().mean(1, keepdim=True)
        size = self.image_weight * smoothed(image.abs().clamp_max(self.most), self.sigma)
        return (size + self.code_weight * smoothed(code, self.sigma)) * (smoothed(image, self.sigma) >= 0).to(image).mul(2).sub(1)


@dataclass(frozen=True, slots=True)
class PriorDeviation:
    """For codes at the end of an inversion: minus the logarithm of their standard normal density, in nats per number.

    raw = |z|^2 / 2 averaged over channels + slice_weight times its mean over the slice's brain; the constant is left out.
    """

    slice_weight: float = 1.0
    sigma: float = 0.0
    """Pixels of the slice of a Gaussian over the map; 0 for none."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The mean over the stream; no healthy estimate; its spread."""
        seen = Running()
        for _, value, _ in stream:
            nats = (value**2).mean(1, keepdim=True) / 2
            seen.add(smoothed(nats, self.sigma) if self.sigma > 0 else nats)
        nats, brain = seen.mean(), slices.brain
        whole = (nats * brain).sum((2, 3), keepdim=True) / brain.sum((2, 3), keepdim=True).clamp_min(1)
        return Scored((nats + self.slice_weight * whole) * brain, None, seen.deviation())
