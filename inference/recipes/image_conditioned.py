"""Image-conditioned restoration: from pure noise to the healthy slice, the scan beside it, learnt from painted anomalies.

Baugh et al., MICCAI workshops 2024: a U-Net finds the noise, 50 steps of DDIM, no guidance; ten networks are optional. Here the
network answers with the clean slice as a change of the scan, which holds at high levels after minutes of training, and 8 steps
are taken. Set STEPS for the published cost.
"""

from inference.corruptors import NoiseAlone, Noised
from inference.denoisers import CleanImage, the_image
from inference.objectives import RepairPainted
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import RESTORER
from inference.samplers import Chain, Ddim, even_pairs
from inference.scorers import Aggregate, Residual

STEPS = 8

IMAGE_CONDITIONED = Recipe(
    name="image_conditioned",
    paper="Baugh et al., MICCAI workshops 2024",
    corruptor=NoiseAlone(),
    denoiser=CleanImage(beside=the_image),
    sampler=Chain(even_pairs(1.0, 0.0, STEPS), Ddim()),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", {**RESTORER, "in_channels": 2, "change_of": 1}),),
        stages=(Stage(("restorer",), RepairPainted(Noised()), learning_rate=1e-3),),
    ),
)
