"""AutoDDPM: a first chain finds what may be sick, a second paints only that anew; what both call unusual is the map.

Bercea et al. 2023: level 200 of 1000 and back; a mask of the departures, widened by 3 x 3; RePaint from level 50 with 5
resamplings a step; the two maps multiplied. Here 8 steps and 3 times 5 (the paper's 200 and 49 times 5), a fixed departure in
place of the 95th percentile of the image, no perceptual distance; the geometric mean, which ranks as the product does.
"""

from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import WHITE_NOISE
from inference.repaint import Doubtful, Repainted
from inference.samplers import Chain, ddpm, even_pairs
from inference.scorers import Aggregate, Residual

FIRST, SECOND = even_pairs(0.2, 0.0, 8), even_pairs(0.06, 0.0, 3)
ENDS = (FIRST[-1][0], SECOND[-1][0])

AUTODDPM = Recipe(
    name="autoddpm",
    paper="Bercea et al. 2023, arXiv 2305.19643",
    corruptor=Noised(),
    denoiser=PredictedNoise(),
    sampler=Repainted(Chain(FIRST, ddpm()), Doubtful(above=0.75), SECOND, ddpm(), rounds=5),
    scorer=Residual(Aggregate.GEOMETRIC, healthy=Aggregate.LAST, levels=ENDS),
    postprocessor=Components(median=3),
    training=WHITE_NOISE,
)
