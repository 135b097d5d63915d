"""Part of a slice is destroyed, the rest stays as context: boxes under noise, hidden cells, hidden frequencies.

What is left clean tells the network whose anatomy it is looking at. Boxes follow pDDPM (Behrendt et al., MIDL 2023, arXiv
2303.03758), hidden cells and frequencies mDDPM (Iqbal et al. 2023, arXiv 2305.19867).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.samplers import Estimate
from inference.slices import Level, Slices

_USES = 8  # random numbers that each of several corruptors may ask for


@dataclass(frozen=True, slots=True)
class InBox:
    """Destroys what lies in one box of each slice, somewhere at random: for training, where `Boxes` asks at run time."""

    of: Corruptor
    share: float = 0.5
    """The side of the box as a share of the slice's."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x with the box taken from the wrapped corruptor's answer."""
        inside = self.box(x, slices)
        return torch.where(inside, self.of.corrupt(x, level, slices.after(1)), x)

    def box(self, x: Tensor, slices: Slices) -> Tensor:
        """Whether a pixel of each slice lies in its box: bool, the shape of x."""
        corner = slices.random.uniform(2).to(x)
        sides = []
        for axis, length in enumerate(x.shape[2:]):
            side = max(1, round(self.share * length))
            first = (corner[:, axis] * (length - side + 1)).floor()[:, None]
            place = torch.arange(length, device=x.device)[None]
            sides.append((place >= first) & (place < first + side))
        return (sides[0][:, None, :, None] & sides[1][:, None, None, :]).expand_as(x)


@dataclass(frozen=True, slots=True)
class HiddenCells:
    """Sets whole cells of a coarse grid to the brain's median, 0; each with the same probability, inside the brain."""

    cells: int
    share: float

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x with about `share` of its cells hidden, whatever the level."""
        del level
        hidden = slices.random.uniform(1, self.cells, self.cells).to(x) < self.share
        wide = functional.interpolate(hidden.to(x), size=x.shape[2:], mode="nearest")
        return x * (1 - wide * slices.brain)


@dataclass(frozen=True, slots=True)
class HiddenFrequencies:
    """Sets whole patches of a slice's spectrum to 0, each with the same probability; the mean always stays."""

    cells: int
    share: float

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x without about `share` of its frequencies, whatever the level."""
        del level
        spectrum = torch.fft.rfft2(x, norm="ortho")
        kept = (slices.random.uniform(1, 2 * self.cells, self.cells).to(x) >= self.share).to(x)
        wide = functional.interpolate(kept, size=spectrum.shape[2:], mode="nearest")
        wide[..., 0, 0] = 1.0
        return torch.fft.irfft2(spectrum * wide, s=x.shape[2:], norm="ortho")


@dataclass(frozen=True, slots=True)
class InTurn:
    """One corruptor after another, each with random numbers of its own."""

    parts: tuple[Corruptor, ...]

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """What the last makes of what those before it make of x."""
        for place, part in enumerate(self.parts):
            x = part.corrupt(x, level, slices.after(_USES * place))
        return x


@dataclass(frozen=True, slots=True)
class Boxes:
    """Asks for one box at a time with everything else clean, and puts the answers together: `rows` x `columns` boxes."""

    at: tuple[float, ...]
    rows: int = 2
    columns: int = 2

    @property
    def levels(self) -> tuple[float, ...]:
        """Each level once for each box."""
        return tuple(level for level in self.at for _ in range(self.rows * self.columns))

    def stream(self, slices: Slices, corruptor: Corruptor, denoiser: Denoiser) -> Iterator[Estimate]:
        """One stitched estimate for each level; as many boxes as fit go to the network in one call."""
        boxes = self.boxes(slices.image)
        together = max(1, slices.most // len(slices.image))
        for place, level in enumerate(self.at):
            destroyed = corruptor.corrupt(slices.image, level, slices.after(place))
            whole = torch.zeros_like(slices.image)
            for start in range(0, len(boxes), together):
                part = boxes[start : start + together]
                shown = torch.cat([torch.where(box, destroyed, slices.image) for box in part])
                context = slices.of_draws(tuple(range(start, start + len(part))))
                answers = denoiser.estimate(shown, level, context).chunk(len(part))
                for box, answer in zip(part, answers, strict=True):
                    whole = torch.where(box, answer, whole)
            yield Estimate(level, whole)

    def boxes(self, like: Tensor) -> list[Tensor]:
        """For each box whether a pixel [1, 1, row, column] lies in it; every pixel lies in exactly one."""
        height, width = like.shape[2:]
        row = torch.arange(height, device=like.device) * self.rows // height
        column = torch.arange(width, device=like.device) * self.columns // width
        number = row[:, None] * self.columns + column[None]
        return [(number == one)[None, None] for one in range(self.rows * self.columns)]
