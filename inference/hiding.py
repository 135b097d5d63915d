"""Parts of an image or of its spectrum that are hidden, so that a network must fill them in from the rest.

Masked diffusion (mDDPM, Iqbal et al. 2023, arXiv 2305.19867) hides patches of the image and patches of its Fourier spectrum in
training; nothing is hidden at run time. How much is hidden is drawn for each slice, from nothing to `most`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.slices import Level, Slices

_PATCH_USE, _BAND_USE = 700_000, 710_000  # places in the draw, beyond those of any chain, whose numbers choose what is hidden


@dataclass(frozen=True, slots=True)
class HiddenPatches:
    """Square patches of the brain become its median, 0 in standardised units: they say nothing."""

    size: int = 8
    """Pixels along the side of a patch."""
    most: float = 0.4
    """Largest share of the patches of a slice that is hidden."""

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x with some of its patches hidden, whatever the level."""
        del level
        rows, columns = (-(-n // self.size) for n in x.shape[2:])
        hidden = _chosen(slices, _PATCH_USE, rows, columns, self.most).to(x)
        hidden = hidden.repeat_interleave(self.size, 2).repeat_interleave(self.size, 3)[..., : x.shape[2], : x.shape[3]]
        return x * (1 - hidden * slices.brain)


@dataclass(frozen=True, slots=True)
class HiddenFrequencies:
    """Patches of the half spectrum become 0, but never the one that holds the brightness of the whole slice."""

    rows: int = 9
    """Patches along the vertical frequencies; odd, so that one is centred on 0."""
    columns: int = 5
    """Along the horizontal ones, from 0 up."""
    most: float = 0.4

    def corrupt(self, x: Tensor, level: Level, slices: Slices) -> Tensor:
        """x without some of its frequencies, whatever the level."""
        del level
        hidden = _chosen(slices, _BAND_USE, self.rows, self.columns, self.most).to(x)
        hidden[..., self.rows // 2, 0] = 0
        height, width = x.shape[2:]
        kept = functional.interpolate(1 - hidden, (height, width // 2 + 1), mode="nearest")
        kept = torch.fft.ifftshift(kept, dim=2)
        for edge in (0, -1):  # there the half spectrum holds both a frequency and its mirror
            kept[..., edge] = kept[..., edge] * kept[..., edge].flip(2).roll(1, 2)
        return torch.fft.irfft2(torch.fft.rfft2(x) * kept, s=(height, width))


def _chosen(slices: Slices, use: int, rows: int, columns: int, most: float) -> Tensor:
    """Which cells of a grid are hidden: [batch, 1, row, column], on the CPU."""
    numbers = slices.random.after(use).uniform(1 + rows * columns)
    return (numbers[:, 1:] < most * numbers[:, :1]).reshape(-1, 1, rows, columns)
