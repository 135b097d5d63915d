"""Cold restoration in four steps of falling severity; the last estimate is the pseudo-healthy image.

DISYRE's multi-step inference (Naval Marimont et al. 2023, arXiv 2311.15453) with the step of cold diffusion
(Bansal et al. 2022, arXiv 2208.09392, algorithm 2).
"""

from inference.corruptors import Untouched
from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import ANOMALY_RESTORER
from inference.samplers import Chain, Cold, pairs_through
from inference.scorers import Aggregate, Residual

COLD_STEPS = Recipe(
    name="cold_steps",
    paper="arXiv 2311.15453",
    corruptor=Untouched(),
    denoiser=CleanImage(),
    sampler=Chain(pairs=pairs_through((1.0, 0.75, 0.5, 0.25, 0.0)), step=Cold()),
    scorer=Residual(aggregate=Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(),
    scheme=Scheme.SELF_SUPERVISED,
    training=ANOMALY_RESTORER,
)
