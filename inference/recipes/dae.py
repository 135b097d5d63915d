"""A denoising autoencoder: trained to remove coarse noise, asked for the clean image of the scan itself, once.

Kascenas et al., MIDL 2022. The mask is not worn away: the map keeps the brain's rim.
"""

from inference.corruptors import Untouched
from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import BLOB_REMOVER
from inference.samplers import OneShot
from inference.scorers import Residual

DAE = Recipe(
    name="dae",
    paper="Kascenas et al., MIDL 2022",
    corruptor=Untouched(),
    denoiser=CleanImage(told=1.0),
    sampler=OneShot(at=(0.0,)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    scheme=Scheme.SELF_SUPERVISED,
    training=BLOB_REMOVER,
)
