"""The two halves of a codec as networks: one makes a small code of a slice, the other a slice of a code.

Both are those of MONAI's AutoencoderKL. Codes are standardised channel by channel with the statistics of training, so that
diffusion finds them of unit variance (Rombach et al. 2022, arXiv 2112.10752, rescale theirs likewise).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from torch import Tensor, nn

from inference.arguments import number, whole, wholes


class SliceEncoder(nn.Module):
    """forward(image[B, 1, H, W]) -> [B, latent + spread, H / f, W / f], f = 2^(levels - 1): the code, and what goes with it."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        channels = wholes(config, "channels")
        self.latent = whole(config, "latent")
        self.net = Encoder(
            spatial_dims=2,
            in_channels=1,
            channels=channels,
            out_channels=self.latent + whole(config, "spread"),
            num_res_blocks=[whole(config, "res_blocks")] * len(channels),
            norm_num_groups=whole(config, "norm_groups"),
            norm_eps=1e-6,
            attention_levels=[False] * len(channels),
            with_nonlocal_attn=False,
        )
        self.standard = nn.BatchNorm2d(self.latent, affine=False)

    def forward(self, image: Tensor) -> Tensor:
        answer = self.net(image)
        return torch.cat([self.standard(answer[:, : self.latent]), answer[:, self.latent :]], dim=1)


class SliceDecoder(nn.Module):
    """forward(code[B, latent, h, w]) -> the slice [B, 1, f h, f w] behind a code."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        channels = wholes(config, "channels")
        self.net = Decoder(
            spatial_dims=2,
            channels=channels,
            in_channels=whole(config, "latent"),
            out_channels=1,
            num_res_blocks=[whole(config, "res_blocks")] * len(channels),
            norm_num_groups=whole(config, "norm_groups"),
            norm_eps=1e-6,
            attention_levels=[False] * len(channels),
            with_nonlocal_attn=False,
        )

    def forward(self, code: Tensor) -> Tensor:
        return self.net(code)


class Codebook(nn.Module):
    """forward(code[B, latent, h, w]) -> the nearest entry of a codebook at each place (van den Oord 2017, arXiv 1711.00937).

    The entries follow the running mean of what is nearest to them while it trains; gradients pass straight through.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.quantizer = EMAQuantizer(2, whole(config, "entries"), whole(config, "latent"), ddp_sync=False)

    def forward(self, code: Tensor) -> Tensor:
        return self.quantizer(code)[0].to(code.dtype)


class Limit(nn.Module):
    """forward(values[B, ...]) -> one learned number in the shape of the values: a limit that training sets."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(number(config, "start")).log())

    def forward(self, values: Tensor) -> Tensor:
        return self.logarithm.exp().expand_as(values)
