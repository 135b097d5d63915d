"""The forward process alone as a method: how far guidance moves the estimate on the way up, and what that says of a slice.

For chains that climb without guidance and yield two estimates at each level, guided first (`denoisers.GuidedAndNot`). Where both
agree at every level the slice is healthy; the level at which they part most is where noise hides the lesion and nothing more.

    M_t = mean over the brain of (guided_t - unguided_t)^2        t_e = argmax M_t

Che et al. 2024, arXiv 2404.15683 (AnoFPDM), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from monai.networks.layers import median_filter
from torch import Tensor

from inference.samplers import Estimate
from inference.scorers import Running, Scored, squared_difference
from inference.slices import Slices


def unguided(x0_hat: Tensor, slices: Slices, level: float) -> Tensor:
    """The blend that lets a chain go by the second of two estimates, the one without guidance."""
    del slices, level
    return x0_hat[:, 1:]


@dataclass(frozen=True, slots=True)
class ForwardResidual:
    """Mean squared residual of the guided estimates up to the level of greatest M_t; what lies below its threshold is 0.

    The map is smoothed by a median first, and the threshold of a slice is a quantile of that map (the authors' code takes it
    before they smooth, which leaves nothing of a map with fine grain): from `fewest` of the brain's pixels marked where M_t
    stays near 0 up to `most` where it reaches `full`. A slice whose two error curves over the levels are `alike` (their cosine)
    has no map. What the numbers must be is known from slices with one label each; no marked pixel is needed.
    """

    full: float
    """M_t, in squared standardised units, of the most conspicuous slices."""
    alike: float = 1.0
    """Cosine of the error curves above which a slice counts as healthy; 1 lets every slice have its map."""
    fewest: float = 0.02
    most: float = 0.10
    median: int = 5
    """Side of the filter, in pixels."""

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The signed map, the guided estimate at the level of greatest M_t, and the spread of the guided estimates."""
        spread, curves = Running(), _Curves()
        best = torch.full((len(slices.image), 1, 1, 1), -1.0).to(slices.image)
        total = raw = healthy = torch.zeros_like(slices.image)
        for count, (_, value, _) in enumerate(stream, start=1):
            guided, plain = value[:, :1], value[:, 1:]
            spread.add(guided)
            total = total + squared_difference(slices.image, guided, slices)
            apart = _mean_square(guided - plain, slices)
            further = apart > best
            best, raw = torch.where(further, apart, best), torch.where(further, total / count, raw)
            healthy = torch.where(further, guided, healthy)
            curves.add(_mean_square(slices.image - guided, slices), _mean_square(slices.image - plain, slices))
        share = self.fewest + (self.most - self.fewest) * (best / self.full).clamp(0, 1)
        smooth = median_filter(raw, kernel_size=(self.median, self.median), spatial_dims=2)
        threshold = _quantiles(smooth.abs(), slices.brain, 1 - share)
        kept = (smooth.abs() >= threshold) & (curves.cosine() <= self.alike)
        return Scored(smooth * kept * slices.brain, healthy, spread.deviation())


class _Curves:
    """The cosine of two curves whose points come one at a time, for each slice."""

    def __init__(self) -> None:
        self._both = self._one = self._other = torch.zeros(())

    def add(self, one: Tensor, other: Tensor) -> None:
        """The next point of each."""
        self._both = self._both.to(one) + one * other
        self._one, self._other = self._one.to(one) + one**2, self._other.to(one) + other**2

    def cosine(self) -> Tensor:
        """1 where the curves have one shape."""
        return (self._both / (self._one * self._other).sqrt().clamp_min(1e-12)).clamp(max=1.0)


def _mean_square(values: Tensor, slices: Slices) -> Tensor:
    """Over the brain of each slice: [batch, 1, 1, 1]."""
    within = slices.brain.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    return (values**2 * slices.brain).sum(dim=(1, 2, 3), keepdim=True) / within


def _quantiles(values: Tensor, brain: Tensor, at: Tensor) -> Tensor:
    """The quantile `at`[batch, 1, 1, 1] of the values inside the brain of each slice; 0 where there is no brain."""
    found = torch.zeros_like(at)
    for place, (one, inside, share) in enumerate(zip(values, brain > 0.5, at, strict=True)):
        if inside.any():
            found[place] = one[inside].quantile(share.reshape(()))
    return found
