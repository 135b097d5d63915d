"""Bernoulli latent diffusion: the code is bits, noise flips them, and only bits that the chain holds for flipped are changed.

Wolleb et al. 2024, arXiv 2403.11667: binary autoencoder of 128 x 32 x 32 bits, level 200 of 1000, 200 steps, bits whose flip
is likelier than 0.5 join a cumulative mask, all others keep their value; the squared difference from the slice, median 5.
Here 16 x 24 x 20 bits and 10 steps of 20. The mask need not be kept: a bit that once joined and later agrees with the slice
has the slice's value. The decoded bits are compared with D(E(x)) instead of the slice, and no map is stretched by its own range.
"""

from inference.bernoulli import BernoulliStep, Flipped, PredictedFlips, UnlessFlipped
from inference.codec_objectives import OnCodes
from inference.codecs import BinaryCodec, InLatent
from inference.objectives import PredictFlips, Shown
from inference.postprocess import Components
from inference.recipes.codes import code_unet, codec_stage, halves
from inference.recipes.recipe import NetworkSpec, Recipe, Stage, Training
from inference.samplers import Chain, Ensemble, even_pairs
from inference.scorers import Aggregate, Residual, squared_difference

CODEC = BinaryCodec()
BITS = 16

BERNOULLI_LATENT = Recipe(
    name="bernoulli_latent",
    paper="arXiv 2403.11667",
    corruptor=Flipped(),
    denoiser=UnlessFlipped(PredictedFlips()),
    sampler=InLatent(Ensemble(Chain(even_pairs(0.2, 0.0, 10), BernoulliStep()), 1), CODEC),
    scorer=Residual(Aggregate.LAST, distance=squared_difference, healthy=Aggregate.LAST),
    postprocessor=Components(median=5),
    training=Training(
        networks=(*halves(BITS), NetworkSpec("flips", "unet", code_unet(BITS, BITS))),
        stages=(
            codec_stage(CODEC),
            Stage(("flips",), OnCodes(CODEC, PredictFlips(of=Shown.IMAGE)), learning_rate=1e-3),
        ),
    ),
)
"""An ensemble of one: only how the chain ends is decoded."""
