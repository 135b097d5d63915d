"""What goes to the network comes back to the right voxel, whatever grid and orientation the scanner chose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from highdicom import Volume
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.preprocess import (
    MOST_STRETCH,
    UNIT,
    Grid,
    Prepared,
    brain_median,
    network_grid,
    prepare,
    resample,
    standardise,
    stretch_of,
    stretched,
)
from tests.inference.heads import affine, card

pytestmark = pytest.mark.feature("R6")

Mask = Callable[[NDArray[np.float32]], NDArray[np.bool_]]

GRIDS = {
    "axial 5 mm": ((24, 120, 110), (5.0, 0.94, 0.94), (0, 0, 0), "HPL"),
    "axial, head first slice, reversed columns": ((24, 120, 110), (5.0, 0.94, 0.94), (0, 0, 0), "FPR"),
    "oblique axial": ((30, 100, 120), (4.0, 1.1, 1.0), (14, -6, 9), "HPL"),
    "sagittal 3D": ((90, 100, 110), (1.6, 1.5, 1.5), (5, 3, -7), "LFP"),
    "coronal 3D, reversed": ((100, 90, 80), (1.5, 1.8, 1.8), (0, 4, 0), "AFR"),
    "anisotropic plane": ((20, 160, 70), (6.0, 0.6, 1.9), (0, 0, 0), "HAL"),
}


def everything_bright(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(images > 50)


def head_volume(name: str) -> tuple[Volume, NDArray[np.bool_], NDArray[np.float64]]:
    """A ball of brain 100 with a ball of lesion 300 off its centre; the lesion and its LPS centre."""
    shape, spacing, tilt, axes = GRIDS[name]
    matrix = affine(shape, spacing, tilt, axes, (12.0, -7.0, 30.0))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    lps = index @ matrix[:3, :3].T + matrix[:3, 3]
    centre = np.array([12.0, -7.0, 30.0])
    lesion_centre = centre + np.array([14.0, -11.0, 9.0])
    brain = np.linalg.norm(lps - centre, axis=-1) < 44
    lesion = np.linalg.norm(lps - lesion_centre, axis=-1) < 10
    image = np.where(lesion, 300.0, np.where(brain, 100.0, 0.0)).astype(np.float32)
    return Volume(image, matrix, "PATIENT"), lesion, lesion_centre


def centre_lps(mask: NDArray[np.bool_], volume: Volume) -> NDArray[np.float64]:
    return np.asarray(volume.affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + volume.affine[:3, 3])


@pytest.mark.parametrize("name", GRIDS)
def test_a_mask_comes_back_to_the_voxels_it_came_from(name: str) -> None:
    volume, lesion, where = head_volume(name)

    prepared = prepare(volume, card(), everything_bright)
    seen = (prepared.images > 4.0).astype(np.float32)
    back = prepared.to_source(seen, order=0) > 0.5

    overlap = 2 * (back & lesion).sum() / (back.sum() + lesion.sum())
    assert back.shape == volume.spatial_shape
    assert overlap > 0.85  # a ball of 10 mm radius re-sampled twice keeps all but its rim
    assert np.linalg.norm(centre_lps(back, volume) - where) < 0.5 * max(volume.spacing)


@pytest.mark.parametrize("name", GRIDS)
def test_the_network_sees_slices_foot_to_head_front_to_back_right_to_left(name: str) -> None:
    volume, _, _ = head_volume(name)

    prepared = prepare(volume, card(), everything_bright)
    slices, rows, columns = np.argwhere(prepared.images > 4.0).mean(axis=0) - np.argwhere(prepared.brain).mean(axis=0)

    assert slices * prepared.spacing_mm[0] == pytest.approx(9, abs=4.5)  # the lesion lies 9 mm to the head,
    assert rows * prepared.spacing_mm[1] == pytest.approx(-11, abs=5.5)  # 11 mm to the front,
    assert columns * prepared.spacing_mm[2] == pytest.approx(14, abs=4.5)  # 14 mm to the left; tilted up to 14 degrees


@pytest.mark.parametrize("name", GRIDS)
def test_a_smooth_image_survives_the_way_there_and_back(name: str) -> None:
    volume, _, _ = head_volume(name)

    prepared = prepare(volume, card(), everything_bright)
    back = prepared.to_source(prepared.destandardise(prepared.images), order=1)

    inside = prepared.to_source(prepared.brain.astype(np.float32), order=1) > 0.999
    assert np.median(np.abs(back - volume.array)[inside]) < 1.0


def test_standardised_units_are_quarters_of_the_brain_median() -> None:
    images = np.array([[[0.0, 100.0, 150.0, 1000.0, 77.0]]], dtype=np.float32)
    brain = np.array([[[True, True, True, True, False]]])

    standard = standardise(images, brain, median=100.0)

    assert standard.tolist() == [[[-UNIT, 0.0, 2.0, 14.0, -UNIT]]]


def test_a_flat_image_is_stretched_above_its_median_alone_and_another_is_left_as_it_is() -> None:
    brain = np.ones((1, 1, 8), dtype=bool)
    flat = np.array([[[-3.0, -0.2, -0.1, 0.0, 0.0, 0.1, 0.25, 0.25]]], dtype=np.float32)
    lively = np.sign(flat) * np.abs(4 * flat)

    stretch = stretch_of(flat, brain, 0.4)
    tense = stretched(flat, stretch)

    assert 1.5 < stretch <= MOST_STRETCH
    assert stretch_of(lively, brain, 0.4) == 1.0
    assert np.percentile(tense, 75) - np.percentile(tense, 50) <= 0.4 + 1e-6
    assert np.array_equal(tense[flat <= 0], flat[flat <= 0])
    assert np.allclose(stretched(tense, 1 / stretch), flat)
    assert stretch_of(flat, np.zeros_like(brain), 0.4) == 1.0
    assert stretch_of(flat, brain, 0.0) == 1.0


@pytest.mark.parametrize("contrast", [0.3, 1.0])
def test_the_network_sees_a_flat_head_with_the_contrast_of_an_ordinary_one(contrast: float) -> None:
    volume, _, _ = head_volume("axial 5 mm")
    array = np.asarray(volume.array, dtype=np.float32)
    flat = volume.with_array(np.where(array > 100.0, 100.0 + contrast * (array - 100.0), array).astype(np.float32))

    prepared = prepare(flat, card(ordinary_contrast=0.4), everything_bright)

    assert prepared.stretch > 1.0
    assert prepare(flat, card(), everything_bright).stretch == 1.0
    signal = prepared.destandardise(prepared.images)
    again = standardise(signal, prepared.brain, prepared.median)
    assert np.allclose(stretched(again, prepared.stretch)[prepared.brain], prepared.images[prepared.brain], atol=1e-3)


def test_outside_the_brain_the_network_sees_no_signal() -> None:
    volume, _, _ = head_volume("axial 5 mm")

    prepared = prepare(volume, card(), everything_bright)

    assert np.all(prepared.images[~prepared.brain] == -UNIT)
    assert prepared.median == pytest.approx(100.0)


def test_a_volume_without_brain_is_prepared_uncropped_and_dark() -> None:
    volume, _, _ = head_volume("axial 5 mm")

    prepared = prepare(volume, card(), lambda images: np.zeros(images.shape, dtype=np.bool_))

    assert not prepared.brain.any()
    assert np.all(prepared.images == -UNIT)
    assert prepared.to_source(prepared.images, order=1).shape == volume.spatial_shape


def test_a_brain_that_touches_the_rim_of_the_image_is_padded_not_lost() -> None:
    shape, spacing = (10, 40, 40), (5.0, 2.0, 2.0)
    volume = Volume(np.full(shape, 100, np.float32), affine(shape, spacing), "PATIENT")

    prepared = prepare(volume, card(), everything_bright)

    assert prepared.images.shape[1] % 16 == prepared.images.shape[2] % 16 == 0
    back = prepared.to_source(prepared.brain.astype(np.float32), order=0)
    assert back.min() == 1.0


def test_values_of_another_grid_are_refused() -> None:
    volume, _, _ = head_volume("axial 5 mm")
    prepared: Prepared = prepare(volume, card(), everything_bright)

    with pytest.raises(ValueError, match="values have shape"):
        prepared.to_source(np.zeros((1, 2, 3), dtype=np.float32), order=1)


def test_thick_slices_are_never_resampled_and_very_thin_ones_are_merged() -> None:
    thick = network_grid((24, 256, 256), (5.0, 0.94, 0.94), (1.25, 1.0))
    thin = network_grid((320, 256, 256), (0.5, 0.9, 0.9), (1.25, 1.0))

    assert (thick.shape[0], thick.spacing_mm[0]) == (24, 5.0)
    assert (thin.shape[0], thin.spacing_mm[0]) == (160, 1.0)


def test_the_median_of_nothing_is_one() -> None:
    assert brain_median(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.bool_)) == 1.0


@settings(max_examples=40, deadline=None)
@given(
    points=st.integers(5, 60),
    spacing=st.floats(0.4, 6.0),
    target=st.floats(0.8, 3.0),
    seed=st.integers(0, 99),
)
def test_resampling_keeps_a_constant_and_a_ramp(points: int, spacing: float, target: float, seed: int) -> None:
    del seed
    old = (points, points, 3)
    grid = network_grid(old, (spacing, spacing, 1.0), (target, target))
    ramp = np.broadcast_to(((np.arange(points) - (points - 1) / 2) * spacing)[:, None, None], old).astype(np.float32)

    seen = resample(ramp, (spacing, spacing, 1.0), grid, order=1)
    flat = resample(np.ones(old, np.float32), (spacing, spacing, 1.0), Grid(grid.shape, grid.spacing_mm), order=1)

    place = (np.arange(grid.shape[0]) - (grid.shape[0] - 1) / 2) * grid.spacing_mm[0]
    wide = max(spacing, grid.spacing_mm[0])
    within = np.abs(place) < (points - 1) / 2 * spacing - wide
    middle = grid.shape[1] // 2
    assert np.allclose(seen[within, middle, seen.shape[2] // 2], place[within], atol=0.05 * wide)
    assert set(np.unique(flat.round(4))) <= {0.0, 1.0}
