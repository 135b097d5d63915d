"""What networks are trained for: the loss of one step over a batch of slices.

An objective is a value without state. Everything random comes from the step's generator, so that a training that was
killed goes on with the very same steps. It is asked once per training to `begin`, for what is costly to set up, and
answers with the loss of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.bernoulli import Flipped, keep, posterior, unflipped
from inference.corruptors import Corruptor, Noised
from inference.denoisers import Beside, Features, the_image
from inference.phantom.lesions import AnomalyPainter, Corruption
from inference.slices import Slices, from_generator

if TYPE_CHECKING:
    from inference.recipes.recipe import GridPlan

_OUTLINE = 0.4  # opacity from which a pixel belongs to an anomaly, about where a reader draws its rim
_VISIBLE = 0.25  # standardised units, a sixteenth of the brain's median: fainter departures teach no outline


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch of training slices; every tensor [batch, 1, row, column]."""

    image: Tensor
    """Standardised; -4 outside the brain."""
    brain: Tensor
    """1 inside the brain."""
    white: Tensor
    """Share of white matter, 0 to 1."""
    lesion: Tensor
    """1 where a lesion is marked, 0 elsewhere and where nothing is known."""

    @property
    def sick(self) -> Tensor:
        """The label of each slice [batch]: 1 where it shows a marked lesion."""
        return self.lesion.flatten(1).amax(1).round().long()

    def to(self, device: torch.device) -> Examples:
        """The same slices on that device."""
        return Examples(self.image.to(device), self.brain.to(device), self.white.to(device), self.lesion.to(device))


Trained = Mapping[str, nn.Module]

LossOfExamples = Callable[[Trained, Examples, torch.Generator], Tensor]
"""(networks, batch, the step's generator) -> the loss, a number to fall."""


class Objective(Protocol):
    """What some networks are trained for."""

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The loss of a step on slices of this grid."""
        ...


class Shown(StrEnum):
    """Which image of an example is noised and found again."""

    IMAGE = "image"
    MASK = "mask, -1 outside a lesion and 1 inside"


@dataclass(frozen=True, slots=True)
class PredictNoise:
    """The noise in a noised image, over all levels alike (Ho et al. 2020, arXiv 2006.11239, eq. 14).

    With `classes`, the network is told whether the slice shows a lesion; in the share `drop` of the slices it is told
    `classes` instead, the null class, so that it can be asked without any.
    """

    corruptor: Noised = Noised()
    network: str = "noise"
    of: Shown = Shown.IMAGE
    beside: Beside | None = None
    classes: int | None = None
    drop: float = 0.2
    levels: tuple[float, float] = (0.001, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean square error of the noise."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = _slices(networks, examples, generator)
        clean = examples.image if self.of is Shown.IMAGE else 2 * examples.lesion - 1
        level = _levels(self.levels, len(clean), generator).to(clean)
        x_t = self.corruptor.corrupt(clean, level, slices)
        given = [x_t if self.beside is None else torch.cat([x_t, self.beside(slices)], dim=1), level]
        if self.classes is not None:
            dropped = torch.rand(len(clean), generator=generator).to(clean) < self.drop
            given.append(torch.where(dropped, self.classes, examples.sick))
        noise = self.corruptor.noise.draw(slices.random, clean)
        return functional.mse_loss(networks[self.network](*given).float(), noise)


@dataclass(frozen=True, slots=True)
class PredictFlips:
    """Which values of a mask or a binary code were flipped, over all levels alike (BerDiff, arXiv 2304.04429, section 2.2).

    The cross-entropy of the flips plus the divergence of the step that they lead to from the true one, a thousandth further down.
    """

    corruptor: Flipped = Flipped()
    network: str = "flips"
    of: Shown = Shown.MASK
    beside: Beside | None = None
    levels: tuple[float, float] = (0.002, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The sum of both."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = _slices(networks, examples, generator)
        clean = examples.image if self.of is Shown.IMAGE else 2 * examples.lesion - 1
        level = _levels(self.levels, len(clean), generator)
        x_t = self.corruptor.corrupt(clean, level, slices)
        shown = x_t if self.beside is None else torch.cat([x_t, self.beside(slices)], dim=1)
        logit = networks[self.network](shown, level.to(clean)).float()
        keep_t, keep_s = (keep(self.corruptor.schedule, one, clean) for one in (level, level - 0.001))
        wanted, had = (posterior(x_t, one, keep_t, keep_s) for one in (clean, unflipped(x_t, logit)))
        flips = functional.binary_cross_entropy_with_logits(logit, (x_t != clean).to(logit))
        return flips + _divergence((1 + wanted) / 2, (1 + had) / 2)


@dataclass(frozen=True, slots=True)
class RestoreImage:
    """The clean image of a corrupted one: the mean absolute error inside the brain, a little outside."""

    corruptor: Corruptor
    network: str = "restorer"
    levels: tuple[float, float] = (1.0, 1.0)
    beside: Beside | None = None

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean absolute error."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        slices = _slices(networks, examples, generator)
        level = _levels(self.levels, len(examples.image), generator).to(examples.image)
        x_t = self.corruptor.corrupt(examples.image, level, slices)
        shown = x_t if self.beside is None else torch.cat([x_t, self.beside(slices)], dim=1)
        return _absolute_error(networks[self.network](shown, level).float(), examples.image, examples.brain)


@dataclass(frozen=True, slots=True)
class RemoveAnomalies:
    """The healthy slice behind one into which an anomaly was painted, severity as the level (DISYRE, arXiv 2311.15453).

    A network with a second channel learns the anomaly's outline as well (DRAEM, arXiv 2108.07610).
    """

    network: str = "restorer"

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean absolute error inside the brain, the anomaly weighted five times."""
        painter = AnomalyPainter((grid.rows, grid.columns), grid.spacing_mm, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            severity = _levels((0.05, 1.0), len(examples.image), generator)
            clean, brain, white = (one.cpu() for one in (examples.image, examples.brain, examples.white))
            painted = painter(clean, brain, white, severity, generator)
            shown = Corruption(*(one.to(examples.image) for one in painted.parts()))
            answer = networks[self.network](shown.image, severity.to(shown.image)).float()
            weight = examples.brain * (1 + 4 * (shown.amount > 0.1))
            restored = _absolute_error(answer[:, :1], shown.target, weight)
            return restored if answer.shape[1] == 1 else restored + outline_loss(answer[:, 1:], shown, examples.brain > 0.5)

        return loss


@dataclass(frozen=True, slots=True)
class RepairPainted:
    """The healthy slice at any level of its way to noise, or to the painted one, which stands beside (Baugh et al. 2024).

    The slices' own image is the painted one; what is corrupted and found again is the healthy slice behind it.
    """

    corruptor: Corruptor
    network: str = "restorer"
    beside: Beside = the_image
    levels: tuple[float, float] = (0.001, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean absolute error inside the brain, the anomaly weighted five times."""
        painter = AnomalyPainter((grid.rows, grid.columns), grid.spacing_mm, seed)

        def loss(networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
            clean, brain, white = (one.cpu() for one in (examples.image, examples.brain, examples.white))
            painted = painter(clean, brain, white, _levels((0.05, 1.0), len(clean), generator), generator)
            shown = Corruption(*(one.to(examples.image) for one in painted.parts()))
            slices = replace(_slices(networks, examples, generator), image=shown.image)
            level = _levels(self.levels, len(clean), generator).to(shown.image)
            x_t = self.corruptor.corrupt(shown.target, level, slices)
            answer = networks[self.network](torch.cat([x_t, self.beside(slices)], dim=1), level).float()
            return _absolute_error(answer, shown.target, examples.brain * (1 + 4 * (shown.amount > 0.1)))

        return loss


@dataclass(frozen=True, slots=True)
class ClassifyNoised:
    """Whether a noised slice shows a lesion, at any level (Dhariwal and Nichol 2021, arXiv 2105.05233, section 4)."""

    corruptor: Corruptor = Noised()
    network: str = "classifier"
    levels: tuple[float, float] = (0.001, 1.0)

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The cross-entropy."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        level = _levels(self.levels, len(examples.image), generator).to(examples.image)
        x_t = self.corruptor.corrupt(examples.image, level, _slices(networks, examples, generator))
        return functional.cross_entropy(networks[self.network](x_t, level).float(), examples.sick)


@dataclass(frozen=True, slots=True)
class ClassifyPixels:
    """Which pixels are lesion, by heads on the features of a frozen network (Baranchuk et al. 2021, arXiv 2112.03126)."""

    features: Features
    levels: tuple[float, ...]
    corruptor: Corruptor = Noised()
    network: str = "heads"
    pixels: int = 2048
    """Drawn from the brain of each batch for each step, half of them lesion where there is any."""

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The cross-entropy of every head on the same pixels."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        features = torch.cat(self.seen(networks, examples, generator), dim=1)
        chosen = balanced_pixels(examples, self.pixels, generator)
        return pixel_loss(networks[self.network], features, examples, chosen)

    def seen(self, networks: Trained, examples: Examples, generator: torch.Generator) -> list[Tensor]:
        """The features of the examples at each level; the network that makes them learns nothing by it."""
        slices = _slices(networks, examples, generator)
        with torch.no_grad():
            return [
                self.features.estimate(self.corruptor.corrupt(examples.image, level, slices.after(place)), level, slices)
                for place, level in enumerate(self.levels)
            ]


@dataclass(frozen=True, slots=True)
class ClassifyPixelsApart:
    """The same by heads that see one level at a time, whichever it is (Rosnati et al. 2023, arXiv 2311.07421)."""

    of: ClassifyPixels

    def begin(self, grid: GridPlan, seed: int) -> LossOfExamples:
        """The mean over the levels of the cross-entropy of every head."""
        del grid, seed
        return self._loss

    def _loss(self, networks: Trained, examples: Examples, generator: torch.Generator) -> Tensor:
        views = self.of.seen(networks, examples, generator)
        chosen = balanced_pixels(examples, self.of.pixels, generator)
        losses = [pixel_loss(networks[self.of.network], view, examples, chosen) for view in views]
        return torch.stack(losses).mean()


def pixel_loss(heads: nn.Module, features: Tensor, examples: Examples, chosen: Tensor) -> Tensor:
    """The cross-entropy of every head on the chosen pixels of features[batch, channel, row, column]."""
    flat = features.movedim(1, -1).flatten(0, 2)[chosen]
    logits = heads(flat.T[None, :, :, None]).float()[0, :, :, 0]
    return functional.binary_cross_entropy_with_logits(logits, examples.lesion.flatten()[chosen].expand_as(logits))


def balanced_pixels(examples: Examples, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` pixels of the brain, half of them lesion where there is any."""
    return _balanced(examples.lesion.flatten() > 0.5, examples.brain.flatten() > 0.5, count, generator)


def outline_loss(evidence: Tensor, shown: Corruption, brain: Tensor) -> Tensor:
    """Cross-entropy plus half the soft Dice loss of evidence[B, 1, H, W] (logits) against the anomalies' outlines.

    An anomaly too faint to be seen in its slice is left out of the account instead of being called healthy.
    """
    inside = (shown.opacity > _OUTLINE).float()
    seen = (shown.image - shown.target).abs().amax((1, 2, 3), keepdim=True) > _VISIBLE
    weight = brain * (1 - inside * (~seen).float())
    cross = functional.binary_cross_entropy_with_logits(evidence, inside, reduction="none")
    likely, truth = torch.sigmoid(evidence) * weight, inside * weight
    overlap = (2 * (likely * truth).sum() + 1) / (likely.sum() + truth.sum() + 1)
    return (cross * weight).sum() / weight.sum() + 0.5 * (1 - overlap)


def _slices(networks: Trained, examples: Examples, generator: torch.Generator) -> Slices:
    return Slices(examples.image, examples.brain, networks, from_generator(generator, len(examples.image)))


def _levels(between: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    low, high = between
    return low + (high - low) * torch.rand(count, generator=generator)


def _divergence(wanted: Tensor, had: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of tosses with these odds."""
    wanted, had = (one.clamp(1e-6, 1 - 1e-6) for one in (wanted, had))
    each = wanted * (wanted / had).log() + (1 - wanted) * ((1 - wanted) / (1 - had)).log()
    return each.mean()


def _absolute_error(estimate: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    weight = weight + 0.02
    return ((estimate - target).abs() * weight).sum() / weight.sum()


def _balanced(lesion: Tensor, brain: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` pixels, half of them lesion where there is any, the others brain without."""
    other = torch.nonzero(brain & ~lesion)[:, 0]
    marked = torch.nonzero(lesion)[:, 0]
    wanted = count // 2 if len(marked) and len(other) else 0
    parts = [
        pool[torch.randint(0, len(pool), (n,), generator=generator).to(pool.device)]
        for pool, n in ((marked, wanted), (other if len(other) else marked, count - wanted))
        if n
    ]
    return torch.cat(parts)
