"""What is destroyed of an image before the network is asked to restore it, and how much.

A corruptor is a value without state: the same slices, level and random source give the same corrupted image, whatever
the batch. Levels run from 0 (nothing destroyed) to 1; training asks for a level for each slice. An inversion is a
corruptor too: it destroys nothing that the network could not find back (Song et al. 2020, arXiv 2010.02502, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from inference.denoisers import Denoiser
from inference.noise import Coarse, Noise, White
from inference.samplers import Ddim, Pairs
from inference.schedules import LINEAR, Schedule
from inference.slices import Level, Slices, column


class Corruptor(Protocol):
    """Destroys part of a batch of slices to the given level."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x[batch, channel, row, column], which is the slices' image or what stands for it, corrupted; same shape."""
        ...


@dataclass(frozen=True, slots=True)
class Untouched:
    """Destroys nothing: the image itself is taken for a corrupted one (DISYRE, arXiv 2311.15453)."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """The batch as it is, whatever the level."""
        del level, slices
        return x


@dataclass(frozen=True, slots=True)
class Noised:
    """Adds noise along a schedule: alpha x + sigma noise (Ho et al. 2020, eq. 4)."""

    noise: Noise = White()
    schedule: Schedule = LINEAR

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """The noised batch; where the noise is needed too, `noise.draw(slices.random, x)` gives the same again."""
        alpha, sigma = self.schedule.mixing(level, x)
        return alpha * x + sigma * self.noise.draw(slices.random, x)


@dataclass(frozen=True, slots=True)
class NoiseAlone:
    """Nothing of the image is left: where a chain starts that makes something new, such as a mask."""

    noise: Noise = White()

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """Noise of unit variance in the shape of x."""
        del level
        return self.noise.draw(slices.random, x)


@dataclass(frozen=True, slots=True)
class CoarseNoise:
    """Adds smooth blobs inside the brain (Kascenas et al., DAE, MIDL 2022); outside they would teach nothing."""

    cells: int
    """Cells of the coarse grid along each axis of the slice."""
    sigma: float
    """Standard deviation of the noise at level 1, in standardised units."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x plus level * sigma * blobs, inside the brain."""
        blobs = Coarse(self.cells).draw(slices.random, x)
        return x + column(level, x) * self.sigma * blobs * slices.brain


@dataclass(frozen=True, slots=True)
class Inversion:
    """Climbs from the image to the level by the deterministic steps of DDIM, so that the same steps lead back to it.

    The image is taken for one at the first level of the pairs, which lies just above 0.
    """

    denoiser: Denoiser
    pairs: Pairs
    """Rising; the last one ends at the level where the sampler starts."""
    step: Ddim = Ddim()

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x at the end of the climb. ValueError where that is not `level`."""
        if level != self.pairs[-1][1]:
            raise ValueError(f"the inversion ends at {self.pairs[-1][1]}, the sampler starts at {level}")
        for t, s in self.pairs:
            x = self.step.move(x, self.denoiser.estimate(x, t, slices), t, s, slices)
        return x


@dataclass(frozen=True, slots=True)
class InTurn:
    """Several corruptors, each on what the one before it left."""

    of: tuple[Corruptor, ...]

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x after all of them."""
        for corruptor in self.of:
            x = corruptor.corrupt(x, level, slices)
        return x
