"""PatchDDM: mask diffusion in three dimensions, learned on crops that know where they lie, asked for the whole volume at once.

Bieder et al., MIDL 2023, arXiv 2303.15288: crops of half the volume along each axis, coordinates as channels, no attention, skips
added; DDIM; 256 x 256 x 256 voxels. Here skips are joined, as MONAI's are, coordinates are counted from the rims of the brain,
and the third axis is as coarse as the study's own slices are. 6 steps, 3 samples.

Memory of one training step, measured on a CPU: 0.14 GB on one crop, 0.30 GB on the volume of 24 x 96 x 80 voxels; with 8
channels and four times the pixels 0.3 against 6.4 GB.
"""

from inference.corruptors import NoiseAlone
from inference.denoisers import PredictedNoise
from inference.postprocess import Components
from inference.recipes.recipe import Argument, Labels, Material, NetworkSpec, Recipe, Scheme, Stage, Training, Unit
from inference.samplers import Chain, Ddim, Ensemble, even_pairs
from inference.scorers import MaskEnsemble
from inference.volumes import AsVolume, PredictNoiseInCrops, the_image_and_place

TOP, STEPS, DRAWS = 0.9, 6, 3
CROP = (12, 48, 40)
VOLUME_UNET: dict[str, Argument] = {
    "stem": 2,
    "multiple": 8,
    "in_channels": 5,
    "channels": [16, 24, 40],
    "res_blocks": 1,
    "norm_groups": 8,
}

PATCHDDM = Recipe(
    name="patchddm",
    paper="arXiv 2303.15288",
    corruptor=NoiseAlone(),
    denoiser=AsVolume(PredictedNoise(beside=the_image_and_place)),
    sampler=Ensemble(Chain(even_pairs(TOP, 0.0, STEPS), Ddim()), DRAWS),
    scorer=MaskEnsemble(),
    postprocessor=Components(),
    scheme=Scheme.FULLY,
    labels=Labels.MASKS,
    unit=Unit.VOLUME,
    training=Training(
        networks=(NetworkSpec("noise", "volume_unet", VOLUME_UNET),),
        stages=(Stage(("noise",), PredictNoiseInCrops(CROP, the_image_and_place), Material.LABELLED, learning_rate=1e-3),),
    ),
)
