"""BerDiff: a mask has two values, so its noise is flips; a chain of tosses makes it from even odds beside the image.

Chen, Wang and Shan, MICCAI 2023, arXiv 2304.04429: Bernoulli diffusion of 1000 steps, the network finds the flips, shorter
chains are sampled. Here 6 steps, each by the exact posterior of its stride, five samples; the schedule is linear where the
paper's is a cosine. Their mean is the map, their spread the doubt.
"""

from inference.bernoulli import BernoulliStep, PredictedFlips, TossUp
from inference.denoisers import the_image
from inference.objectives import PredictFlips
from inference.postprocess import Components
from inference.recipes.recipe import Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import UNET
from inference.samplers import Chain, Ensemble, even_pairs
from inference.scorers import MaskEnsemble

TOP, STEPS, DRAWS = 0.9, 6, 5

BERDIFF = Recipe(
    name="berdiff",
    paper="arXiv 2304.04429",
    corruptor=TossUp(),
    denoiser=PredictedFlips(beside=the_image),
    sampler=Ensemble(Chain(even_pairs(TOP, 0.0, STEPS), BernoulliStep()), DRAWS),
    scorer=MaskEnsemble(),
    postprocessor=Components(),
    scheme=Scheme.FULLY,
    labels=Labels.MASKS,
    training=Training(
        networks=(NetworkSpec("flips", "unet", {**UNET, "in_channels": 2}),),
        stages=(Stage(("flips",), PredictFlips(beside=the_image), Material.LABELLED, learning_rate=1e-3),),
    ),
)
