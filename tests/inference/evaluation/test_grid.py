"""Painted lesions have the size, contrast and sign asked for, and the grid counts what is found of them."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import ndimage

from inference.data import axial_volume
from inference.evaluation.grid import Cell, Grid, grid_chart, measure_grid, plain_grid
from inference.phantom.insertion import APART_MM, insert_lesions
from tests.inference.evaluation.studies import TISSUE, Plain

pytestmark = pytest.mark.feature("L6")
SPACING = (3.0, 1.5, 1.5)
SHAPE = (24, 70, 70)


def tissue(noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """A block of tissue in air, and where it is."""
    brain = np.zeros(SHAPE, dtype=bool)
    brain[1:-1, 3:-3, 3:-3] = True
    image = np.where(brain, TISSUE * (1 + noise * np.random.default_rng(1).standard_normal(SHAPE)), 0)
    return image.astype(np.float32), brain


@pytest.mark.parametrize("diameter", [3.0, 8.0, 20.0])
@pytest.mark.parametrize("contrast", [-0.5, 0.3])
def test_a_painted_lesion_has_its_volume_and_contrast(diameter: float, contrast: float) -> None:
    image, brain = tissue(noise=0.0)

    made = insert_lesions(image, brain, SPACING, diameter_mm=diameter, contrast=contrast, count=1, rng=np.random.default_rng(3))

    change = (made.image / np.maximum(image, 1) - 1)[brain]
    assert made.count == 1
    volume = float(np.sum(change / contrast)) * math.prod(SPACING)
    assert volume == pytest.approx(math.pi / 6 * diameter**3, rel=0.25 if diameter < 5 else 0.05)
    assert (change.max() if contrast > 0 else change.min()) == pytest.approx(contrast, rel=0.5 if diameter < 5 else 1e-3)
    assert not made.lesion[~brain].any()
    assert made.lesion.any()


def test_lesions_lie_apart_inside_the_brain_and_stop_where_there_is_no_room() -> None:
    image, brain = tissue()

    made = insert_lesions(image, brain, SPACING, diameter_mm=12.0, contrast=0.5, count=50, rng=np.random.default_rng(5))

    labels, count = ndimage.label(made.lesion, np.ones((3, 3, 3)))
    centres = np.array(ndimage.center_of_mass(made.lesion, labels, range(1, count + 1))) * SPACING
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e3 * np.eye(count)
    assert 1 < count == made.count < 50
    assert gaps.min() > 12.0 + APART_MM - 2


@pytest.mark.parametrize(("diameter", "contrast"), [(0.0, 0.5), (5.0, -1.5)])
def test_a_lesion_that_cannot_be_is_refused(diameter: float, contrast: float) -> None:
    with pytest.raises(ValueError, match="cannot be painted"):
        insert_lesions(*tissue(), SPACING, diameter_mm=diameter, contrast=contrast, count=1, rng=np.random.default_rng(0))


def test_a_threshold_finds_what_is_above_it_of_either_sign_and_nothing_else() -> None:
    # Plain marks departures of 4 x contrast above 1, at least 30 mm3: 50 % passes, 15 % does not, 3 mm (14 mm3) is too small
    volume = axial_volume(tissue()[0], SPACING)

    grid = measure_grid(Plain(), [volume], 4, diameters_mm=(3.0, 12.0), contrasts=(-0.5, -0.15, 0.15, 0.5))

    assert grid.findings_before == 0
    for contrast in (-0.5, 0.5):
        assert grid.cell(12.0, contrast).share == 1.0
        assert grid.cell(3.0, contrast).found == 0
    for contrast in (-0.15, 0.15):
        assert grid.cell(12.0, contrast).found == 0
    assert grid.cell(12.0, 0.5).lesions >= 2
    assert grid.asymmetry() == 0.0
    assert "no bias above 10 points" in grid.asymmetry_words()


def test_a_lesion_called_by_the_wrong_sign_is_not_found() -> None:
    volume = axial_volume(tissue()[0], SPACING)

    grid = measure_grid(Plain(gain=-1.0), [volume], 2, diameters_mm=(12.0,), contrasts=(-0.5, 0.5))

    assert [cell.found for cell in grid.cells] == [0, 0]
    assert all(cell.lesions for cell in grid.cells)


def biased() -> Grid:
    """Eight of ten bright lesions found, three of ten dark."""
    return Grid((Cell(8.0, -0.5, 10, 3), Cell(8.0, 0.5, 10, 8)), heads=1, findings_before=1.5)


def test_a_bias_between_the_signs_is_called_one() -> None:
    grid = biased()

    assert grid.asymmetry() == pytest.approx(0.5)
    assert grid.worst_asymmetry()[0] == pytest.approx(0.5)
    assert grid.asymmetry_words().endswith("+50 points at 8 mm and 50 %: a bias.")
    assert grid.blind_spots()[0] == "Painted lesions 50 % darker than their tissue: 8 mm 3 of 10 found."


def test_the_chart_and_the_json_hold_every_cell() -> None:
    chart, content = grid_chart("cold_restore", biased()), json.loads(plain_grid({"cold_restore": biased()}))

    ElementTree.fromstring(chart.encode())
    assert "30 %" in chart
    assert "80 %" in chart
    assert content["cold_restore"]["sign_asymmetry"] == pytest.approx(0.5)
    assert len(content["cold_restore"]["cells"]) == 2
