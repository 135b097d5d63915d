"""Networks that make a mask beside an image, with more than the image as a further channel.

All are MONAI's: U-Nets that find the noise of the mask, of a slice or of a volume, and a second encoder (a ControlNet, Zhang et
al. 2023, arXiv 2302.05543) that looks at image and mask together and adds what it sees to every level of the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.nets import ControlNet, DiffusionModelUNet
from torch import Tensor, nn

from inference.arguments import whole, wholes

_TIMESTEPS = 1000.0  # range for which the sinusoidal embedding is made


class FrequencyFilter(nn.Module):
    """forward(x[B, C, H, W]) -> x, each spatial frequency weighted by a learned gain of each channel, 1 at first.

    The frequency parser of MedSegDiff (arXiv 2211.00611, section 2.3), its gains on a grid of `size` that is stretched to the
    spectrum at hand, so that slices may have any size.
    """

    def __init__(self, channels: int, size: int = 8) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        gain = nn.functional.interpolate(self.gain, (rows, columns // 2 + 1), mode="bilinear", align_corners=True)
        return torch.fft.irfft2(spectrum * torch.fft.ifftshift(gain, dim=2), s=(rows, columns), norm="ortho").to(x.dtype)


class DynamicUnet(nn.Module):
    """forward(given[B, 1 + C, H, W], level[B]) -> [B, 1, H, W]: the noise in a mask, the first channel, beside an image.

    The dynamic conditional encoding of MedSegDiff (arXiv 2211.00611, section 2.2): what the image means is judged at every step
    by the mask so far, whose noise the frequency filter holds back.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = whole(config, "stem")
        area, channels = self.stem**2, wholes(config, "channels")
        blocks, groups = whole(config, "res_blocks"), whole(config, "norm_groups")
        flat = [False] * len(channels)
        self.unet = DiffusionModelUNet(2, area, area, blocks, channels, flat, norm_num_groups=groups)
        self.filter = FrequencyFilter(area)
        self.encoder = ControlNet(
            spatial_dims=2,
            in_channels=area,
            num_res_blocks=blocks,
            channels=channels,
            attention_levels=flat,
            norm_num_groups=groups,
            conditioning_embedding_in_channels=area * whole(config, "image_channels"),
            conditioning_embedding_num_channels=(channels[0],),
        )
        self.encoder.apply(_wake)

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        mask, image = (nn.functional.pixel_unshuffle(part, self.stem) for part in (given[:, :1], given[:, 1:]))
        time = level * _TIMESTEPS
        beside, middle = self.encoder(self.filter(mask), time, image)
        answer = self.unet(mask, time, down_block_additional_residuals=tuple(beside), mid_block_additional_residual=middle)
        return nn.functional.pixel_shuffle(answer, self.stem)


class VolumeUnet(nn.Module):
    """forward(given[B, 1 + C, D, H, W], level[B]) -> [B, 1, D, H, W]: the noise in the mask of a volume or of a crop of one.

    The stem folds rows and columns, not slices, which lie further apart; slices are padded to what the U-Net can halve. On a CPU
    it stays with float32: there torch 2.13 gets the gradient of a bfloat16 3D convolution wrong where little is left to halve
    (at 2 x 4 x 4 voxels the gradient of the weights is not finite).
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = whole(config, "stem")
        area, channels = self.stem**2, wholes(config, "channels")
        self.halved = 2 ** (len(channels) - 1)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=area * whole(config, "in_channels"),
            out_channels=area,
            num_res_blocks=whole(config, "res_blocks"),
            channels=channels,
            attention_levels=[False] * len(channels),
            norm_num_groups=whole(config, "norm_groups"),
        )

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        depth = given.shape[2]
        padded = nn.functional.pad(given, (0, 0, 0, 0, 0, -depth % self.halved), mode="replicate")
        packed = nn.functional.pixel_unshuffle(padded.transpose(1, 2), self.stem).transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            answer = self.unet(packed.contiguous(), level * _TIMESTEPS)
        return nn.functional.pixel_shuffle(answer.transpose(1, 2), self.stem).transpose(1, 2)[:, :, :depth]


def _wake(module: nn.Module) -> None:
    """A ControlNet is born silent so as not to disturb a finished U-Net; here both learn from the start."""
    if isinstance(module, nn.Conv2d) and not module.weight.any():
        module.reset_parameters()
