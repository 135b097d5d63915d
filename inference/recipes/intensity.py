"""Raw intensity, no network: how much brighter or darker than the brain's median a voxel is.

The baseline that any method for FLAIR must beat (Meissen et al. 2021, arXiv 2109.06023), on the same mask and scale.
"""

from inference.corruptors import Untouched
from inference.denoisers import BrainMedian
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.samplers import OneShot
from inference.scorers import Residual

INTENSITY = Recipe(
    name="intensity",
    paper="arXiv 2109.06023",
    corruptor=Untouched(),
    denoiser=BrainMedian(),
    sampler=OneShot(at=(0.0,)),
    scorer=Residual(),
    postprocessor=Components(),
    scheme=Scheme.BASELINE,
)
