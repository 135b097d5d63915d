"""What is destroyed of an image before the network is asked to restore it, and how much.

A corruptor is a value without state: the same image, level and random source give the same corrupted image,
whatever the batch. Levels run from 0 (nothing destroyed) to 1. The noise schedule that Gaussian corruption
and the chains of `inference.samplers` share stands here too (Ho et al. 2020, arXiv 2006.11239, eq. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class SliceRandom:
    """A random source counted per slice, so that neither batch size nor device changes what a slice receives.

    Philox (Salmon et al. 2011) is keyed by the seed and the slice and counted by draw and use: no state is
    kept.
    """

    seed: int
    slices: tuple[int, ...]
    """The number of each slice of the batch within its volume."""
    draw: int = 0
    use: int = 0

    def of_draw(self, draw: int) -> SliceRandom:
        """The source of another, independent draw of the same slices."""
        return replace(self, draw=draw)

    def after(self, uses: int) -> SliceRandom:
        """The source for the next place in the same draw that needs noise."""
        return replace(self, use=self.use + uses)

    def normal(self, height: int, width: int) -> Tensor:
        """Standard normal noise [slice, 1, height, width], float32, on the CPU."""
        fields = [self._generator(number).standard_normal((1, height, width), np.float32) for number in self.slices]
        return torch.from_numpy(np.stack(fields))

    def _generator(self, number: int) -> np.random.Generator:
        key = np.array([self.seed % 2**64, number], dtype=np.uint64)
        counter = np.array([0, 0, self.use, self.draw], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))


class Corruptor(Protocol):
    """Destroys part of a batch of slices x[batch, 1, row, column] to the given level."""

    def corrupt(self, x: Tensor, level: float, random: SliceRandom) -> Tensor:
        """The corrupted batch, same shape, device and dtype as x."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """The variance-preserving schedule x_t = alpha(t) x_0 + sigma(t) eps over levels t in [0, 1].

    alpha^2 = product of (1 - beta_i), i = 1..t*steps, beta rising linearly; alpha(0) = 1. Between two whole
    steps the logarithm is interpolated, so that any t may be asked for. Constants: Ho et al. 2020, section 4.
    """

    steps: int = 1000
    first_beta: float = 1e-4
    last_beta: float = 0.02

    def alpha(self, level: float) -> float:
        """The factor that the clean image has at this level. ValueError outside [0, 1]."""
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"level {level} outside 0 to 1")
        betas = np.linspace(self.first_beta, self.last_beta, self.steps)
        log_alpha = np.concatenate([[0.0], np.cumsum(0.5 * np.log1p(-betas))])
        return math.exp(float(np.interp(level * self.steps, np.arange(self.steps + 1), log_alpha)))

    def sigma(self, level: float) -> float:
        """The standard deviation of the noise at this level."""
        return math.sqrt(max(0.0, 1.0 - self.alpha(level) ** 2))


LINEAR = Schedule()
"""The schedule of Ho et al. 2020: a thousand steps, linear beta."""


@dataclass(frozen=True, slots=True)
class Untouched:
    """Destroys nothing: the image itself is taken for a corrupted one (DISYRE, arXiv 2311.15453)."""

    def corrupt(self, x: Tensor, level: float, random: SliceRandom) -> Tensor:
        """The batch as it is, whatever the level."""
        del level, random
        return x


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Adds white noise along a schedule (Ho et al. 2020, eq. 4)."""

    schedule: Schedule = LINEAR

    def corrupt(self, x: Tensor, level: float, random: SliceRandom) -> Tensor:
        """alpha x + sigma eps at this level."""
        noise = random.normal(x.shape[-2], x.shape[-1]).to(x)
        return self.schedule.alpha(level) * x + self.schedule.sigma(level) * noise


@dataclass(frozen=True, slots=True)
class CoarseNoise:
    """Adds smooth blobs to the foreground: coarse normal noise, enlarged (Kascenas et al., DAE, MIDL 2022).

    Foreground is what differs from the image's own lowest value, which is where the background lies once a
    slice is standardised and masked; blobs outside the head would teach nothing.
    """

    cells: int
    """Cells of the coarse grid along each axis of the slice."""
    sigma: float
    """Standard deviation of the noise at level 1, in standardised units."""

    def corrupt(self, x: Tensor, level: float, random: SliceRandom) -> Tensor:
        """x plus level * sigma * blobs, inside the foreground."""
        coarse = random.normal(self.cells, self.cells).to(x)
        blobs = functional.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
        foreground = x > x.amin(dim=(-2, -1), keepdim=True)
        return x + level * self.sigma * blobs * foreground
