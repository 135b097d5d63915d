"""FDP in front of a denoising autoencoder: healthy low frequencies first, then the details are restored over them.

arXiv 2511.12899: frequencies within 0.1 of the image's size give way to a mixture of 128 learned healthy contexts, then any
method follows; here the denoising autoencoder (`dae`), 1 evaluation and the attention. Contexts on a grid of 24 x 20 cells.
"""

from inference.corruptors import CoarseNoise
from inference.denoisers import CleanImage
from inference.frequencies import HealthyContext, LearnContexts
from inference.objectives import RestoreImage
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import RESTORER
from inference.samplers import OneShot
from inference.scorers import Residual

FDP_DAE = Recipe(
    name="fdp_dae",
    paper="arXiv 2511.12899",
    corruptor=HealthyContext(),
    denoiser=CleanImage(told=1.0),
    sampler=OneShot(at=(0.0,)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(
            NetworkSpec("contexts", "context_bank", {"entries": 128, "rows": 24, "columns": 20, "width": 64}),
            NetworkSpec("restorer", "restorer", RESTORER),
        ),
        stages=(
            Stage(("contexts",), LearnContexts(HealthyContext()), learning_rate=1e-3, share=0.25),
            Stage(("restorer",), RestoreImage(HealthyContext(CoarseNoise(cells=16, sigma=1.6))), learning_rate=1e-3),
        ),
    ),
)
