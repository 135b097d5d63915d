"""What stands in front of a whole method: the slice is changed before anything else of the method sees it.

The scorer still compares with the slice as it came. So any recipe can be had behind any front, and what the front took away of
a lesion counts as found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.contexts import ContextBank
from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.objectives import Examples, LossOfExamples, Trained
from inference.samplers import Estimate, Sampler
from inference.slices import Level, Slices, told

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan


@dataclass(frozen=True, slots=True)
class Recalled:
    """The slice with its low frequencies from a bank of healthy ones (FDP, arXiv 2511.12899; `inference.contexts`)."""

    network: str = "contexts"

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x with recalled low frequencies, whatever the level."""
        return slices.networks[self.network](x, told(level, x))


@dataclass(frozen=True, slots=True)
class InFront:
    """Runs another sampler on the slices as the front leaves them."""

    front: Corruptor
    of: Sampler

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the sampler behind."""
        return self.of.levels

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """The estimates of the sampler behind."""
        changed = self.front.corrupt(slices.image, 0.0, slices)
        yield from self.of.stream(replace(slices, image=changed), corruptor, denoiser)


@dataclass(frozen=True, slots=True)
class RecallContexts:
    """The low frequencies of healthy slices by a bank of contexts, so that the bank learns what healthy ones there are.

    The first slices become its contexts and move from there: a bank that starts at random recalls one mean slice for all.
    """

    network: str = "contexts"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error of the slice with recalled frequencies."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        del generator
        bank = networks[self.network]
        assert isinstance(bank, ContextBank)
        bank.fill(examples.image)
        level = torch.zeros(len(examples.image)).to(examples.image)
        return functional.mse_loss(bank(examples.image, level).float(), examples.image)
