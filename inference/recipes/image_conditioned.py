"""Image-conditioned restoration: a healthy slice is made from noise alone, the sick one shown beside it at every step.

Baugh et al. 2024: trained to make the healthy slice behind a synthetic anomaly, 50 steps from pure noise without guidance, the
difference as map. 10 steps here, on this project's painted anomalies.
"""

from inference.corruptors import NoiseAlone
from inference.denoisers import PredictedNoise, the_image
from inference.painted import RestoreFromNoise
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import Chain, Ddim, even_pairs
from inference.scorers import Aggregate, Residual

TOP, STEPS = 0.9, 10

IMAGE_CONDITIONED = Recipe(
    name="image_conditioned",
    paper="Baugh et al. 2024, image-conditioned diffusion for anomaly detection",
    corruptor=NoiseAlone(),
    denoiser=PredictedNoise(beside=the_image),
    sampler=Chain(even_pairs(TOP, 0.0, STEPS), Ddim()),
    scorer=Residual(Aggregate.LAST, healthy=Aggregate.LAST),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(NetworkSpec("noise", "unet", {**UNET, "in_channels": 2}),),
        stages=(Stage(("noise",), RestoreFromNoise(), learning_rate=1e-3),),
    ),
)
