"""cDDPM: a context vector of the clean slice tells the network how bright and contrasted what it restores should be.

Behrendt et al. 2023, arXiv 2312.04215: one-shot estimates at levels 250, 500 and 750 of 1000, averaged; a ResNet50 pretrained by
masking gives 128 numbers that scale and shift the features of every residual block. Here a small encoder gives 64 and learns
with the restorer, without pretraining.
"""

from inference.corruptors import Noised
from inference.denoisers import CleanImage, the_image
from inference.objectives import RestoreImage
from inference.postprocess import Components
from inference.recipes.anoddpm import SIMPLEX
from inference.recipes.recipe import Argument, NetworkSpec, Recipe, Stage, Training
from inference.samplers import OneShot
from inference.scorers import Residual

CONTEXT_RESTORER: dict[str, Argument] = {
    "stem": 2,
    "multiple": 8,
    "channels": [24, 40, 64],
    "context": 64,
    "res_blocks": 1,
    "norm_groups": 8,
}

CDDPM = Recipe(
    name="cddpm",
    paper="arXiv 2312.04215",
    corruptor=Noised(SIMPLEX),
    denoiser=CleanImage(beside=the_image),
    sampler=OneShot(at=(0.25, 0.5, 0.75)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    training=Training(
        networks=(NetworkSpec("restorer", "context_restorer", CONTEXT_RESTORER),),
        stages=(
            Stage(
                ("restorer",),
                RestoreImage(Noised(SIMPLEX), levels=(0.2, 0.8), beside=the_image),
                learning_rate=1e-3,
            ),
        ),
    ),
)
