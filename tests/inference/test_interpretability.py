"""What the reader is shown does what it claims: the healthy estimate and the sign of the residual.

With the shipped bundle on heads made by code, whose healthy image is known to the voxel because lesions are inserted into it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from highdicom import Volume

import inference
from inference.data import axial_volume
from inference.evaluation.fidelity import fidelity
from inference.localizer import Context, RawMaps, RecipeLocalizer, load_localizer
from inference.phantom import synthetic_head
from inference.phantom.insertion import Inserted, insert_lesions
from inference.preprocess import UNIT, brain_median, standardise

pytestmark = pytest.mark.feature("L6")


@pytest.fixture(scope="module")
def localizer() -> RecipeLocalizer:
    """The shipped bundle."""
    found = load_localizer(Path(inference.__file__).parent / "models" / "brain-flair", device="cpu")
    assert isinstance(found, RecipeLocalizer)
    return found


@pytest.fixture(scope="module")
def healthy() -> Volume:
    """A lesion-free head."""
    head = synthetic_head(seed=21, shape=(18, 180, 160), spacing_mm=(7.0, 1.25, 1.25), lesions=0)
    return axial_volume(head.image, head.spacing_mm)


@pytest.fixture(scope="module")
def before(localizer: RecipeLocalizer, healthy: Volume) -> RawMaps:
    """The maps of the head itself."""
    return localizer.raw_maps(healthy, Context())


def painted(healthy: Volume, brain: np.ndarray, contrast: float) -> Inserted:
    """The head with up to three lesions of 20 mm."""
    spacing = (healthy.spacing[0], healthy.spacing[1], healthy.spacing[2])
    image = np.asarray(healthy.array, dtype=np.float32)
    rng = np.random.default_rng(4)
    return insert_lesions(image, brain, spacing, diameter_mm=20.0, contrast=contrast, count=3, rng=rng)


@pytest.mark.slow
def test_the_healthy_estimate_is_the_input_where_nothing_departs(healthy: Volume, before: RawMaps) -> None:
    image = np.asarray(healthy.array, dtype=np.float32)
    median = brain_median(image, before.brain)
    own, estimate = (standardise(part, before.brain, median) for part in (image, before.healthy))

    found = fidelity(own, estimate, np.zeros(image.shape, bool), before.brain)

    assert np.array_equal(before.healthy[~before.brain], image[~before.brain])
    assert found.mae < 0.05 * UNIT  # a twentieth of the brain's median signal
    assert found.ssim > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("contrast", "left"), [(0.6, 0.8), (-0.5, 0.95)], ids=["bright", "dark"])
def test_the_residual_has_the_sign_of_the_lesion_and_the_estimate_comes_closer_to_the_truth(
    localizer: RecipeLocalizer, healthy: Volume, before: RawMaps, contrast: float, left: float
) -> None:
    made = painted(healthy, before.brain, contrast)
    maps = localizer.raw_maps(healthy.with_array(made.image), Context())
    lesion = made.lesion & maps.brain
    truth = np.asarray(healthy.array, dtype=np.float32)

    inside, outside = float(np.mean(maps.raw[lesion])), float(np.mean(maps.raw[maps.brain & ~lesion]))

    assert made.count >= 1
    assert np.sign(inside) == np.sign(contrast)
    assert abs(inside) > 5 * abs(outside)
    apart = [float(np.mean(np.abs(image[lesion] - truth[lesion]))) for image in (made.image, maps.healthy)]
    assert apart[1] < left * apart[0]  # how much of a lesion is left: of dark ones the shipped network takes an eighth away


def test_one_estimate_has_no_uncertainty_to_show(before: RawMaps) -> None:
    assert before.uncertainty is None
