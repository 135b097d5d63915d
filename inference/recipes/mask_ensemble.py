"""Mask diffusion: a mask is made from noise beside the image, five times; their mean is the map, their spread the doubt.

Wolleb et al., MIDL 2022, arXiv 2112.03145: the network sees the noised mask and the image, 1000 steps, 5 samples. Here 8
steps of DDIM from pure noise, which the same network allows (Song et al. 2020).
"""

from inference.corruptors import NoiseAlone, Noised
from inference.denoisers import PredictedNoise, the_image
from inference.objectives import PredictNoise, Shown
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import Chain, Ddim, Ensemble, even_pairs
from inference.scorers import MaskEnsemble

TOP, STEPS, DRAWS = 0.9, 8, 5

MASK_ENSEMBLE = Recipe(
    name="mask_ensemble",
    paper="arXiv 2112.03145",
    corruptor=NoiseAlone(),
    denoiser=PredictedNoise(beside=the_image),
    sampler=Ensemble(Chain(even_pairs(TOP, 0.0, STEPS), Ddim()), DRAWS),
    scorer=MaskEnsemble(),
    postprocessor=Components(),
    scheme=Scheme.FULLY,
    labels=Labels.MASKS,
    training=Training(
        networks=(NetworkSpec("noise", "unet", {**UNET, "in_channels": 2}),),
        stages=(
            Stage(
                ("noise",),
                PredictNoise(Noised(), of=Shown.MASK, beside=the_image),
                Material.LABELLED,
                learning_rate=1e-3,
            ),
        ),
    ),
)
