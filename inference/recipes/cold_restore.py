"""Cold restoration: the scan itself is taken for a corrupted one and restored in one pass, severity as time.

DISYRE (Naval Marimont et al. 2023, arXiv 2311.15453; v2 2024, arXiv 2404.04518), after cold diffusion (Bansal
et al. 2022, arXiv 2208.09392). One pass at severity 0.5 was best or equal in our trials, at a quarter of the
cost of four. A quarter of the standardised intensity is added to the residual: on development patients it
left tumours as they were and found more of the small lesions, which the residual alone loses.
"""

from inference.corruptors import Untouched
from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import ANOMALY_RESTORER
from inference.samplers import OneShot
from inference.scorers import Residual

COLD_RESTORE = Recipe(
    name="cold_restore",
    paper="arXiv 2311.15453",
    corruptor=Untouched(),
    denoiser=CleanImage(),
    sampler=OneShot(at=(0.5,)),
    scorer=Residual(intensity_weight=0.25),
    postprocessor=Components(through_sigma=0.6, one_table=True),
    scheme=Scheme.SELF_SUPERVISED,
    training=ANOMALY_RESTORER,
)
