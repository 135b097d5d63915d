"""What a network is told of a slice beside its pixels: a context that it makes itself, or healthy low frequencies.

Two networks: a restorer whose every block is steered by a code of the clean slice (cDDPM, Behrendt et al. 2023, arXiv
2312.04215), and a bank of healthy low-frequency contexts that stands in for a slice's own (FDP, arXiv 2511.12899).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from inference.arguments import whole, wholes

_TIMESTEPS = 1000.0  # range for which the sinusoidal embedding is made
_EMBEDDED = 4  # MONAI's embedding of the level is this many times as wide as the first block


class ContextRestorer(nn.Module):
    """forward(given[B, 2, H, W], level[B]) -> the clean image [B, 1, H, W]; the first channel is corrupted, the second the slice.

    A small encoder makes a code of the slice; it is added to the embedding of the level, which shifts the features of every
    residual block. The paper scales as well as shifts, and trains its encoder (a ResNet-50) beforehand.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = whole(config, "stem")
        area, channels = self.stem**2, wholes(config, "channels")
        groups, code = whole(config, "norm_groups"), whole(config, "code")
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=area,
            out_channels=area,
            channels=channels,
            attention_levels=[False] * len(channels),
            num_res_blocks=whole(config, "res_blocks"),
            norm_num_groups=groups,
            num_class_embeds=1,  # replaced by the encoder: a class is told by a code, here made of the slice
        )
        wide = _EMBEDDED * channels[0]
        self.unet.class_embedding = nn.Sequential(  # type: ignore[assignment]  # MONAI asks it with what it is handed
            *(layer for one, two in zip([area, *channels], channels, strict=False) for layer in _halving(one, two, groups)),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * channels[-1], code),
            nn.SiLU(),
            nn.Linear(code, wide),
        )

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        corrupted, slice_ = (functional.pixel_unshuffle(one, self.stem) for one in (given[:, :1], given[:, 1:]))
        return functional.pixel_shuffle(self.unet(corrupted, level * _TIMESTEPS, class_labels=slice_), self.stem)


def _halving(from_channels: int, to_channels: int, groups: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(from_channels, to_channels, 3, stride=2, padding=1), nn.GroupNorm(groups, to_channels), nn.SiLU()


class ContextBank(nn.Module):
    """forward(context[B, 1, rows, columns]) -> the same, as a mixture of the bank's entries by attention.

    Entries are low-frequency slices of healthy brains on a coarse grid, learned; what no healthy slice has, no mixture has.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.shape = (whole(config, "rows"), whole(config, "columns"))
        size = self.shape[0] * self.shape[1]
        self.entries = nn.Parameter(0.5 * torch.randn(whole(config, "entries"), size))
        self.asked, self.known = (nn.Linear(size, whole(config, "width")) for _ in range(2))

    def forward(self, context: Tensor) -> Tensor:
        query, key = self.asked(context.flatten(1)), self.known(self.entries)
        weight = torch.softmax(query @ key.T / key.shape[1] ** 0.5, dim=1)
        return (weight @ self.entries).reshape(-1, 1, *self.shape)
