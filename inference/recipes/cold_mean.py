"""Cold restoration, averaged over four severities that are asked independently: DISYRE's single-step mean.

Naval Marimont et al. 2023, arXiv 2311.15453. The spread over severities is the uncertainty.
"""

from inference.corruptors import Untouched
from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import ANOMALY_RESTORER
from inference.samplers import OneShot
from inference.scorers import Residual

COLD_MEAN = Recipe(
    name="cold_mean",
    paper="arXiv 2311.15453",
    corruptor=Untouched(),
    denoiser=CleanImage(),
    sampler=OneShot(at=(0.25, 0.5, 0.75, 1.0)),
    scorer=Residual(intensity_weight=0.25),
    postprocessor=Components(through_sigma=0.6, one_table=True),
    scheme=Scheme.SELF_SUPERVISED,
    training=ANOMALY_RESTORER,
)
