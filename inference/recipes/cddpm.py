"""cDDPM: a code of the slice steers the network, so that strong noise costs anatomy but not the slice's own look.

Behrendt et al. 2023: simplex noise at levels 250, 500 and 750 of 1000, one shot each, the mean of three estimates; 3 evaluations
as here. The paper's encoder is a ResNet-50 trained beforehand on masked images; here a small one that learns with the rest.
"""

from inference.corruptors import Noised
from inference.denoisers import CleanImage, the_image
from inference.objectives import RestoreImage
from inference.postprocess import Components
from inference.recipes.recipe import Argument, NetworkSpec, Recipe, Stage, Training
from inference.recipes.trainings import SIMPLEX
from inference.samplers import OneShot
from inference.scorers import Residual

CONTEXT: dict[str, Argument] = {"stem": 2, "multiple": 8, "channels": [24, 40, 64], "res_blocks": 1, "norm_groups": 8, "code": 32}

CDDPM = Recipe(
    name="cddpm",
    paper="Behrendt et al. 2023, arXiv 2312.04215",
    corruptor=Noised(SIMPLEX),
    denoiser=CleanImage(beside=the_image),
    sampler=OneShot(at=(0.25, 0.5, 0.75)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    training=Training(
        networks=(NetworkSpec("restorer", "context_restorer", CONTEXT),),
        stages=(
            Stage(
                ("restorer",),
                RestoreImage(Noised(SIMPLEX), levels=(0.001, 1.0), beside=the_image),
                learning_rate=1e-3,
            ),
        ),
    ),
)
