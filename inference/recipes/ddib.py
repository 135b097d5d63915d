"""DDIB: the image climbs to noise as one of its own class, sick, and comes down from it as a healthy one.

Su et al. 2022, arXiv 2203.08382: two deterministic chains meet in one noise, so that what both classes share is kept. One
class-conditional network stands for the paper's two models, without guidance. Which class a slice belongs to is not known here:
each is taken for a sick one. 10 steps each way to half of the chain, the paper's go to its end; 450 in the comparison of AnoFPDM.
"""

from inference.corruptors import Inversion
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Recipe, Scheme
from inference.recipes.trainings import CLASS_CONDITIONAL, HEALTHY, SICK
from inference.samplers import Chain, Ddim, even_pairs
from inference.scorers import Aggregate, Residual

FIRST, TOP, STEPS = 0.001, 0.5, 10

DDIB = Recipe(
    name="ddib",
    paper="arXiv 2203.08382",
    corruptor=Inversion(PredictedNoise(label=SICK), even_pairs(FIRST, TOP, STEPS)),
    denoiser=PredictedNoise(label=HEALTHY),
    sampler=Chain(even_pairs(TOP, FIRST, STEPS), Ddim()),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.WEAKLY,
    labels=Labels.IMAGE,
    training=CLASS_CONDITIONAL,
)
