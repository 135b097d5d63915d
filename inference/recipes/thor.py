"""THOR: a stochastic chain that lets healthy tissue back in at three levels; the map is what all levels agree on.

Bercea et al., MICCAI 2024: level 350 of 1000, blends at 300, 150 and 50, the harmonic mean of the maps there. The paper
divides each map by the image's own maximum, here a fixed departure counts as full; its LPIPS weights (trained on photographs,
to be downloaded) are left out, the smoothed residual stands alone. 14 steps of 25 in place of 350.
"""

from inference.blends import Harmonised
from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import WHITE_NOISE
from inference.samplers import Chain, ddpm, pairs_through
from inference.scorers import Aggregate, Residual, smoothed_difference

LEVELS = tuple(round(0.35 - 0.025 * n, 3) for n in range(15))
BLENDED = (0.3, 0.15, 0.05)

THOR = Recipe(
    name="thor",
    paper="Bercea et al., MICCAI 2024, arXiv 2403.08464",
    corruptor=Noised(),
    denoiser=PredictedNoise(),
    sampler=Chain(pairs_through(LEVELS), ddpm(), Harmonised(at=BLENDED)),
    scorer=Residual(Aggregate.HARMONIC, distance=smoothed_difference, healthy=Aggregate.LAST, levels=BLENDED),
    postprocessor=Components(),
    training=WHITE_NOISE,
)
