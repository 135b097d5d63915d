"""MedSegDiff: a mask from noise, the image judged anew at every step; a fast solver, several samples fused by STAPLE.

Wu et al., MIDL 2023, arXiv 2211.00611: dynamic conditional encoding and a frequency parser on the noisy mask; 25 samples fused by
STAPLE; 1000 steps, or 20 of DPM-Solver in its code. Here 5 samples of 5 steps of DPM-Solver++ 2M, and the second encoder adds to
the first (the paper multiplies by attention). Set STEPS and DRAWS for the published cost.
"""

from inference.corruptors import NoiseAlone, Noised
from inference.denoisers import Bounded, PredictedNoise, the_image
from inference.objectives import PredictNoise, Shown
from inference.postprocess import Components
from inference.recipes.recipe import Argument, Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.samplers import Ensemble
from inference.solvers import DpmSolver, even_ratios
from inference.votes import Staple

TOP, LAST, STEPS, DRAWS = 0.9, 0.03, 5, 5
DYNAMIC_UNET: dict[str, Argument] = {
    "stem": 2,
    "multiple": 8,
    "image_channels": 1,
    "channels": [24, 32, 56],
    "res_blocks": 1,
    "norm_groups": 8,
}

MEDSEGDIFF = Recipe(
    name="medsegdiff",
    paper="arXiv 2211.00611",
    corruptor=NoiseAlone(),
    denoiser=Bounded(PredictedNoise(beside=the_image)),
    sampler=Ensemble(DpmSolver(even_ratios(TOP, LAST, STEPS)), DRAWS),
    scorer=Staple(),
    postprocessor=Components(),
    scheme=Scheme.FULLY,
    labels=Labels.MASKS,
    training=Training(
        networks=(NetworkSpec("noise", "dynamic_unet", DYNAMIC_UNET),),
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
