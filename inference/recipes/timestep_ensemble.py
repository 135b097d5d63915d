"""Timestep ensembling: pixel classifiers judge the features of each level alone, and the levels vote.

Rosnati, Roschewitz and Glocker 2023, arXiv 2311.07421: small levels hold what is needed, large ones keep the judgement steady on
other scanners; one classifier serves all levels and its predictions are averaged, where label-efficient diffusion
(`diffusion_features`, whose noise network this is) joins the features. Eight levels from 1 to 800 of 1000 and ten classifiers.
"""

from inference.corruptors import Noised
from inference.objectives import ClassifyPixels, ClassifyPixelsApart, PredictNoise
from inference.postprocess import Components
from inference.recipes.diffusion_features import FEATURES, WIDTH
from inference.recipes.recipe import Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import OneShot
from inference.votes import LevelVote

LEVELS = (0.001, 0.01, 0.025, 0.05, 0.2, 0.4, 0.6, 0.8)

TIMESTEP_ENSEMBLE = Recipe(
    name="timestep_ensemble",
    paper="arXiv 2311.07421",
    corruptor=Noised(),
    denoiser=FEATURES,
    sampler=OneShot(at=LEVELS),
    scorer=LevelVote(),
    postprocessor=Components(),
    scheme=Scheme.SEMI,
    labels=Labels.FEW_MASKS,
    training=Training(
        networks=(
            NetworkSpec("noise", "unet", UNET),
            NetworkSpec("heads", "pixel_heads", {"in_channels": WIDTH, "heads": 10, "width": 16}),
        ),
        stages=(
            Stage(("noise",), PredictNoise(), Material.UNLABELLED, learning_rate=1e-3, share=4.0),
            Stage(("heads",), ClassifyPixelsApart(ClassifyPixels(FEATURES, LEVELS)), Material.FEW, batch=8, learning_rate=2e-3),
        ),
    ),
)
