"""Latent diffusion: a scan finds what of the code is unlikely, a chain paints that anew, the rest of the code stays.

Pinaya et al., MICCAI 2022, arXiv 2206.03461: codes of a VQ autoencoder; the divergence of each step averaged over a middle
range of levels; what exceeds the 97.5th percentile of healthy slices is inpainted and the decoded slices are compared. Here
five levels from 0.4 to 0.6, 10 steps of 50 from 0.5, no transformer; the percentile is learned in a third training. The paper
compares with the slice, here D(E(x)) is what is compared with.
"""

from inference.codec_objectives import OnCodes
from inference.codecs import InLatent, VqCodec
from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.likelihood import Inpainted, LearnLimit, Unlikelihood
from inference.objectives import PredictNoise
from inference.postprocess import Components
from inference.recipes.codes import LATENT, code_unet, codec_stage, halves
from inference.recipes.recipe import NetworkSpec, Recipe, Stage, Training
from inference.samplers import Chain, OneShot, ddpm, even_pairs
from inference.scorers import Aggregate, Residual

CODEC = VqCodec()
SCAN = Unlikelihood(OneShot(at=(0.4, 0.45, 0.5, 0.55, 0.6)))
ENTRIES = 256

LATENT_DIFFUSION = Recipe(
    name="latent_diffusion",
    paper="arXiv 2206.03461",
    corruptor=Noised(),
    denoiser=PredictedNoise(),
    sampler=InLatent(Inpainted(SCAN, Chain(even_pairs(0.5, 0.0, 10), ddpm())), CODEC),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    training=Training(
        networks=(
            *halves(LATENT),
            NetworkSpec("codebook", "codebook", {"entries": ENTRIES, "latent": LATENT}),
            NetworkSpec("noise", "unet", code_unet(LATENT, LATENT)),
            NetworkSpec("limit", "limit", {"start": 0.01}),
        ),
        stages=(
            codec_stage(CODEC, "codebook"),
            Stage(("noise",), OnCodes(CODEC, PredictNoise()), learning_rate=1e-3),
            Stage(("limit",), OnCodes(CODEC, LearnLimit(SCAN, PredictedNoise())), learning_rate=0.03, share=0.2),
        ),
    ),
)
