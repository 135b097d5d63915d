"""Trainings that several recipes share: the same networks, trained once, serve each of them.

Networks are small, so that minutes on a CPU mean something: slices of 96 x 80 pixels of 2.4 mm. A published network is
had by other numbers in the same place.
"""

from inference.corruptors import CoarseNoise, Noised
from inference.noise import Noise, White
from inference.objectives import PredictNoise, RemoveAnomalies, RestoreImage
from inference.recipes.recipe import Argument, Material, NetworkSpec, Stage, Training

HEALTHY, SICK, NULL = 0, 1, 2
"""The classes that a network with classes is told of a slice; the third stands for none."""

UNET: dict[str, Argument] = {
    "stem": 2,
    "multiple": 8,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [24, 40, 64],
    "attention_levels": [False, False, False],
    "res_blocks": 1,
    "norm_groups": 8,
    "head_channels": 8,
}
"""The diffusion U-Net of noise and masks."""

RESTORER: dict[str, Argument] = {key: value for key, value in UNET.items() if key != "out_channels"}
"""The same for clean images."""

ANOMALY_RESTORER = Training(
    networks=(NetworkSpec("restorer", "restorer", RESTORER),),
    stages=(Stage(("restorer",), RemoveAnomalies(), learning_rate=1e-3),),
)
"""A restorer trained on painted anomalies."""

ANOMALY_OUTLINER = Training(
    networks=(NetworkSpec("restorer", "restorer", {**RESTORER, "evidence": 1}),),
    stages=ANOMALY_RESTORER.stages,
)
"""The same with a second channel for the outline of the anomaly."""

BLOBS = CoarseNoise(cells=16, sigma=1.6)
"""Kascenas et al., MIDL 2022: deviation 0.2 where images run from 0 to 1; here 0.2 of the range from no signal to twice the
median, 8 standardised units."""

BLOB_REMOVER = Training(
    networks=(NetworkSpec("restorer", "restorer", RESTORER),),
    stages=(Stage(("restorer",), RestoreImage(BLOBS), learning_rate=1e-3),),
)
"""A restorer trained on smooth blobs that are added all over the brain."""


def noise_predictor(noise: Noise) -> Training:
    """A network that finds the noise in healthy slices, whatever their level."""
    return Training(
        networks=(NetworkSpec("noise", "unet", UNET),),
        stages=(Stage(("noise",), PredictNoise(Noised(noise)), learning_rate=1e-3),),
    )


WHITE_NOISE = noise_predictor(White())
"""The same for white noise."""

CLASS_CONDITIONAL = Training(
    networks=(NetworkSpec("noise", "unet", {**UNET, "classes": 3}),),
    stages=(Stage(("noise",), PredictNoise(classes=NULL, drop=0.35), Material.LABELLED, learning_rate=1e-3),),
)
"""The same, told of each slice whether it shows a lesion, or for 0.35 of them (arXiv 2207.12268) nothing."""
