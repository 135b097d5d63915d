"""pDDPM: noise inside one box of the slice, clean surroundings; the answers for four boxes are stitched together.

Behrendt et al., MIDL 2023, arXiv 2303.03758: simplex noise, boxes of 48 x 48 in slices of 96 x 96, level 500 of 1000, the network
answers with the clean image, one pass for each box. Here a quarter of the slice is a box, whatever its size, and levels between
0.25 and 0.75 are trained, not all of them: minutes of training go to where the network is asked.
"""

from inference.corruptors import Noised
from inference.denoisers import CleanImage
from inference.objectives import RestoreImage
from inference.patches import Boxed, Stitched
from inference.postprocess import Components
from inference.recipes.anoddpm import SIMPLEX
from inference.recipes.recipe import NetworkSpec, Recipe, Stage, Training
from inference.recipes.trainings import RESTORER
from inference.scorers import Residual

LEVEL, TRAINED = 0.5, (0.25, 0.75)

PDDPM = Recipe(
    name="pddpm",
    paper="arXiv 2303.03758",
    corruptor=Noised(SIMPLEX),
    denoiser=CleanImage(),
    sampler=Stitched(LEVEL),
    scorer=Residual(),
    postprocessor=Components(median=3),
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", RESTORER),),
        stages=(Stage(("restorer",), RestoreImage(Boxed(Noised(SIMPLEX)), levels=TRAINED), learning_rate=1e-3),),
    ),
)
