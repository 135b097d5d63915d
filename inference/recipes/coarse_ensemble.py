"""A denoising ensemble: smooth blobs are added and removed again, four times over; the spread is the
uncertainty.

Coarse noise after Kascenas et al., MIDL 2022 (16 x 16 cells, deviation 0.2 of their image range), asked
several times as in MHD (Behrendt et al., MICCAI 2024). No assumption on what an anomaly looks like: a second
opinion.
"""

from inference.corruptors import CoarseNoise
from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import ANOMALY_RESTORER
from inference.samplers import OneShot
from inference.scorers import Residual

COARSE_ENSEMBLE = Recipe(
    name="coarse_ensemble",
    paper="Kascenas et al., MIDL 2022",
    corruptor=CoarseNoise(cells=16, sigma=1.0),
    denoiser=CleanImage(),
    sampler=OneShot(at=(0.5,), draws=4),
    scorer=Residual(),
    postprocessor=Components(),
    scheme=Scheme.SELF_SUPERVISED,
    training=ANOMALY_RESTORER,
)
