"""MAD-AD: a lesion is taken for noise in some places of the code; a network marks these, and only they are denoised.

Beizaee et al. 2025, arXiv 2502.16943: random patches of the code are noised, the network finds the clean code and the mask;
at run time the code itself, without noise, is denoised in 10 steps of DDIM with eta 0.5 where marked; |D(z_hat) - D(E(x))|
under a Gaussian of 5 pixels of 256. Here the Gaussian has 2 pixels of 2.4 mm, about the same length, and nothing is cut off.
"""

from inference.codec_objectives import OnCodes, RestorePatches
from inference.codecs import InLatent
from inference.corruptors import Untouched
from inference.postprocess import Components
from inference.recipes.codes import KL, KL_NETWORKS, KL_STAGE, LATENT, code_unet
from inference.recipes.recipe import NetworkSpec, Recipe, Stage, Training
from inference.samplers import Chain, Ddim, Ensemble, even_pairs
from inference.scorers import Aggregate, Residual, smoothed_difference
from inference.selective import Selective, WhereMarked

MAD_AD = Recipe(
    name="mad_ad",
    paper="arXiv 2502.16943",
    corruptor=Untouched(),
    denoiser=WhereMarked(),
    sampler=InLatent(Ensemble(Chain(even_pairs(1.0, 0.0, 10), Selective(Ddim(eta=0.5))), 1), KL),
    scorer=Residual(Aggregate.LAST, distance=smoothed_difference, healthy=Aggregate.LAST),
    postprocessor=Components(),
    training=Training(
        networks=(*KL_NETWORKS, NetworkSpec("restorer", "unet", code_unet(LATENT, LATENT + 1))),
        stages=(KL_STAGE, Stage(("restorer",), OnCodes(KL, RestorePatches()), learning_rate=1e-3)),
    ),
)
"""An ensemble of one: only how the chain ends is decoded."""
