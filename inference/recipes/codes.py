"""Codecs and the networks of codes that several latent recipes share: a codec trained once serves each of them.

A code has a sixteenth of the slice's places (24 x 20 of 96 x 80). Papers take the autoencoder of Stable Diffusion; these have
a tenth of a million parameters, and are trained without its perceptual and adversarial losses.
"""

from inference.codec_objectives import LearnCodec
from inference.codecs import KlCodec, LearnedCodec
from inference.recipes.recipe import Argument, NetworkSpec, Stage

LATENT = 4
"""Channels of a code of numbers."""

CODER: dict[str, Argument] = {"channels": [16, 24, 32], "res_blocks": 1, "norm_groups": 8}
"""Either half of a codec; the coarsest of its levels is the code's."""


def halves(latent: int, spread: int = 0) -> tuple[NetworkSpec, NetworkSpec]:
    """The two networks of a codec with so many channels, and so many more that the encoder answers with."""
    return (
        NetworkSpec("encoder", "slice_encoder", {**CODER, "latent": latent, "spread": spread, "multiple": 8}),
        NetworkSpec("decoder", "slice_decoder", {**CODER, "latent": latent}),
    )


def code_unet(inside: int, outside: int) -> dict[str, Argument]:
    """The diffusion U-Net of codes."""
    return {
        "stem": 1,
        "multiple": 8,
        "in_channels": inside,
        "out_channels": outside,
        "channels": [40, 64],
        "attention_levels": [False, False],
        "res_blocks": 1,
        "norm_groups": 8,
        "head_channels": 8,
    }


def codec_stage(codec: LearnedCodec, *more: str) -> Stage:
    """The first training of a latent method, half of its time."""
    return Stage(("encoder", "decoder", *more), LearnCodec(codec), learning_rate=2e-3)


KL = KlCodec()
KL_NETWORKS = halves(LATENT, LATENT)
KL_STAGE = codec_stage(KL)
"""The Gaussian codec, the same in every recipe that has it."""
