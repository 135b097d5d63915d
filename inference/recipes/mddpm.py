"""mDDPM: the boxes of pDDPM, learned from slices of which cells and frequencies were hidden before the noise.

Iqbal et al. 2023: patches of the image and of its spectrum are masked in training, so that the network must know anatomy and not
copy its surroundings; inference is pDDPM's, 4 evaluations. A share of 0.3 of 6 x 6 cells and of the spectrum's patches here.
"""

from inference.corruptors import Noised
from inference.denoisers import CleanImage
from inference.partial import Boxes, HiddenCells, HiddenFrequencies, InBox, InTurn
from inference.postprocess import Components
from inference.recipes.recipe import Recipe
from inference.recipes.trainings import SIMPLEX, box_restorer
from inference.scorers import Residual

LEARNED = InTurn((HiddenCells(cells=6, share=0.3), HiddenFrequencies(cells=6, share=0.3), InBox(Noised(SIMPLEX))))

MDDPM = Recipe(
    name="mddpm",
    paper="Iqbal et al. 2023, arXiv 2305.19867",
    corruptor=Noised(SIMPLEX),
    denoiser=CleanImage(),
    sampler=Boxes(at=(0.5,)),
    scorer=Residual(),
    postprocessor=Components(median=3),
    training=box_restorer(LEARNED),
)
