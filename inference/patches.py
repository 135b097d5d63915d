"""Boxes of a slice that are corrupted while everything around them stays clean, and the sampler that stitches them together.

A network that sees healthy surroundings need not guess how the slice lies or how bright it is (pDDPM, Behrendt et al. 2023,
arXiv 2303.03758). In training the box lies anywhere; at run time the boxes of a fixed grid are asked about one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.samplers import Estimate
from inference.slices import Level, Slices

_PLACE_USE = 600_000  # place in the draw, beyond that of any chain, whose numbers choose where a box lies


@dataclass(frozen=True, slots=True)
class Boxed:
    """Corrupts one box at a random place in each slice and leaves the rest as it is."""

    of: Corruptor
    rows: int = 2
    """Boxes that would fill the height of a slice."""
    columns: int = 2

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x outside the box, x corrupted inside."""
        return torch.where(self.box(x, slices), self.of.corrupt(x, level, slices), x)

    def box(self, x: Tensor, slices: Slices) -> Tensor:
        """True inside the box of each slice: [batch, 1, row, column]."""
        place = slices.random.after(_PLACE_USE).uniform(2).to(x)
        down = _within(x.shape[2], self.rows, place[:, :1])
        right = _within(x.shape[3], self.columns, place[:, 1:])
        return down[:, None, :, None] & right[:, None, None, :]


@dataclass(frozen=True, slots=True)
class Stitched:
    """Corrupts one box of a grid at a time, asks for the clean image, and keeps of each answer what lies in the box."""

    at: float
    rows: int = 2
    columns: int = 2

    @property
    def levels(self) -> tuple[float, ...]:
        """The same level once for each box."""
        return (self.at,) * (self.rows * self.columns)

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One estimate, stitched of all boxes; as many boxes as fit are asked about in one call."""
        count, boxes = slices.image.shape[0], self.boxes(slices.image)
        together, whole = max(1, slices.most // count), torch.zeros_like(slices.image)
        for start in range(0, len(boxes), together):
            numbers = tuple(range(start, min(start + together, len(boxes))))
            part = slices.of_draws(numbers)
            inside = boxes[list(numbers)].repeat_interleave(count, dim=0)
            shown = torch.where(inside, corruptor.corrupt(part.image, self.at, part), part.image)
            answers = denoiser.estimate(shown, self.at, part) * inside
            whole = whole + answers.unflatten(0, (len(numbers), count)).sum(0)
        yield Estimate(self.at, whole)

    def boxes(self, like: Tensor) -> Tensor:
        """True inside each box of the grid: [box, 1, row, column]; every pixel lies in exactly one."""
        down = torch.arange(like.shape[2], device=like.device) * self.rows // like.shape[2]
        right = torch.arange(like.shape[3], device=like.device) * self.columns // like.shape[3]
        number = down[:, None] * self.columns + right
        return torch.stack([number == box for box in range(self.rows * self.columns)])[:, None]


def _within(length: int, parts: int, place: Tensor) -> Tensor:
    """True along an axis where a stretch of one part lies that starts at the share place[batch, 1] of what is left."""
    size = -(-length // parts)
    start = (place * (length - size + 1)).floor()
    along = torch.arange(length, device=place.device)
    return (along >= start) & (along < start + size)
