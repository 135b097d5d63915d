"""Measurements of regions, against brute force and by hand, on tilted, mirrored and anisotropic grids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from inference.measure import Region, hemisphere, long_axis_mm, measure
from inference.types import Contrast, Finding
from tests.inference.heads import affine, positions_lps, volume

SHAPE = (14, 20, 18)
GRIDS = {
    "oblique and anisotropic": affine(SHAPE, (5.0, 0.8, 1.1), tilt_deg=(20, -15, 33), centre_lps=(12, -7, 40)),
    "mirrored": affine(SHAPE, (3.0, 1.0, 1.0), axes="FAR"),
    "sagittal": affine(SHAPE, (1.2, 0.9, 0.9), axes="LPF"),
}


def found(mask: np.ndarray, matrix: np.ndarray, midline_x: float | None = 0.0) -> Finding:
    """The finding that a mask is; its score is 1 but for one voxel of 3."""
    score = mask.astype(np.float32)
    score[tuple(np.argwhere(mask)[0])] = 3.0
    region = Region(Contrast.BRIGHTER, np.argwhere(mask))
    return measure(region, 1, volume(score, matrix), score, midline_x)


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
def test_place_volume_and_scores_are_those_of_the_voxels(matrix: np.ndarray) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:6, 4:9, 2:12] = True
    places = positions_lps(SHAPE, matrix)[mask]

    finding = found(mask, matrix)

    assert finding.voxels == 150
    assert finding.volume_mm3 == pytest.approx(150 * abs(np.linalg.det(matrix[:3, :3])))
    assert np.allclose(finding.centroid_lps, places.mean(axis=0))
    assert finding.bounding_box == ((3, 6), (4, 9), (2, 12))
    assert finding.peak_score == 3.0
    assert finding.mean_score == pytest.approx(152 / 150)


@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
def test_extents_are_those_of_the_voxels_corners_along_the_patients_axes(matrix: np.ndarray) -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:6, 4:9, 2:12] = mask[8, 15, 15] = True
    halves = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    corners = (np.argwhere(mask)[:, None] + halves).reshape(-1, 3) @ matrix[:3, :3].T

    finding = found(mask, matrix)

    assert np.allclose(finding.extents_mm, np.ptp(corners, axis=0))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(GRIDS)),
    st.sets(st.tuples(st.integers(0, 13), st.integers(0, 19), st.integers(0, 17)), min_size=1, max_size=60),
)
def test_the_long_axis_is_the_greatest_distance_of_any_two_voxels(name: str, chosen: set[tuple[int, ...]]) -> None:
    indices = np.array(sorted(chosen))
    places = indices @ GRIDS[name][:3, :3].T
    expected = pdist(places).max() if len(places) > 1 else 0.0

    measured = long_axis_mm(indices, volume(np.zeros(SHAPE, dtype=np.float32), GRIDS[name]))

    assert measured == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "indices",
    [
        [(2, 3, 4)],
        [(2, 3, 4), (2, 3, 5)],
        [(k, 2 * k, k) for k in range(6)],
        [(5, row, column) for row in range(7) for column in range(3, 9)],
        [(k, row, k) for k in range(6) for row in range(4)],
        [(k, 2 * k, column) for k in range(5) for column in range(7)],
    ],
    ids=["one voxel", "two", "a slanted line", "one slice", "a slanted plane", "a steep plane"],
)
@pytest.mark.parametrize("matrix", GRIDS.values(), ids=GRIDS.keys())
def test_flat_regions_have_a_long_axis_too(indices: list[tuple[int, int, int]], matrix: np.ndarray) -> None:
    places = np.array(indices) @ matrix[:3, :3].T
    expected = pdist(places).max() if len(places) > 1 else 0.0

    measured = long_axis_mm(np.array(indices), volume(np.zeros(SHAPE, dtype=np.float32), matrix))

    assert measured == pytest.approx(expected, abs=1e-9)


def test_a_region_of_a_million_voxels_is_measured_within_memory() -> None:
    # a ball of radius 62 on an isotropic grid: the two ends lie 124 steps apart along an axis
    shape = (128, 128, 128)
    steps = np.indices(shape) - 63
    indices = np.argwhere((steps**2).sum(axis=0) <= 62**2)

    measured = long_axis_mm(indices, volume(np.zeros(shape, dtype=np.float32), affine(shape, (0.7, 0.7, 0.7))))

    assert len(indices) > 990_000
    assert measured == pytest.approx(124 * 0.7)


@pytest.mark.parametrize(
    ("x", "side"),
    [
        (np.array([5.0, 9.0, 12.0]), "left"),
        (np.array([-5.0, -1.0]), "right"),
        (np.array([-4.0, 4.0]), "both"),
        (np.array([-1.0] + [3.0] * 9), "left"),
        (np.array([-1.0, -1.0] + [3.0] * 8), "both"),
        (np.array([0.0]), "both"),
    ],
    ids=["left", "right", "halves", "a tenth beyond", "a fifth beyond", "on the midline"],
)
def test_the_side_is_the_patients(x: np.ndarray, side: str) -> None:
    assert hemisphere(x + 2.0, 2.0) == side


def test_without_a_midline_there_is_no_side() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3, 3, 3] = True

    assert found(mask, GRIDS["mirrored"], midline_x=None).hemisphere is None
