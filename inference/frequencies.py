"""The low frequencies of a slice give way to those of healthy brains before any method sees it.

A lesion of some size is a matter of low frequencies; a network that restores details over a healthy context has less to undo.
FDP, arXiv 2511.12899: a plug-in in front of any corruptor, which learns its bank of contexts first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.corruptors import Corruptor, Untouched
from inference.objectives import Examples, LossOfExamples, Trained
from inference.slices import Level, Slices

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan


NOTHING_MORE = Untouched()


@dataclass(frozen=True, slots=True)
class HealthyContext:
    """In front of any corruptor: a slice's low frequencies give way to healthy ones (arXiv 2511.12899)."""

    then: Corruptor = NOTHING_MORE
    radius: float = 0.1
    """Of the disc of frequencies, in cycles per pixel."""
    network: str = "contexts"

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """What the wrapped corruptor makes of the slice with a healthy context; outside the brain it is as it was."""
        low = self.low(x)
        bank = slices.networks[self.network]
        healthy = self.low(
            functional.interpolate(bank(self.coarse(low, bank)), x.shape[2:], mode="bilinear", align_corners=False)
        )
        return self.then.corrupt(torch.where(slices.brain > 0.5, x - low + healthy, x), level, slices)

    def low(self, x: Tensor) -> Tensor:
        """The part of x[batch, 1, row, column] whose frequencies lie within the radius."""
        rows = torch.fft.fftfreq(x.shape[2], device=x.device)[:, None]
        columns = torch.fft.rfftfreq(x.shape[3], device=x.device)[None]
        inside = (rows**2 + columns**2 <= self.radius**2).to(x)
        return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * inside, s=x.shape[2:], norm="ortho")

    @staticmethod
    def coarse(low: Tensor, bank: object) -> Tensor:
        """Low frequencies on the grid of the bank."""
        shape: tuple[int, int] = bank.shape  # type: ignore[attr-defined]  # a ContextBank
        return functional.adaptive_avg_pool2d(low, shape)


@dataclass(frozen=True, slots=True)
class LearnContexts:
    """The low frequencies of healthy slices as mixtures of the bank's entries: the mean square error on the bank's grid."""

    front: HealthyContext

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        del generator
        bank = networks[self.front.network]
        own = self.front.coarse(self.front.low(examples.image), bank)
        return functional.mse_loss(bank(own).float(), own)
