"""REFLECT: a straight flow from the code of a slice with an anomaly to that of the healthy one, taken in one Euler step.

Beizaee et al., MICCAI 2025, arXiv 2508.02889: rectified flow between codes of corrupted and clean slices, one step; the map is
half the decoded difference from D(E(x)), cut off at 0.4, and half the difference of the codes, each under a Gaussian. Here the
corrupted slices have the painted anomalies of the other self-supervised recipes, and the Gaussians 1 pixel of 2.4 mm.
"""

from inference.code_scores import ImageAndCode
from inference.codec_objectives import FlowFromAnomalies
from inference.codecs import BothShown, InLatent
from inference.corruptors import Untouched
from inference.postprocess import Components
from inference.recipes.codes import KL, KL_NETWORKS, KL_STAGE, LATENT, code_unet
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.samplers import OneShot
from inference.selective import Velocity

REFLECT = Recipe(
    name="reflect",
    paper="arXiv 2508.02889",
    corruptor=Untouched(),
    denoiser=Velocity(),
    sampler=InLatent(OneShot(at=(1.0,)), BothShown(KL)),
    scorer=ImageAndCode(),
    postprocessor=Components(),
    scheme=Scheme.SELF_SUPERVISED,
    training=Training(
        networks=(*KL_NETWORKS, NetworkSpec("velocity", "unet", code_unet(LATENT, LATENT))),
        stages=(KL_STAGE, Stage(("velocity",), FlowFromAnomalies(KL), learning_rate=1e-3)),
    ),
)
