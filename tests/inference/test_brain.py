"""The brain mask is one piece without holes on the grid it was asked for; the shipped one finds real and synthetic brains."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from torch import Tensor, nn

from inference.brain import BrainMask, clean, normalise_head, without_neck, without_scalp
from inference.bundle import load_bundle
from inference.data import Lgg, axial_volume, nichart
from inference.phantom import synthetic_head
from inference.preprocess import prepare
from tests.data import data_folder

pytestmark = pytest.mark.feature("R6")

BUNDLE = Path(__file__).parents[2] / "inference" / "models" / "brain-flair"


class Threshold(nn.Module):
    """Calls brain what is brighter than half of the head's brightness."""

    spacing_mm, grid_spacing_mm, multiple = 2.5, 1.25, 16

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[2] % 16 == image.shape[3] % 16 == 0
        return 40 * (image - 0.5)


def ball(shape: tuple[int, int, int], radius: float, at: tuple[float, float, float]) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.asarray(np.linalg.norm(index - at, axis=-1) < radius)


def test_the_mask_lies_on_the_grid_of_the_images() -> None:
    truth = ball((30, 90, 70), 20, (15, 50, 30))

    found = BrainMask(Threshold())(np.where(truth, 500.0, 0.0).astype(np.float32))

    assert found.shape == truth.shape
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95


def test_only_the_largest_piece_is_kept_and_its_holes_are_filled() -> None:
    likely = ball((20, 60, 60), 15, (10, 30, 30)).astype(np.float32)
    likely[ball((20, 60, 60), 4, (10, 30, 30))] = 0
    likely[ball((20, 60, 60), 4, (10, 6, 6))] = 1

    brain = clean(likely)

    assert brain[10, 30, 30]
    assert not brain[10, 6, 6]
    assert ndimage.label(brain)[1] == 1


def test_a_thin_bridge_does_not_bring_the_scalp_along() -> None:
    likely = ball((20, 60, 60), 12, (10, 22, 30)).astype(np.float32)
    likely[ball((20, 60, 60), 8, (10, 50, 30))] = 1
    likely[10, 22:50, 30] = 1

    brain = clean(likely)

    assert not brain[10, 50, 30]


def test_slices_of_the_neck_are_cut_away_and_those_of_the_brain_stay() -> None:
    rng = np.random.default_rng(0)
    brain = np.ones((12, 30, 30), dtype=np.bool_)
    images = rng.normal(100, 8, brain.shape).astype(np.float32)
    images[:2] = rng.choice([20.0, 100.0, 260.0], (2, 30, 30))  # bone, muscle, fat

    found = without_neck(images, brain)

    assert not found[:2].any()
    assert found[2:].all()


def test_a_large_tumour_at_the_skull_base_is_not_taken_for_neck() -> None:
    brain = np.ones((12, 30, 30), dtype=np.bool_)
    images = np.full(brain.shape, 100.0, dtype=np.float32)
    images[:3, :14, :14] = 220  # a fifth of the slice

    assert without_neck(images, brain).all()


def test_a_mask_that_grows_again_above_the_vertex_is_scalp() -> None:
    brain = np.zeros((10, 40, 40), dtype=np.bool_)
    for level, side in enumerate((20, 30, 40, 36, 30, 20, 10, 24, 20, 0)):
        brain[level, :side, :side] = True

    found = without_scalp(brain)

    assert found[:7].sum() == brain[:7].sum()
    assert not found[7:].any()


def test_no_brain_gives_an_empty_mask() -> None:
    assert not clean(np.zeros((5, 20, 20), dtype=np.float32)).any()
    assert not BrainMask(Threshold())(np.zeros((5, 32, 32), dtype=np.float32)).any()


def test_a_network_that_names_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="grid_spacing_mm"):
        BrainMask(nn.Identity())


@pytest.mark.parametrize("gain", [0.01, 1.0, 300.0])
def test_the_units_of_the_input_do_not_matter(gain: float) -> None:
    images = np.random.default_rng(0).gamma(2.0, 100.0, (4, 20, 20)).astype(np.float32)

    assert np.allclose(normalise_head(images * gain), normalise_head(images), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shipped_mask_finds_the_brain_of_a_synthetic_head(seed: int) -> None:
    bundle = load_bundle(BUNDLE, device="cpu")
    head = synthetic_head(seed=seed, shape=(36, 128, 128), spacing_mm=(5.0, 1.8, 1.8))
    volume = axial_volume(head.image, head.spacing_mm)

    prepared = prepare(volume, bundle.card, BrainMask(bundle.brain))
    found = prepared.to_source(prepared.brain.astype(np.float32), order=0) > 0.5

    assert 2 * (found & head.brain).sum() / (found.sum() + head.brain.sum()) > 0.9
    assert (found & head.lesion).sum() > 0.97 * head.lesion.sum()


@pytest.mark.slow
def test_the_shipped_mask_loses_almost_nothing_of_real_lesions() -> None:
    bundle = load_bundle(BUNDLE, device="cpu")
    lost = marked = 0
    for reader in (Lgg(data_folder() / "lgg_flair"), nichart(data_folder() / "nichart_wmh")):
        for study in islice(reader.studies(), 4):
            assert study.lesion is not None
            prepared = prepare(study.volume, bundle.card, BrainMask(bundle.brain))
            found = prepared.to_source(prepared.brain.astype(np.float32), order=0) > 0.5
            marked += int(study.lesion.sum())
            lost += int((study.lesion & ~found).sum())

    assert lost < 0.03 * marked
