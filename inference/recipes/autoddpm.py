"""AutoDDPM: what a first chain changed is masked, stitched into the scan and resampled; both maps must agree.

Bercea et al., ICML workshop 2023, arXiv 2305.19643: 200 steps from level 200 of 1000; a mask where the first map is high; from
there 49 steps from level 50, five times each, the rest of the scan known; the score is the product of both maps. Here 8 steps,
then 4 steps three times each; the mask is a fixed departure, for the paper's is chosen on lesions or by a percentile of each
image, and its LPIPS weights (trained on photographs) are left out. The geometric mean ranks as the product does.
"""

from inference.blends import Departed
from inference.corruptors import Noised
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import WHITE_NOISE
from inference.repaint import Repainted
from inference.samplers import Chain, ddpm, even_pairs
from inference.scorers import Aggregate, Residual

FIRST, STEPS = 0.2, 8
SECOND, FINER, AGAIN = 0.05, 4, 3

AUTODDPM = Recipe(
    name="autoddpm",
    paper="arXiv 2305.19643",
    corruptor=Noised(),
    denoiser=PredictedNoise(),
    sampler=Repainted(
        first=Chain(even_pairs(FIRST, 0.0, STEPS), ddpm()),
        departed=Departed(),
        pairs=even_pairs(SECOND, 0.0, FINER),
        step=ddpm(),
        again=AGAIN,
    ),
    scorer=Residual(Aggregate.GEOMETRIC, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    training=WHITE_NOISE,
)
