"""A bank of healthy low-frequency contexts that stand in for the low frequencies of a slice.

A lesion of any size changes what is coarse about a slice; what is fine about it says where its tissues run. The disc of low
frequencies is replaced by a mixture of contexts learnt from healthy slices, which cannot hold a lesion (FDP, arXiv 2511.12899).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.arguments import number, whole

_EMPTY = -4.0  # standardised units: no signal
_NEVER = -1e9  # what an empty place weighs, as a logarithm


class ContextBank(nn.Module):
    """forward(image[B, 1, H, W], level[B]) -> the image with low frequencies from the bank; the level is of no account.

    Contexts cover `rows` x `columns` pixels about the middle of a slice, in cells of `cell`; what lies beyond stays. Below
    `cutoff` cycles per pixel a frequency is low: 0.1 is the paper's tenth of the spectrum, whatever the size of the slice.
    Contexts count by their mean square distance over `temperature`; places of the bank are empty at first.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.rows, self.columns, self.cell = whole(config, "rows"), whole(config, "columns"), whole(config, "cell")
        self.multiple = whole(config, "multiple")
        self.cutoff = number(config, "cutoff")
        self.temperature = number(config, "temperature")
        size = (self.rows // self.cell) * (self.columns // self.cell)
        self.contexts = nn.Parameter(torch.zeros(whole(config, "entries"), size))

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        del level
        low = self.low(image)
        inside = _centred(torch.ones_like(low), (self.rows, self.columns), 0.0)
        inside = _centred(inside, low.shape[2:], 0.0)
        recalled = _centred(self.recalled(self.seen(low)), low.shape[2:], 0.0)
        return image + inside * self.low(inside * (recalled - low))

    def low(self, image: Tensor) -> Tensor:
        """The image without its high frequencies; the rim of the disc is soft, so that edges do not ring."""
        height, width = image.shape[2:]
        down = torch.fft.fftfreq(height, device=image.device)[:, None]
        right = torch.fft.rfftfreq(width, device=image.device)
        kept = torch.sigmoid((self.cutoff - (down**2 + right**2).sqrt()) / (0.1 * self.cutoff)).to(image.dtype)
        return torch.fft.irfft2(torch.fft.rfft2(image) * kept, s=(height, width))

    def seen(self, low: Tensor) -> Tensor:
        """The mean of each cell: [B, 1, rows / cell, columns / cell]."""
        return functional.avg_pool2d(_centred(low, (self.rows, self.columns), _EMPTY), self.cell)

    def recalled(self, seen: Tensor) -> Tensor:
        """The mixture of contexts that lie near the cells, by attention over the bank: [B, 1, rows, columns]."""
        apart = torch.cdist(seen.flatten(1), self.contexts) ** 2 / self.contexts.shape[1]
        share = torch.softmax((-apart / self.temperature).masked_fill(self.empty(), _NEVER), dim=1)
        mixed = (share @ self.contexts).reshape(seen.shape)
        return functional.interpolate(mixed, (self.rows, self.columns), mode="bilinear", align_corners=False)

    def empty(self) -> Tensor:
        """Which places of the bank hold no context yet: [entries]."""
        return (self.contexts == 0).all(1)

    @torch.no_grad()
    def fill(self, image: Tensor) -> None:
        """Puts image[B, 1, H, W] into places of the bank that are still empty, as far as there are any."""
        places = self.empty().nonzero()[:, 0][: len(image)]
        self.contexts[places] = self.seen(self.low(image)).flatten(1)[: len(places)]


def _centred(image: Tensor, size: torch.Size | tuple[int, int], value: float) -> Tensor:
    """The middle of the image in this size, cut or grown with `value`."""
    down, right = size[0] - image.shape[2], size[1] - image.shape[3]
    return functional.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=value)
