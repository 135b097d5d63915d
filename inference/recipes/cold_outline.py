"""Cold restoration that says how sure it is: one pass restores the slice and outlines what it restored.

The restoration is DISYRE's (arXiv 2311.15453). The second channel learns the outlines of the painted anomalies, as the
discriminative half of DRAEM does (Zavrtanik et al. 2021, arXiv 2108.07610), and sees what a residual cannot: faint, diffuse and
cystic tissue inside a lesion, and ordinary bright tissue that is none. Ours: a voxel among striking neighbours weighs more.
"""

from inference.corruptors import Untouched
from inference.denoisers import Outlined
from inference.postprocess import Components, Support
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import ANOMALY_OUTLINER
from inference.samplers import OneShot
from inference.scorers import OutlinedResidual

COLD_OUTLINE = Recipe(
    name="cold_outline",
    paper="arXiv 2311.15453",
    corruptor=Untouched(),
    denoiser=Outlined(),
    sampler=OneShot(at=(0.5,)),
    scorer=OutlinedResidual(),
    postprocessor=Components(through_sigma=0.6, support=Support(above=1.25, sigma_mm=8.0, weight=2.0), one_table=True),
    scheme=Scheme.SELF_SUPERVISED,
    training=ANOMALY_OUTLINER,
)
