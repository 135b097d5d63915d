"""The residual of a plain autoencoder: a narrow code cannot hold what training never showed.

The baseline of a decade of papers (Baur et al., Medical Image Analysis 2021, arXiv 2004.03271): no noise, no levels.
"""

from inference.corruptors import Untouched
from inference.denoisers import CleanImage
from inference.objectives import RestoreImage
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.samplers import OneShot
from inference.scorers import Residual

AUTOENCODER_RESIDUAL = Recipe(
    name="autoencoder_residual",
    paper="arXiv 2004.03271",
    corruptor=Untouched(),
    denoiser=CleanImage(told=0.0, network="autoencoder"),
    sampler=OneShot(at=(0.0,)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    scheme=Scheme.BASELINE,
    training=Training(
        networks=(NetworkSpec("autoencoder", "autoencoder", {"multiple": 16, "channels": [24, 48, 64, 16], "norm_groups": 8}),),
        stages=(Stage(("autoencoder",), RestoreImage(Untouched(), "autoencoder"), learning_rate=2e-3),),
    ),
)
