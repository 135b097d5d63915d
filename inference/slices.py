"""What every part of a method works on: a batch of slices, where their brain is, the networks, and a random source.

Parts (corruptor, denoiser, sampler, scorer) are values without state; all that they may know comes with the slices. So
the same slices give the same result, whatever the batch and the order of calls, in training as at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Network = Callable[..., Tensor]
"""A network of a bundle: (image[batch, channel, row, column], level[batch] in 0 to 1, ...) -> tensor."""

Networks = Mapping[str, Network]
"""The networks of a bundle by the names that its recipes use."""

Level = float | Tensor
"""How much is destroyed, 0 to 1: one number for the whole batch, or a tensor [batch] of one for each slice."""


MOST_DRAWS = 4096
"""Draws that one place in a method may ask for."""


@dataclass(frozen=True, slots=True)
class SliceRandom:
    """A random source counted per slice, so that neither batch size nor device changes what a slice receives.

    Philox (Salmon et al. 2011) is keyed by the seed and the slice and counted by draw and use: no state is
    kept.
    """

    seed: int
    slices: tuple[int, ...]
    """The number of each slice of the batch within its volume."""
    draw: int | tuple[int, ...] = 0
    """Which independent draw: one for the batch, or one for each slice."""
    use: int = 0

    def of_draw(self, draw: int) -> SliceRandom:
        """The source of another, independent draw of the same slices; draws within a draw are others again."""
        return replace(self, draw=tuple(one * MOST_DRAWS + draw for one in self.draws()))

    def after(self, uses: int) -> SliceRandom:
        """The source for the next place in the same draw that needs noise."""
        return replace(self, use=self.use + uses)

    def normal(self, *size: int) -> Tensor:
        """Standard normal noise [slice, 1, *size], float32, on the CPU."""
        return torch.from_numpy(np.stack([one.standard_normal((1, *size), np.float32) for one in self.generators()]))

    def uniform(self, *size: int) -> Tensor:
        """Noise even over [0, 1) [slice, *size], float32, on the CPU."""
        return torch.from_numpy(np.stack([one.random(size, np.float32) for one in self.generators()]))

    def permutations(self, length: int) -> Tensor:
        """A random order of 0..length-1 for each slice: [slice, length], int64, on the CPU."""
        return torch.from_numpy(np.stack([one.permutation(length) for one in self.generators()]))

    def generators(self) -> list[np.random.Generator]:
        """A fresh generator for each slice."""
        return [self._generator(number, draw) for number, draw in zip(self.slices, self.draws(), strict=True)]

    def draws(self) -> tuple[int, ...]:
        """The draw of each slice."""
        return self.draw if isinstance(self.draw, tuple) else (self.draw,) * len(self.slices)

    def _generator(self, number: int, draw: int) -> np.random.Generator:
        key = np.array([self.seed % 2**64, number], dtype=np.uint64)
        counter = np.array([0, 0, self.use, draw], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))


def from_generator(generator: torch.Generator, count: int) -> SliceRandom:
    """The random source of `count` slices of one training step."""
    seed = int(torch.randint(0, 2**62, (1,), generator=generator).item())
    return SliceRandom(seed, tuple(range(count)))


@dataclass(frozen=True, slots=True)
class Slices:
    """A batch of slices and all that a method may use beside them."""

    image: Tensor
    """[batch, 1, row, column] in standardised units: 0 the brain's median, -4 no signal (`inference.preprocess`)."""
    brain: Tensor
    """Same shape and type; 1 inside the brain, else 0."""
    networks: Networks
    random: SliceRandom
    most: int = 32
    """Slices that a network may be shown at once: what bounds memory."""

    def of_draw(self, draw: int) -> Slices:
        """The same slices with the noise of another draw."""
        return replace(self, random=self.random.of_draw(draw))

    def after(self, uses: int) -> Slices:
        """The same slices with the noise of a later use in the same draw."""
        return replace(self, random=self.random.after(uses))

    def of_draws(self, draws: tuple[int, ...]) -> Slices:
        """The slices once for each of these draws, draws outermost, as one larger batch."""
        count = len(draws)
        sources = [self.random.of_draw(draw) for draw in draws]
        slices = tuple(number for source in sources for number in source.slices)
        random = replace(self.random, slices=slices, draw=tuple(one for source in sources for one in source.draws()))
        return replace(self, image=repeated(self.image, count), brain=repeated(self.brain, count), random=random)


def repeated(batch: Tensor, count: int) -> Tensor:
    """batch[n, ...] `count` times over, one after another."""
    return batch if count == 1 else batch.repeat(count, *(1 for _ in batch.shape[1:]))


def column(level: Level, like: Tensor) -> Level:
    """A level for each slice in the shape that multiplies `like`; one number stays one."""
    return level.to(like).reshape(-1, *(1 for _ in like.shape[1:])) if isinstance(level, Tensor) else level


def told(level: Level, like: Tensor) -> Tensor:
    """The level of each slice of `like` as a network is told it: [batch]."""
    return (
        level.to(like) if isinstance(level, Tensor) else torch.full((like.shape[0],), level, dtype=like.dtype, device=like.device)
    )
