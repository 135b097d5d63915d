"""pDDPM: one box after another goes under noise while the rest stays clean; each is restored in one shot, then stitched.

Behrendt et al., MIDL 2023: simplex noise at level 500 of 1000, four boxes of half the slice's sides, the clean image predicted,
4 evaluations as here. The paper's loss counts the box alone; here the whole brain, where the clean part is soon learned.
"""

from inference.corruptors import Noised
from inference.denoisers import CleanImage
from inference.partial import Boxes, InBox
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import SIMPLEX, box_restorer
from inference.scorers import Residual

PDDPM = Recipe(
    name="pddpm",
    paper="Behrendt et al., MIDL 2023, arXiv 2303.03758",
    corruptor=Noised(SIMPLEX),
    denoiser=CleanImage(),
    sampler=Boxes(at=(0.5,)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    training=box_restorer(InBox(Noised(SIMPLEX))),
)
