"""Histogram-equalised intensity, no network: how many of the slice's brain pixels are darker.

The stronger of the two baselines that any method for FLAIR must beat (Meissen et al. 2021, arXiv 2109.06023). The rank is
taken within each slice, from 0 for the darkest pixel of its brain to 1 for the brightest.
"""

from inference.corruptors import Untouched
from inference.denoisers import BrainMedian
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.samplers import OneShot
from inference.scorers import Ranked

EQUALISED = Recipe(
    name="equalised",
    paper="arXiv 2109.06023",
    corruptor=Untouched(),
    denoiser=BrainMedian(),
    sampler=OneShot(at=(0.0,)),
    scorer=Ranked(),
    postprocessor=Components(),
    scheme=Scheme.BASELINE,
)
