"""How a network is asked: what it is shown beside the slice, and how its answer becomes an estimate of what is clean.

A denoiser is a value that holds no weights; the networks come with the slices, by name. Whatever a network was trained to
predict, a denoiser answers with the estimate of the clean image x0 (or of the mask, or of features of the image), so that
samplers and scorers know only one thing. Guidance wraps a denoiser.

    x_t = alpha_t x0 + sigma_t eps      eps_hat = the network's answer      x0_hat = (x_t - sigma_t eps_hat) / alpha_t
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference.schedules import LINEAR, Schedule
from inference.slices import Level, Slices, repeated, told

Beside = Callable[[Slices], Tensor]
"""What a network is shown beside x_t: [batch, channel, row, column]."""


class Denoiser(Protocol):
    """Asks the networks for the clean image behind x_t[batch, channel, row, column]."""

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """x0_hat, mostly of the shape of x_t."""
        ...


@dataclass(frozen=True, slots=True)
class CleanImage:
    """For a network that answers with the clean image itself, told the severity of the corruption."""

    told: float | None = None
    """The severity that the network is always told; None tells it the level at hand."""
    network: str = "restorer"
    beside: Beside | None = None

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The network's answer as it is; of a network that outlines as well, the image alone."""
        answer = slices.networks[self.network](_shown(x_t, self.beside, slices), told(_default(self.told, level), x_t))
        return answer[:, : x_t.shape[1]]


@dataclass(frozen=True, slots=True)
class Outlined:
    """For a network that answers with the clean image and the outline of what it restored (DRAEM, arXiv 2108.07610)."""

    network: str = "restorer"

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The clean image and the logit of being part of an anomaly: [batch, 2, row, column]."""
        answer = slices.networks[self.network](x_t, told(level, x_t))
        if answer.shape[1] != 2:
            raise ValueError(f"network {self.network} answers with {answer.shape[1]} channels, an outlining one with 2")
        return answer


@dataclass(frozen=True, slots=True)
class PredictedNoise:
    """For a network that answers with the noise: x0 = (x_t - sigma eps) / alpha (Ho et al. 2020, eq. 9)."""

    schedule: Schedule = LINEAR
    network: str = "noise"
    label: int | None = None
    """The class that a class-conditional network is told; None for a network without classes."""
    beside: Beside | None = None

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The clean image that follows from the noise which the network sees."""
        return self.without(self.noise(x_t, level, slices), x_t, level)

    def noise(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """eps_hat, the network's answer."""
        given = [_shown(x_t, self.beside, slices), told(level, x_t)]
        if self.label is not None:
            given.append(torch.full((x_t.shape[0],), self.label, dtype=torch.long, device=x_t.device))
        return slices.networks[self.network](*given)

    def without(self, noise: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """x0_hat where the noise in x_t is `noise`."""
        alpha, sigma = self.schedule.mixing(level, x_t)
        return (x_t - sigma * noise) / alpha


@dataclass(frozen=True, slots=True)
class BrainMedian:
    """Asks no network: the healthy brain is its own median everywhere, 0 in standardised units."""

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """0 wherever there is image, so that the residual is the intensity itself."""
        del level, slices
        return torch.zeros_like(x_t)


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Guidance by two answers of one class-conditional network (Ho and Salimans 2022, arXiv 2207.12598, eq. 6).

    eps = eps_null + weight (eps_class - eps_null); both are asked in one call.
    """

    towards: int
    """The class to move to."""
    null: int
    """The class that stands for none, which training told the network now and then."""
    weight: float
    schedule: Schedule = LINEAR
    network: str = "noise"

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The clean image that follows from the guided noise."""
        _, guided = self.noises(x_t, level, slices)
        return PredictedNoise(self.schedule).without(guided, x_t, level)

    def noises(self, x_t: Tensor, level: Level, slices: Slices) -> tuple[Tensor, Tensor]:
        """The noise without guidance and with it."""
        count = x_t.shape[0]
        labels = torch.tensor([self.null, self.towards], device=x_t.device).repeat_interleave(count)
        answer = slices.networks[self.network](repeated(x_t, 2), repeated(told(level, x_t), 2), labels)
        null, towards = answer[:count], answer[count:]
        return null, null + self.weight * (towards - null)


@dataclass(frozen=True, slots=True)
class GuidedAndNot:
    """Two estimates at once, so that the one can be judged by the other (AnoFPDM, arXiv 2404.15683)."""

    guidance: ClassifierFree

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The clean image with guidance and, as a second channel, without."""
        plain = PredictedNoise(self.guidance.schedule)
        null, guided = self.guidance.noises(x_t, level, slices)
        return torch.cat([plain.without(noise, x_t, level) for noise in (guided, null)], dim=1)


@dataclass(frozen=True, slots=True)
class ClassifierGuided:
    """Guidance by the gradient of a noise-conditioned classifier (Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2).

    eps = eps_hat - sigma_t * scale * grad_x log p(towards | x_t).
    """

    denoiser: PredictedNoise
    towards: int
    scale: float
    classifier: str = "classifier"

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The clean image that follows from the guided noise."""
        _, sigma = self.denoiser.schedule.mixing(level, x_t)
        uphill = self.gradient(x_t, level, slices)
        return self.denoiser.without(self.denoiser.noise(x_t, level, slices) - sigma * self.scale * uphill, x_t, level)

    def gradient(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """How log p(towards | x_t) rises with x_t."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            logits = slices.networks[self.classifier](x, told(level, x_t))
            likely = functional.log_softmax(logits, dim=1)[:, self.towards].sum()
            return torch.autograd.grad(likely, x)[0]


@dataclass(frozen=True, slots=True)
class Bounded:
    """Keeps an estimate within fixed bounds, such as those of a mask (Ho et al. 2020, section 3.3).

    At high levels a small error of the noise is a large one of the estimate, and a solver of second order would carry it on.
    """

    denoiser: Denoiser
    low: float = -1.0
    high: float = 1.0

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The wrapped denoiser's estimate, cut off at the bounds."""
        return self.denoiser.estimate(x_t, level, slices).clamp(self.low, self.high)


@dataclass(frozen=True, slots=True)
class DynamicallyNormalised:
    """Keeps an estimate within the range of images (Saharia et al. 2022, arXiv 2205.11487, section 2.3; Diff-SCM).

    Where the quantile of |x0_hat| exceeds that of the slice itself, it is cut off there and scaled back. The papers take 1,
    the bound of their images, for the slice's own; standardised images have no bound.
    """

    denoiser: Denoiser
    quantile: float = 0.99

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """The wrapped denoiser's estimate within the slice's own range."""
        x0_hat = self.denoiser.estimate(x_t, level, slices)
        own, found = (_quantile(one, self.quantile) for one in (slices.image, x0_hat))
        limit = torch.maximum(own, found)
        return torch.minimum(torch.maximum(x0_hat, -limit), limit) * (own / limit)


@dataclass(frozen=True, slots=True)
class Features:
    """What the decoder of a diffusion U-Net makes of a slice on its way (Baranchuk et al. 2021, arXiv 2112.03126).

    For networks of `inference.networks.Unet`: the outputs of some of its up-blocks, enlarged to the slice.
    """

    blocks: tuple[int, ...]
    """Numbers of the up-blocks, 0 the coarsest."""
    network: str = "noise"

    def estimate(self, x_t: Tensor, level: Level, slices: Slices) -> Tensor:
        """Features [batch, channel, row, column] instead of an image."""
        network = slices.networks[self.network]
        found: dict[int, Tensor] = {}

        def keep(number: int) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: torch.nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
                del module, given
                found[number] = answer

            return hook

        blocks = network.unet.up_blocks  # type: ignore[attr-defined]  # a module of MONAI's
        handles = [blocks[number].register_forward_hook(keep(number)) for number in self.blocks]
        try:
            network(x_t, told(level, x_t))
        finally:
            for handle in handles:
                handle.remove()
        enlarged = [
            functional.interpolate(found[number], size=x_t.shape[2:], mode="bilinear", align_corners=False)
            for number in self.blocks
        ]
        return torch.cat(enlarged, dim=1)


def the_image(slices: Slices) -> Tensor:
    """The slice itself beside what is being made: conditioning on the image."""
    return slices.image


def _shown(x_t: Tensor, beside: Beside | None, slices: Slices) -> Tensor:
    return x_t if beside is None else torch.cat([x_t, beside(slices)], dim=1)


def _default(fixed: float | None, level: Level) -> Level:
    return level if fixed is None else fixed


def _quantile(values: Tensor, quantile: float) -> Tensor:
    """The quantile of |values| of each slice: [batch, 1, 1, 1]."""
    return values.abs().flatten(1).quantile(quantile, dim=1)[:, None, None, None]
