"""Classifier-free guidance: the image is inverted without a label and decoded towards health, dynamically normalised.

Sanchez et al. 2022 (Diff-SCM, "What is healthy?", arXiv 2207.12268): DDIM to 0.75 of the chain and back, guidance weight 3,
label dropped for 0.35 of the slices. Here to 0.5 of a chain of 1000, in 10 steps each way in place of 75.
"""

from inference.corruptors import Inversion
from inference.denoisers import ClassifierFree, DynamicallyNormalised, PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Recipe, Scheme
from inference.recipes.trainings import CLASS_CONDITIONAL, HEALTHY, NULL
from inference.samplers import Chain, Ddim, even_pairs
from inference.scorers import Aggregate, Residual

FIRST, TOP, STEPS = 0.001, 0.5, 10

CLASSIFIER_FREE = Recipe(
    name="classifier_free",
    paper="arXiv 2207.12268",
    corruptor=Inversion(PredictedNoise(label=NULL), even_pairs(FIRST, TOP, STEPS)),
    denoiser=DynamicallyNormalised(ClassifierFree(towards=HEALTHY, null=NULL, weight=3.0)),
    sampler=Chain(even_pairs(TOP, FIRST, STEPS), Ddim()),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.WEAKLY,
    labels=Labels.IMAGE,
    training=CLASS_CONDITIONAL,
)
