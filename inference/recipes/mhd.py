"""MHD: ten healthy estimates from ten draws of simplex noise; the map is the image's distance from their distribution.

Behrendt et al., MICCAI 2024: level 500 of 1000, 10 draws, Mahalanobis distance pixel by pixel times 1 - SSIM. The context
encoder of the paper's cDDPM is left out.
"""

from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.anoddpm import SIMPLEX
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import noise_predictor
from inference.samplers import OneShot
from inference.scorers import Mahalanobis

MHD = Recipe(
    name="mhd",
    paper="Behrendt et al., MICCAI 2024",
    corruptor=Noised(SIMPLEX),
    denoiser=PredictedNoise(),
    sampler=OneShot(at=(0.5,), draws=10),
    scorer=Mahalanobis(floor=0.5),
    postprocessor=Components(),
    training=noise_predictor(SIMPLEX),
)
