"""Classifier guidance: the image is inverted unguided and decoded along the gradient of a classifier towards health.

Wolleb et al., MICCAI 2022, arXiv 2203.04306: DDIM to 500 of 1000 and back, scale 100, classifier trained on noised images
with one label each. 10 steps each way in place of 500. The paper's images run from -1 to 1 and have more pixels; in our units
its scale holds only in order of magnitude.
"""

from inference.corruptors import Inversion
from inference.denoisers import ClassifierGuided, PredictedNoise
from inference.objectives import ClassifyNoised, PredictNoise
from inference.postprocess import Components
from inference.recipes.recipe import Argument, Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import Chain, Ddim, even_pairs
from inference.scorers import Aggregate, Residual

HEALTHY = 0
FIRST, TOP, STEPS = 0.001, 0.5, 10
CLASSIFIER: dict[str, Argument] = {
    "stem": 2,
    "multiple": 16,
    "in_channels": 1,
    "channels": [24, 40, 64],
    "res_blocks": 1,
    "norm_groups": 8,
    "classes": 2,
}

CLASSIFIER_GUIDED = Recipe(
    name="classifier_guided",
    paper="arXiv 2203.04306",
    corruptor=Inversion(PredictedNoise(), even_pairs(FIRST, TOP, STEPS)),
    denoiser=ClassifierGuided(PredictedNoise(), towards=HEALTHY, scale=100.0),
    sampler=Chain(even_pairs(TOP, FIRST, STEPS), Ddim()),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.WEAKLY,
    labels=Labels.IMAGE,
    training=Training(
        networks=(NetworkSpec("noise", "unet", UNET), NetworkSpec("classifier", "noisy_classifier", CLASSIFIER)),
        stages=(
            Stage(("noise",), PredictNoise(), Material.LABELLED, learning_rate=1e-3, share=2.0),
            Stage(("classifier",), ClassifyNoised(), Material.LABELLED, learning_rate=1e-3),
        ),
    ),
)
