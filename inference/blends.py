"""What of the input is let back into a healthy estimate while a chain is under way.

Where estimate and image agree, the image itself is as healthy as the estimate and sharper. Blends are values; how much
agreement is enough is a fixed number in standardised units, never a share of the slice's own maximum: a slice without
lesion must not be stretched until it shows one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.slices import Slices


@dataclass(frozen=True, slots=True)
class Harmonised:
    """Lets the image back where it departs little from the estimate, at some levels (THOR, Bercea et al., MICCAI 2024).

    a = closed(smoothed |image - x0_hat| / full), x0_hat <- a x0_hat + (1 - a) image.
    """

    at: tuple[float, ...]
    """Levels at which it is done; at all others the estimate stays."""
    full: float = 3.0
    """Departure, in standardised units, from which on nothing of the image is let back."""
    sigma: float = 2.0
    closing: int = 7
    """Pixels over which gaps in the map are closed; odd."""

    def __call__(self, x0_hat: Tensor, slices: Slices, level: float) -> Tensor:
        """The estimate, blended where `level` is one of those named."""
        if level not in self.at:
            return x0_hat
        share = self.share(x0_hat, slices)
        return share * x0_hat + (1 - share) * slices.image

    def share(self, x0_hat: Tensor, slices: Slices) -> Tensor:
        """How much of the estimate is kept, 0 to 1."""
        departure = smoothed((slices.image - x0_hat).abs(), self.sigma) / self.full
        return closed(departure.clamp(0, 1), self.closing)


@dataclass(frozen=True, slots=True)
class Departed:
    """Where an estimate departs so far from the image that it must be painted anew (AutoDDPM, arXiv 2305.19643)."""

    least: float = 1.0
    """Smoothed departure, in standardised units, from which on a pixel counts."""
    sigma: float = 1.0
    widened: int = 3
    """Pixels of the square by which what counts is widened; odd."""

    def where(self, x0_hat: Tensor, slices: Slices) -> Tensor:
        """True where the estimate departs."""
        far = smoothed((slices.image - x0_hat).abs(), self.sigma) >= self.least
        return functional.max_pool2d(far.to(x0_hat), self.widened, stride=1, padding=self.widened // 2) > 0


def smoothed(values: Tensor, sigma: float) -> Tensor:
    """values[batch, 1, row, column] under a Gaussian of `sigma` pixels, the rim repeated."""
    reach = round(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    window = torch.exp(-(offsets**2) / (2 * sigma**2))
    window = window / window.sum()
    padded = functional.pad(values, (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, window[None, None, :, None]), window[None, None, None, :])


def closed(values: Tensor, size: int) -> Tensor:
    """Grey-scale closing over a square of `size` pixels: dark gaps narrower than it are filled."""
    reach = size // 2
    widened = functional.max_pool2d(values, size, stride=1, padding=reach)
    return -functional.max_pool2d(-widened, size, stride=1, padding=reach)
