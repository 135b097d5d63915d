"""A diffusion bridge: the chain starts at the scan itself and ends at its healthy self, learnt from painted anomalies.

Denoising diffusion bridges (Zhou et al. 2023, arXiv 2309.16948) from the anomalous image to the healthy one, as in arXiv
2510.13684. Here the Brownian bridge of BBDM, half a standardised unit of noise at most, in 5 steps.
"""

from inference.bridges import Bridged, BridgeStep
from inference.denoisers import CleanImage, the_image
from inference.objectives import RepairPainted
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import RESTORER
from inference.samplers import Chain, even_pairs
from inference.scorers import Aggregate, Residual

WIDTH, STEPS = 1.0, 5

BRIDGE = Recipe(
    name="bridge",
    paper="arXiv 2510.13684",
    corruptor=Bridged(WIDTH),
    denoiser=CleanImage(beside=the_image),
    sampler=Chain(even_pairs(1.0, 0.0, STEPS), BridgeStep(WIDTH)),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", {**RESTORER, "in_channels": 2}),),
        stages=(Stage(("restorer",), RepairPainted(Bridged(WIDTH)), learning_rate=1e-3),),
    ),
)
