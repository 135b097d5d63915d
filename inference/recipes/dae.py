"""A denoising autoencoder: trained to remove coarse noise, asked for the clean image of the scan itself, once.

Kascenas et al., MIDL 2022: noise of 16 x 16 cells, deviation 0.2 where images run from 0 to 1; here 0.2 of the range
from no signal to twice the median, 8 standardised units. The mask is not worn away: the map keeps the brain's rim.
"""

from inference.corruptors import CoarseNoise, Untouched
from inference.denoisers import CleanImage
from inference.objectives import RestoreImage
from inference.postprocess import Components
from inference.recipes.recipe import NetworkSpec, Recipe, Scheme, Stage, Training
from inference.recipes.trainings import RESTORER
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
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", RESTORER),),
        stages=(Stage(("restorer",), RestoreImage(CoarseNoise(cells=16, sigma=1.6)), learning_rate=1e-3),),
    ),
)
