"""The networks of bundles, by kind. All are MONAI's, most behind a space-to-depth stem that quarters the pixels before the
first convolution (Shi et al., CVPR 2016, run backwards).

A network is called with an image [batch, channel, row, column], a level [batch] in 0..1 and, where it knows classes, a
class [batch]. The restorer predicts the change of the image, so that an untrained one is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from monai.networks.nets import AutoEncoder, BasicUNet, DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionModelEncoder
from torch import Tensor, nn

from inference.arguments import number as _number
from inference.arguments import whole as _whole
from inference.arguments import wholes as _wholes
from inference.coders import Codebook, Limit, SliceDecoder, SliceEncoder
from inference.conditioned import DynamicUnet, VolumeUnet
from inference.contexts import ContextBank
from inference.film import ContextRestorer

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


class Unet(nn.Module):
    """forward(image[B, C, H, W], level[B][, class[B]]) -> [B, out, H, W]: the diffusion U-Net of noise and of masks."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = _whole(config, "stem")
        area = self.stem**2
        classes = _whole(config, "classes") if "classes" in config else None
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=_whole(config, "in_channels") * area,
            out_channels=_whole(config, "out_channels") * area,
            channels=_wholes(config, "channels"),
            attention_levels=[bool(n) for n in _wholes(config, "attention_levels")],
            num_res_blocks=_whole(config, "res_blocks"),
            norm_num_groups=_whole(config, "norm_groups"),
            num_head_channels=_whole(config, "head_channels"),
            num_class_embeds=classes,
        )

    def forward(self, image: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        packed = nn.functional.pixel_unshuffle(image, self.stem)
        answer = self.unet(packed, level * _TIMESTEPS, class_labels=label)
        return nn.functional.pixel_shuffle(answer, self.stem)


class NoisyClassifier(nn.Module):
    """forward(image[B, C, H, W], level[B]) -> logits [B, classes] for images of any size and any level of noise."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem = _whole(config, "stem")
        channels = _wholes(config, "channels")
        self.encoder = DiffusionModelEncoder(
            spatial_dims=2,
            in_channels=_whole(config, "in_channels") * self.stem**2,
            out_channels=1,
            channels=channels,
            attention_levels=[False] * len(channels),
            num_res_blocks=_whole(config, "res_blocks"),
            norm_num_groups=_whole(config, "norm_groups"),
        )
        self.encoder.out = nn.Identity()  # MONAI's head is made for one size of image
        self.channels = channels[-1]
        self.head = nn.Linear(self.channels, _whole(config, "classes"))

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        seen = self.encoder(nn.functional.pixel_unshuffle(image, self.stem), level * _TIMESTEPS)
        return self.head(seen.reshape(image.shape[0], self.channels, -1).mean(-1))


class Autoencoder(nn.Module):
    """forward(image[B, 1, H, W], level[B]) -> the image as it comes out of a narrow code; the level is of no account."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        channels = _wholes(config, "channels")
        self.net = AutoEncoder(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            strides=[2] * len(channels),
            norm=("group", {"num_groups": _whole(config, "norm_groups")}),
        )

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        del level
        return self.net(image)


class PixelHeads(nn.Module):
    """forward(features[B, C, H, W]) -> logits [B, heads, H, W]: independent small perceptrons, one opinion each."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        heads, width = _whole(config, "heads"), _whole(config, "width")
        self.net = nn.Sequential(
            nn.BatchNorm2d(_whole(config, "in_channels")),
            nn.Conv2d(_whole(config, "in_channels"), heads * width, 1),
            nn.ReLU(),
            nn.Conv2d(heads * width, heads, 1, groups=heads),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)


KINDS: Mapping[str, Callable[[Mapping[str, object]], nn.Module]] = MappingProxyType(
    {
        "restorer": Restorer,
        "brain": BrainNet,
        "unet": Unet,
        "dynamic_unet": DynamicUnet,
        "volume_unet": VolumeUnet,
        "context_restorer": ContextRestorer,
        "context_bank": ContextBank,
        "noisy_classifier": NoisyClassifier,
        "autoencoder": Autoencoder,
        "pixel_heads": PixelHeads,
        "slice_encoder": SliceEncoder,
        "slice_decoder": SliceDecoder,
        "codebook": Codebook,
        "limit": Limit,
    }
)
"""What a model card may call a network, and what builds it from the card's arguments."""


def build(kind: str, arguments: Mapping[str, object]) -> nn.Module:
    """A network of that kind. ValueError naming an unknown kind, or a missing or misshapen argument."""
    if kind not in KINDS:
        raise ValueError(f"no network is of kind {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](arguments)
