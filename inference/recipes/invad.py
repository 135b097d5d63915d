"""InvAD: nothing is reconstructed; three steps of inversion lead a healthy code to the prior, and where it misses is the map.

Sakai and Hasegawa, arXiv 2504.05662: features of a frozen EfficientNet-B4, DDIM inversion over levels 333, 666 and 999, the
deviation of the end from the standard normal. A gate for whole studies first, as the score of a slice is added to each of its
places; coarse as a map. Here the code of the Gaussian codec stands for features, which would have to be downloaded.
"""

from inference.code_scores import PriorDeviation
from inference.codec_objectives import OnCodes
from inference.codecs import Arrival, CodeShown, InLatent
from inference.corruptors import Inversion
from inference.denoisers import PredictedNoise
from inference.objectives import PredictNoise
from inference.postprocess import Components
from inference.recipes.codes import KL, KL_NETWORKS, KL_STAGE, LATENT, code_unet
from inference.recipes.recipe import NetworkSpec, Recipe, Stage, Training
from inference.samplers import pairs_through

FIRST, TOP = 0.02, 0.999

INVAD = Recipe(
    name="invad",
    paper="arXiv 2504.05662",
    corruptor=Inversion(PredictedNoise(), pairs_through((FIRST, 0.333, 0.666, TOP))),
    denoiser=PredictedNoise(),
    sampler=InLatent(Arrival(TOP), CodeShown(KL)),
    scorer=PriorDeviation(),
    postprocessor=Components(),
    training=Training(
        networks=(*KL_NETWORKS, NetworkSpec("noise", "unet", code_unet(LATENT, LATENT))),
        stages=(KL_STAGE, Stage(("noise",), OnCodes(KL, PredictNoise()), learning_rate=1e-3)),
    ),
)
