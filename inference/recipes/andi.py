"""ANDi: no chain at all; at many low levels of noise, how far the network's step to the next level misses the true one.

Frotscher et al. 2023, arXiv 2312.01904: geometric mean of (mu_q - mu_theta)^2 over levels 75 to 200 of 1000, trained with
pyramid noise, asked with white noise. For a given x_t the two means differ by a factor of the level times x0 - x0_hat, and a
factor of the level scales a geometric mean as a whole: the map is that of |x0 - x0_hat|. Ten of the 125 levels are asked.
"""

from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.noise import Pyramid
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import noise_predictor
from inference.samplers import OneShot
from inference.scorers import Aggregate, Residual

ANDI = Recipe(
    name="andi",
    paper="arXiv 2312.01904",
    corruptor=Noised(),
    denoiser=PredictedNoise(),
    sampler=OneShot(at=tuple(round(0.075 + 0.0125 * n, 4) for n in range(10))),
    scorer=Residual(Aggregate.GEOMETRIC),
    postprocessor=Components(median=5),
    training=noise_predictor(Pyramid(discount=0.8)),
)
