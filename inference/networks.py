"""The two networks of a bundle: one restores a slice to health, one finds the brain. Both are MONAI's, behind a
space-to-depth stem that quarters the pixels before the first convolution (Shi et al., CVPR 2016, run backwards).

The restorer is a diffusion U-Net whose timestep is the severity of the anomaly, as in cold diffusion (Bansal et al.,
NeurIPS 2023) and DISYRE (Naval Marimon et al., ISBI 2024). It predicts the change, so that an untrained one is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.networks.nets import BasicUNet, DiffusionModelUNet
from torch import Tensor, nn

RESTORER: dict[str, int | float | str | list[int] | list[bool]] = {
    "stem": 2,
    "multiple": 16,
    "in_channels": 1,
    "channels": [32, 64, 96, 128],
    "attention_levels": [False, False, False, True],
    "res_blocks": 1,
    "norm_groups": 16,
    "head_channels": 32,
    "evidence": 1,
}
BRAIN_NET: dict[str, int | float | str | list[int] | list[bool]] = {
    "stem": 2,
    "multiple": 32,
    "spacing_mm": 2.0,
    "grid_spacing_mm": 1.25,
    "features": [24, 32, 48, 64, 96, 24],
    "norm_groups": 8,
}
_TIMESTEPS = 1000.0  # range for which the sinusoidal embedding is made


class Restorer(nn.Module):
    """forward(image[B, C, H, W], severity[B] in 0..1) -> the healthy estimate [B, 1, H, W]; H and W multiples of `multiple`.

    With `evidence` 1 a second channel follows: the logit of a pixel being part of an anomaly, which the same network learns
    from the outlines of the anomalies it restores.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = _whole(config, "stem")
        self.multiple = _whole(config, "multiple")
        self.evidence = _whole(config, "evidence") if "evidence" in config else 0
        area = self.stem**2
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=_whole(config, "in_channels") * area,
            out_channels=area * (1 + self.evidence),
            channels=_wholes(config, "channels"),
            attention_levels=[bool(n) for n in _wholes(config, "attention_levels")],
            num_res_blocks=_whole(config, "res_blocks"),
            norm_num_groups=_whole(config, "norm_groups"),
            num_head_channels=_whole(config, "head_channels"),
        )

    def forward(self, image: Tensor, severity: Tensor) -> Tensor:
        packed = nn.functional.pixel_unshuffle(image, self.stem)
        answer = nn.functional.pixel_shuffle(self.unet(packed, severity * _TIMESTEPS), self.stem).to(image.dtype)
        healthy = image[:, :1] + answer[:, :1]
        return torch.cat([healthy, answer[:, 1:]], 1) if self.evidence else healthy


class BrainNet(nn.Module):
    """forward(image[B, 1, H, W]) -> logits [B, 1, H, W] of being brain; H and W multiples of `multiple`.

    `spacing_mm` is the pixel it was trained for, `grid_spacing_mm` the one of the images it is handed at run time.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = _whole(config, "stem")
        self.multiple = _whole(config, "multiple")
        self.spacing_mm = _number(config, "spacing_mm")
        self.grid_spacing_mm = _number(config, "grid_spacing_mm")
        area = self.stem**2
        self.unet = BasicUNet(
            spatial_dims=2,
            in_channels=area,
            out_channels=area,
            features=_wholes(config, "features"),
            norm=("group", {"num_groups": _whole(config, "norm_groups")}),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits = self.unet(nn.functional.pixel_unshuffle(image, self.stem))
        return nn.functional.pixel_shuffle(logits, self.stem)


def build_restorer(config: Mapping[str, object]) -> nn.Module:
    """The restoration network of a model card's `network` table. Raises ValueError naming a missing or misshapen key."""
    return Restorer(config)


def build_brain_net(config: Mapping[str, object]) -> nn.Module:
    """The brain-mask network, from the `brain_` entries of a model card's `network` table. Raises ValueError likewise."""
    return BrainNet(config)


def _whole(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int):
        raise ValueError(f"network configuration: {key} must be a whole number, got {value!r}")
    return value


def _number(config: Mapping[str, object], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"network configuration: {key} must be a number above 0, got {value!r}")
    return float(value)


def _wholes(config: Mapping[str, object], key: str) -> list[int]:
    value = config.get(key)
    if not isinstance(value, list | tuple) or not all(isinstance(n, int) for n in value):
        raise ValueError(f"network configuration: {key} must be a list of whole numbers, got {value!r}")
    return list(value)
