"""What generative networks are trained for where a painted anomaly stands for a sick slice and what lies behind it for health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from inference.bridges import Bridge
from inference.corruptors import Noised
from inference.objectives import (
    Examples,
    LossOfExamples,
    Trained,
    absolute_error,
    levels_between,
    paint,
    painter_of,
    slices_of,
)

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan

_SEVERITY = (0.3, 1.0)


@dataclass(frozen=True, slots=True)
class RestoreFromNoise:
    """The noise in the healthy slice, beside the slice with an anomaly (Baugh et al. 2024, image-conditioned restoration)."""

    corruptor: Noised = Noised()
    network: str = "noise"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error of the noise."""
        painter = painter_of(grid, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            severity = levels_between(_SEVERITY, len(examples.image), generator)
            shown = paint(painter, examples, severity, generator)
            slices = slices_of(networks, examples, generator)
            level = levels_between((0.001, 1.0), len(examples.image), generator).to(examples.image)
            x_t = self.corruptor.corrupt(shown.target, level, slices)
            answer = networks[self.network](torch.cat([x_t, shown.image], dim=1), level).float()
            return functional.mse_loss(answer, self.corruptor.noise.draw(slices.random, shown.target))

        return loss


@dataclass(frozen=True, slots=True)
class CrossBridge:
    """The healthy end of a bridge from its place in between, the other end shown beside it (arXiv 2309.16948, eq. 11, as x0)."""

    bridge: Bridge
    network: str = "restorer"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean absolute error inside the brain, the anomaly weighted five times."""
        painter = painter_of(grid, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            severity = levels_between(_SEVERITY, len(examples.image), generator)
            shown = paint(painter, examples, severity, generator)
            slices = slices_of(networks, examples, generator)
            level = levels_between((0.01, 1.0), len(examples.image), generator).to(examples.image)
            x_t = self.bridge.between(shown.target, shown.image, level, slices)
            answer = networks[self.network](torch.cat([x_t, shown.image], dim=1), level).float()
            return absolute_error(answer, shown.target, examples.brain * (1 + 4 * (shown.amount > 0.1)))

        return loss
