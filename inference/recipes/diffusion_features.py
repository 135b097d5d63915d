"""Diffusion features: what a noise network makes of a slice at three levels, judged pixel by pixel by ten perceptrons.

Baranchuk et al. 2021, arXiv 2112.03126 (for brain tumours after Alshenoudy et al.): levels 50, 150 and 250 of
1000 with one noise, decoder activations enlarged to the image, an ensemble of pixel classifiers trained on a few masks.
"""

from inference.corruptors import Noised
from inference.denoisers import Features
from inference.objectives import ClassifyPixels, PredictNoise
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import OneShot
from inference.scorers import PixelVote

LEVELS = (0.05, 0.15, 0.25)
BLOCKS = (1, 2)
WIDTH = 40 + 24
"""Channels of the two finer up-blocks."""
FEATURES = Features(BLOCKS)

DIFFUSION_FEATURES = Recipe(
    name="diffusion_features",
    paper="arXiv 2112.03126",
    corruptor=Noised(),
    denoiser=FEATURES,
    sampler=OneShot(at=LEVELS),
    scorer=PixelVote(),
    postprocessor=Components(),
    scheme=Scheme.SEMI,
    labels=Labels.FEW_MASKS,
    training=Training(
        networks=(
            NetworkSpec("noise", "unet", UNET),
            NetworkSpec("heads", "pixel_heads", {"in_channels": WIDTH * len(LEVELS), "heads": 10, "width": 16}),
        ),
        stages=(
            Stage(("noise",), PredictNoise(), Material.UNLABELLED, learning_rate=1e-3, share=4.0),
            Stage(("heads",), ClassifyPixels(FEATURES, LEVELS), Material.FEW, batch=8, learning_rate=2e-3),
        ),
    ),
)
