"""Pictures of a run: the finding outlined where it lies, the patient turned as usual, sides lettered, no name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.pictures import LONGER_SIDE, draw, turned, window_of
from dicom_node.results.colours import colour_of
from dicom_node.series import SeriesVolume, read_series
from tests.dicom_node.results.builders import AXIAL, CORONAL, OBLIQUE, SAGITTAL, SeriesPlan, axial, localization_of, write

PLANES = {
    "axial": (AXIAL, ("R", "L", "A", "P")),
    "axial, tilted": (OBLIQUE, ("R", "L", "A", "P")),
    "axial, rows to the right": ((-AXIAL[0], AXIAL[1]), ("R", "L", "A", "P")),
    "axial, columns to the front": ((AXIAL[0], -AXIAL[1]), ("R", "L", "A", "P")),
    "axial, rows and columns swapped": ((AXIAL[1], AXIAL[0]), ("R", "L", "A", "P")),
    "axial, turned by 30 degrees": (axial(0, 30), ("RA", "LP", "AL", "PR")),
    "coronal": (CORONAL, ("R", "L", "H", "F")),
    "coronal, upside down": ((CORONAL[0], -CORONAL[1]), ("R", "L", "H", "F")),
    "sagittal": (SAGITTAL, ("A", "P", "H", "F")),
    "sagittal, facing right": ((-SAGITTAL[0], SAGITTAL[1]), ("A", "P", "H", "F")),
}
AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}


def _read(directions: tuple[np.ndarray, np.ndarray], folder: Path) -> SeriesVolume:
    return read_series(write(SeriesPlan(shape=(9, 44, 36), directions=directions, spacing_mm=(4, 1.0, 1.2)), folder))


@pytest.mark.feature("A3")
@pytest.mark.parametrize(("directions", "letters"), list(PLANES.values()), ids=list(PLANES))
def test_sides_are_lettered_and_turned_as_a_radiologist_reads_them(
    directions: tuple[np.ndarray, np.ndarray], letters: tuple[str, ...], tmp_path: Path
) -> None:
    series = _read(directions, tmp_path)
    labels = series.volume.with_array(np.zeros(series.volume.spatial_shape, np.uint16))

    shown = turned(series.volume, labels, 4, (0, 1))

    assert shown.edges == letters


@pytest.mark.parametrize(("directions", "letters"), list(PLANES.values()), ids=list(PLANES))
def test_what_lies_towards_a_letter_is_drawn_towards_it(
    directions: tuple[np.ndarray, np.ndarray], letters: tuple[str, ...], tmp_path: Path
) -> None:
    series = _read(directions, tmp_path)
    points = np.indices(series.volume.spatial_shape).reshape(3, -1).T @ series.volume.affine[:3, :3].T
    for (axis, sign), edge in ((AXES[letters[1][0]], "right"), (AXES[letters[3][0]], "bottom")):
        coordinate = (sign * points[:, axis]).reshape(series.volume.spatial_shape).astype(np.float32)
        volume = series.volume.with_array(coordinate)
        labels = volume.with_array(np.zeros(volume.spatial_shape, np.uint16))

        shown = turned(volume, labels, 4, (float(coordinate.min()), float(coordinate.max())))

        along = 1 if edge == "right" else 0
        assert np.all(np.diff(shown.grey.mean(axis=1 - along)) > 0)


@pytest.mark.parametrize("directions", [AXIAL, OBLIQUE, CORONAL, SAGITTAL], ids=["axial", "oblique", "coronal", "sagittal"])
def test_the_outline_runs_around_the_finding(directions: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    series = _read(directions, tmp_path)
    mask = np.zeros(series.volume.spatial_shape, bool)
    mask[3, 10:20, 5:12] = True
    localization = localization_of(series.volume, [mask])

    sheet, picture = draw(series, localization)

    image = np.asarray(Image.open(BytesIO(picture.data)).convert("RGB")).astype(int)
    shown = turned(series.volume, localization.labels, 3, window_of(series.volume.array, localization.brain.array > 0))
    rows, columns = np.nonzero(shown.labels)
    scale = image.shape[0] / shown.labels.shape[0], image.shape[1] / shown.labels.shape[1]
    outline = np.all(np.abs(image - colour_of(1)) < 10, axis=2)
    on_top = outline[round(rows.min() * scale[0]) - 1 : round(rows.min() * scale[0]) + 2]
    middle = round((columns.mean() + 0.5) * scale[1])
    assert on_top[:, middle].any()
    inside = outline[
        round((rows.min() + 1) * scale[0]) : round(rows.max() * scale[0]),
        round((columns.min() + 1) * scale[1]) : round(columns.max() * scale[1]),
    ]
    assert not inside.any()
    assert max(image.shape) == LONGER_SIDE
    assert (sheet.name, picture.name) == ("sheet.png", "finding-01.png")


def test_pixels_are_square_in_millimetres(tmp_path: Path) -> None:
    series = _read(AXIAL, tmp_path)
    mask = np.zeros(series.volume.spatial_shape, bool)
    mask[3, 10:20, 5:12] = True

    _, picture = draw(series, localization_of(series.volume, [mask]))

    width, height = Image.open(BytesIO(picture.data)).size
    assert width / height == pytest.approx(36 * 1.2 / (44 * 1.0), abs=0.005)


def test_a_run_without_findings_has_a_sheet_of_the_brain(tmp_path: Path) -> None:
    series = _read(AXIAL, tmp_path)

    pictures = draw(series, localization_of(series.volume, []))

    assert [picture.name for picture in pictures] == ["sheet.png"]
    assert Image.open(BytesIO(pictures[0].data)).size[0] > LONGER_SIDE


def test_captions_name_the_image_as_a_viewer_does_and_no_patient(tmp_path: Path) -> None:
    series = _read(AXIAL, tmp_path)
    mask = np.zeros(series.volume.spatial_shape, bool)
    mask[2, 10:20, 5:12] = True

    sheet, picture = draw(series, localization_of(series.volume, [mask]))

    assert picture.caption == f"Finding 1, image {series.source[2].InstanceNumber}"
    assert "Yamada" not in sheet.caption + picture.caption


def test_the_same_run_gives_the_same_pictures(tmp_path: Path) -> None:
    series = _read(OBLIQUE, tmp_path)
    localization = localization_of(series.volume, [])

    assert draw(series, localization) == draw(series, localization)
