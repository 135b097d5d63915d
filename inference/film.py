"""A restorer that is told beside the noised slice what kind of slice it is: a short vector made from the clean one.

The vector says how bright and how contrasted the slice is and roughly what it shows, too little to draw a lesion by. It scales
and shifts the features of every residual block (FiLM, Perez et al. 2017, arXiv 1709.07871; cDDPM, arXiv 2312.04215).
"""

from __future__ import annotations

from collections.abc import Mapping

from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import Tensor, nn

from inference.arguments import whole, wholes

_TIMESTEPS = 1000.0  # range for which the sinusoidal embedding is made


class FilmBlock(nn.Module):
    """forward(x, embedding) of a residual block of MONAI's whose features are scaled and shifted by the embedding."""

    def __init__(self, block: DiffusionUNetResnetBlock) -> None:
        super().__init__()
        self.block = block
        self.film = nn.Linear(block.emb_channels, 2 * block.out_channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        block, bent = self.block, nn.functional.silu(embedding)
        hidden = block.conv1(block.nonlinearity(block.norm1(x))) + block.time_emb_proj(bent)[:, :, None, None]
        scale, shift = self.film(bent)[:, :, None, None].chunk(2, dim=1)
        hidden = block.conv2(block.nonlinearity(block.norm2(hidden) * (1 + scale) + shift))
        return block.skip_connection(x) + hidden


class ContextEncoder(nn.Module):
    """forward(image[B, C, H, W]) -> [B, context]. No layer normalises: brightness and contrast are what it is to tell."""

    def __init__(self, channels: int, widths: list[int], context: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.SiLU()]
            channels = width
        self.net = nn.Sequential(*layers)
        self.head = nn.Linear(channels, context)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.net(image).mean((2, 3)))


class ContextRestorer(nn.Module):
    """forward(given[B, 2, H, W], level[B]) -> the clean image [B, 1, H, W]: the noised slice first, then the clean one,
    of which only the context vector is seen."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__()
        self.stem, self.multiple = whole(config, "stem"), whole(config, "multiple")
        area, channels, context = self.stem**2, wholes(config, "channels"), whole(config, "context")
        self.encoder = ContextEncoder(area, channels, context)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=area,
            out_channels=area,
            num_res_blocks=whole(config, "res_blocks"),
            channels=channels,
            attention_levels=[False] * len(channels),
            norm_num_groups=whole(config, "norm_groups"),
            num_class_embeds=1,
        )
        self.unet.class_embedding = nn.Linear(context, 4 * channels[0])  # the context in place of a class
        _with_film(self.unet)

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        noised, clean = (nn.functional.pixel_unshuffle(part, self.stem) for part in (given[:, :1], given[:, 1:]))
        change = self.unet(noised, level * _TIMESTEPS, class_labels=self.encoder(clean))
        return given[:, :1] + nn.functional.pixel_shuffle(change, self.stem)


def _with_film(unet: nn.Module) -> None:
    """Put a FilmBlock in the place of every residual block."""
    for module in list(unet.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DiffusionUNetResnetBlock) and not isinstance(module, FilmBlock):
                setattr(module, name, FilmBlock(child))
