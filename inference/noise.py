"""Random fields that images are corrupted with: white, coarse, pyramid and simplex noise, each of unit variance.

Every field is made of tensors on the device of the image, from numbers that depend on the seed, the slice, the draw and
the place in the chain alone. Lengths are in pixels of the grid at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference.slices import SliceRandom


class Noise(Protocol):
    """A random field of zero mean and unit variance."""

    def draw(self, random: SliceRandom, like: Tensor) -> Tensor:
        """A field for each slice, in the shape, type and place of `like`[batch, 1, row, column]; white noise any other."""
        ...


@dataclass(frozen=True, slots=True)
class White:
    """Every pixel independent of every other."""

    def draw(self, random: SliceRandom, like: Tensor) -> Tensor:
        """Standard normal numbers."""
        return random.normal(*like.shape[1:])[:, 0].to(like)


@dataclass(frozen=True, slots=True)
class Coarse:
    """White noise of a coarse grid, enlarged (Kascenas et al., DAE, MIDL 2022)."""

    cells: int
    """Cells of the coarse grid along each axis of the slice."""

    def draw(self, random: SliceRandom, like: Tensor) -> Tensor:
        """Smooth blobs; of unit variance where a cell lies, less between the cells."""
        return _enlarged(random.normal(self.cells, self.cells).to(like), like)


@dataclass(frozen=True, slots=True)
class Pyramid:
    """White noise of ever coarser grids added up, each by `discount` weaker (ANDi, Frotscher et al. 2023)."""

    discount: float = 0.8
    levels: int = 5

    def draw(self, random: SliceRandom, like: Tensor) -> Tensor:
        """The sum of all grids over its standard deviation, which is taken over each slice."""
        height, width = like.shape[2:]
        field = torch.zeros_like(like)
        for level in range(self.levels):
            size = (max(1, height // 2**level), max(1, width // 2**level))
            part = SliceRandom(random.seed, random.slices, random.draw, random.use * self.levels + level)
            field = field + self.discount**level * _enlarged(part.normal(*size).to(like), like)
        return field / field.std(dim=(-2, -1), keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True, slots=True)
class Simplex:
    """Simplex noise of several octaves (Perlin 2001; for diffusion: AnoDDPM, Wyatt et al., CVPR workshops 2022).

    A slice through three-dimensional noise, whose octaves leave no grain along the axes. In AnoDDPM the period is 64
    pixels of a 256 x 256 image, a quarter of the field of view; a recipe gives the same length in its own pixels.
    """

    period: float
    """Pixels over which the coarsest octave varies; each further octave has half of it."""
    octaves: int = 6
    persistence: float = 0.8
    """Amplitude of each octave, relative to the next coarser one."""

    def draw(self, random: SliceRandom, like: Tensor) -> Tensor:
        """The octaves added up, over the deviation that such a sum has on average: no slice is normalised by itself."""
        order = random.permutations(_TABLE).to(like.device)
        depth = (random.after(_DEPTH_USE).uniform(1) * _TABLE).to(like)
        rows, columns = (torch.arange(n, device=like.device, dtype=like.dtype) for n in like.shape[2:])
        field = torch.zeros_like(like[:, 0])
        for octave in range(self.octaves):
            scale = 2**octave / self.period
            place = (depth[:, :, None] + 17.0 * octave, rows[None, :, None] * scale, columns[None, None, :] * scale)
            field = field + self.persistence**octave * simplex(place, order)
        deviation = _SIMPLEX_DEVIATION * math.sqrt(sum(self.persistence ** (2 * n) for n in range(self.octaves)))
        return (field / deviation)[:, None]


_TABLE = 256  # length of the permutation that hashes lattice points
_DEPTH_USE = 500_000  # place in the draw, beyond that of any chain, whose numbers choose the plane through the noise
_SIMPLEX_DEVIATION = 0.1634  # measured: standard deviation of `simplex` over 64 planes of 256 x 256 points, period 8
_REACH_2 = 0.5  # squared reach of a corner; beyond it the field would jump between cells
_GRADIENTS = (
    (1, -1, 1, -1, 1, -1, 1, -1, 0, 0, 0, 0),
    (1, 1, -1, -1, 0, 0, 0, 0, 1, -1, 1, -1),
    (0, 0, 0, 0, 1, 1, -1, -1, 1, 1, -1, -1),
)
"""The middles of a cube's edges, by axis (Perlin 2002)."""


def simplex(place: tuple[Tensor, ...], order: Tensor) -> Tensor:
    """Simplex noise, about -1 to 1, at three coordinates that broadcast to [batch, ...]; order[batch, 256] hashes points."""
    skew = (place[0] + place[1] + place[2]) / 3
    cell = [torch.floor(one + skew) for one in place]
    back = (cell[0] + cell[1] + cell[2]) / 6
    offset = torch.broadcast_tensors(*(one - (whole - back) for one, whole in zip(place, cell, strict=True)))
    first = [offset[0] >= offset[1], offset[1] >= offset[2], offset[0] >= offset[2]]  # x before y, y before z, x before z
    rank = [2 - first[0].int() - first[2].int(), 1 + first[0].int() - first[1].int(), first[1].int() + first[2].int()]
    gradients = torch.tensor(_GRADIENTS, dtype=offset[0].dtype, device=offset[0].device)
    hashes = torch.cat([order, order], dim=1)
    total = torch.zeros_like(offset[0])
    for corner in range(4):
        steps = [one < corner for one in rank]
        away = [one - step.to(one.dtype) + corner / 6 for one, step in zip(offset, steps, strict=True)]
        nearness = (_REACH_2 - away[0] ** 2 - away[1] ** 2 - away[2] ** 2).clamp_min(0) ** 4
        edge = _hashed([whole.long() + step for whole, step in zip(cell, steps, strict=True)], hashes) % len(_GRADIENTS[0])
        total = total + nearness * sum(gradients[axis][edge] * away[axis] for axis in range(3))
    return 32 * total


def _hashed(cell: Sequence[Tensor], hashes: Tensor) -> Tensor:
    """A number 0..255 for each lattice point."""
    value = torch.zeros_like(cell[0])
    for axis in cell:
        index = value + axis % _TABLE
        value = hashes.gather(1, index.flatten(1)).reshape(index.shape)
    return value


def _enlarged(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field, size=like.shape[2:], mode="bilinear", align_corners=False)
