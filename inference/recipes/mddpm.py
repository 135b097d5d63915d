"""mDDPM: pDDPM whose training also hides patches of the image and of its spectrum; at run time nothing is hidden.

Iqbal et al., MLMI 2023, arXiv 2305.19867. Here both kinds are hidden in every slice, each up to 0.4 of what there is, and then
one box is noised; the run is that of pDDPM.
"""

from dataclasses import replace

from inference.corruptors import InTurn, Noised
from inference.hiding import HiddenFrequencies, HiddenPatches
from inference.objectives import RestoreImage
from inference.patches import Boxed
from inference.recipes.anoddpm import SIMPLEX
from inference.recipes.pddpm import PDDPM, TRAINED
from inference.recipes.recipe import NetworkSpec, Stage, Training
from inference.recipes.trainings import RESTORER

MASKED = InTurn((HiddenPatches(), HiddenFrequencies(), Boxed(Noised(SIMPLEX))))

MDDPM = replace(
    PDDPM,
    name="mddpm",
    paper="arXiv 2305.19867",
    training=Training(
        networks=(NetworkSpec("restorer", "restorer", RESTORER),),
        stages=(Stage(("restorer",), RestoreImage(MASKED, levels=TRAINED), learning_rate=1e-3),),
    ),
)
