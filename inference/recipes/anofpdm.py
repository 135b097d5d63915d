"""AnoFPDM: the forward process alone; guidance pulls each estimate to health, and the climb ends where it pulls hardest.

Che et al. 2024, arXiv 2404.15683: DDIM inversion without a class to level 600 of 1000, at every step an estimate guided to
health (w = 2, which is weight 3 here) and one without; squared residuals are averaged up to the step where the two part most,
median 5, and cut off at a quantile that follows from how far they part. 12 levels in place of 600, 24 evaluations in place of
1200; the label is dropped for 0.35 of the training slices, not 0.1, so that the training is shared.
"""

from inference.corruptors import Untouched
from inference.denoisers import ClassifierFree, GuidedAndNot
from inference.forward import ForwardResidual, unguided
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Recipe, Scheme
from inference.recipes.trainings import CLASS_CONDITIONAL, HEALTHY, NULL
from inference.samplers import Chain, Ddim, even_pairs

FIRST, TOP, STEPS = 0.001, 0.6, 12
FULL = 0.09
"""The largest M_t of 28 training slices with a lesion, each with more than 40 marked pixels; 475 training steps."""

ANOFPDM = Recipe(
    name="anofpdm",
    paper="arXiv 2404.15683",
    corruptor=Untouched(),
    denoiser=GuidedAndNot(ClassifierFree(towards=HEALTHY, null=NULL, weight=3.0)),
    sampler=Chain(even_pairs(FIRST, TOP, STEPS), Ddim(), blend=unguided),
    scorer=ForwardResidual(full=FULL),
    postprocessor=Components(),
    scheme=Scheme.WEAKLY,
    labels=Labels.IMAGE,
    training=CLASS_CONDITIONAL,
)
