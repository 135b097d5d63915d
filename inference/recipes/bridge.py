"""A diffusion bridge: from the slice, not from noise, down to its healthy self; the slice stays in sight.

Denoising diffusion bridge models (arXiv 2309.16948) for anomalies as in arXiv 2510.13684, trained on synthetic ones. A Brownian
bridge with the clean image predicted, 4 steps; the deviation of half a standardised unit is an eighth of the brain's median.
"""

from inference.bridges import Bridge
from inference.corruptors import Untouched
from inference.denoisers import CleanImage, the_image
from inference.painted import CrossBridge
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import RESTORER
from inference.samplers import Chain, even_pairs
from inference.scorers import Aggregate, Residual

BROWNIAN = Bridge(spread=0.5)

BRIDGE = Recipe(
    name="bridge",
    paper="arXiv 2510.13684",
    corruptor=Untouched(),
    denoiser=CleanImage(beside=the_image),
    sampler=Chain(even_pairs(1.0, 0.0, 4), BROWNIAN),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", {**RESTORER, "in_channels": 2}),),
        stages=(Stage(("restorer",), CrossBridge(BROWNIAN), learning_rate=1e-3),),
    ),
)
