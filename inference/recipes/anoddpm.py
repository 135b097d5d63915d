"""AnoDDPM: simplex noise destroys lesions up to a quarter of the chain, a stochastic chain paints a healthy brain.

Wyatt et al., CVPR workshops 2022: simplex noise of 6 octaves, persistence 0.8, period 64 pixels of 256 across (here the
same 60 mm: 24 pixels of 2.4 mm), level 250 of 1000. The paper steps one by one; 10 steps of 25 are taken here, each with
the signal and noise that the network is told.
"""

from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.noise import Simplex
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import noise_predictor
from inference.samplers import Chain, ddpm, even_pairs
from inference.scorers import Aggregate, Residual, squared_difference

SIMPLEX = Simplex(period=24.0, octaves=6, persistence=0.8)

ANODDPM = Recipe(
    name="anoddpm",
    paper="Wyatt et al., CVPR workshops 2022",
    corruptor=Noised(SIMPLEX),
    denoiser=PredictedNoise(),
    sampler=Chain(even_pairs(0.25, 0.0, 10), ddpm(noise=SIMPLEX)),
    scorer=Residual(Aggregate.LAST, distance=squared_difference, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    training=noise_predictor(SIMPLEX),
)
