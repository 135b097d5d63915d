"""A denoising ensemble: smooth blobs are added and removed again, four times over; the spread is the
uncertainty.

Coarse noise after Kascenas et al., MIDL 2022 (16 x 16 cells, deviation 0.2 of their image range), asked
several times as in MHD (Behrendt et al., MICCAI 2024). The network is the one that learned to remove just this
noise: one that never saw it is no surer where it is right. No assumption on what an anomaly looks like: a
second opinion.
"""

from inference.denoisers import CleanImage
from inference.postprocess import Components
from inference.recipes.recipe import Recipe, Scheme
from inference.recipes.trainings import BLOB_REMOVER, BLOBS
from inference.samplers import OneShot
from inference.scorers import Residual

COARSE_ENSEMBLE = Recipe(
    name="coarse_ensemble",
    paper="Kascenas et al., MIDL 2022",
    corruptor=BLOBS,
    denoiser=CleanImage(),
    sampler=OneShot(at=(1.0,), draws=4),
    scorer=Residual(),
    postprocessor=Components(),
    scheme=Scheme.SELF_SUPERVISED,
    training=BLOB_REMOVER,
)
