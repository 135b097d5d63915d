"""Readers give the same volume whatever the file format, patients never cross a split, and cleaning removes what it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from inference.data import (
    Arrays,
    DicomFolder,
    Lgg,
    NiftiFolder,
    fraction_of,
    is_development,
    is_validation,
    paint_out,
    soop_bank,
    tiles,
)
from tests.data import data_folder
from tests.studies import Patient, Plan, head, save, segmentation, series

pytestmark = pytest.mark.feature("R6")


@given(st.text(min_size=1))
def test_a_patient_is_always_on_the_same_side_of_a_split(patient: str) -> None:
    assert fraction_of(patient) == fraction_of(patient)
    assert 0 <= fraction_of(patient) < 1
    assert is_development(patient) == (fraction_of(patient) < 0.4)


def test_splits_have_about_the_size_they_say() -> None:
    names = [f"patient {n}" for n in range(2000)]

    assert 0.36 < sum(map(is_development, names)) / 2000 < 0.44
    assert 0.17 < sum(map(is_validation, names)) / 2000 < 0.23


def test_arrays_become_volumes_in_lps() -> None:
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

    (study,) = Arrays("mine", (5.0, 2.0, 1.0), [("p1", image, None)]).studies()

    first = study.volume.affine @ (0, 0, 0, 1)
    last = study.volume.affine @ (1, 2, 3, 1)
    assert (last - first)[:3].tolist() == [3.0, 4.0, 5.0]  # to the left, to the back, to the head
    assert np.array_equal(study.volume.array, image)


def write_nifti(path: Path, array: NDArray[Any], spacing_mm: tuple[float, float, float]) -> None:
    image = nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1.0]))  # type: ignore[no-untyped-call]  # nibabel has no stubs
    image.to_filename(path)


def test_nifti_files_are_read_in_lps_with_their_lesions(tmp_path: Path) -> None:
    ras = np.zeros((8, 9, 10), dtype=np.float32)  # grows to the right, the front, the head
    ras[6, 7, 8] = 5.0
    write_nifti(tmp_path / "a_FL.nii.gz", ras, (2.0, 2.0, 3.0))
    write_nifti(tmp_path / "a_WMH.nii.gz", (ras > 0).astype(np.uint8), (2.0, 2.0, 3.0))

    (study,) = NiftiFolder(tmp_path, "_FL.nii.gz", "_WMH.nii.gz").studies()

    assert study.patient == "a"
    assert study.lesion is not None
    where = study.volume.affine @ (*np.argwhere(study.volume.array == 5)[0], 1)
    assert where[:3].tolist() == [-12.0, -14.0, 24.0]
    assert np.array_equal(study.lesion, study.volume.array == 5)


def test_a_nested_folder_is_the_patient(tmp_path: Path) -> None:
    (tmp_path / "p7").mkdir()
    for name in ("one.nii.gz", "two.nii.gz"):
        write_nifti(tmp_path / "p7" / name, np.zeros((4, 4, 4), np.float32), (1.0, 1.0, 1.0))

    assert [study.patient for study in NiftiFolder(tmp_path).studies()] == ["p7", "p7"]


def test_dicom_series_are_read_without_keeping_the_patient_id(tmp_path: Path) -> None:
    plan = Plan(slices=5, rows=24, columns=20, patient=Patient(patient_id="SECRET-1"))
    save(series(plan), tmp_path / "series")

    (study,) = DicomFolder(tmp_path).studies()

    assert "SECRET" not in study.patient
    assert study.volume.spatial_shape == (5, 24, 20)
    assert np.array_equal(np.sort(study.volume.array.ravel()), np.sort(head(5, 24, 20).astype(np.float32).ravel()))


def test_a_segmentation_of_a_series_is_its_lesion_on_the_right_voxels(tmp_path: Path) -> None:
    images = series(Plan(slices=5, rows=24, columns=20))
    save(images, tmp_path / "images")
    save([segmentation(images)], tmp_path / "marks")

    (study,) = DicomFolder(tmp_path).studies()

    assert study.lesion is not None
    marked = np.argwhere(study.lesion)
    places = marked @ study.volume.affine[:3, :3].T + study.volume.affine[:3, 3]
    first, row, column = images[2], np.arange(8, 12), np.arange(6, 12)  # the box that `segmentation` draws
    down, right = np.array(first.ImageOrientationPatient[3:]), np.array(first.ImageOrientationPatient[:3])
    steps = [float(step) for step in first.PixelSpacing]
    drawn = np.array(first.ImagePositionPatient, dtype=float) + [
        r * steps[0] * down + c * steps[1] * right for r in row for c in column
    ]
    assert sorted(map(tuple, places.round(3))) == sorted(map(tuple, drawn.round(3)))


def test_a_picture_of_tiles_is_read_row_by_row(tmp_path: Path) -> None:
    picture = np.zeros((8, 12), dtype=np.uint8)
    picture[4:, 4:8] = 77
    Image.fromarray(picture).save(tmp_path / "grid.png")

    found = tiles(tmp_path / "grid.png", (4, 4))

    assert found.shape == (6, 4, 4)
    assert [int(tile.max()) for tile in found] == [0, 0, 0, 0, 77, 0]


def test_bright_spots_are_painted_out_and_the_rest_is_left() -> None:
    rng = np.random.default_rng(0)
    brain = np.zeros((80, 80), dtype=np.bool_)
    brain[10:70, 10:70] = True
    image = np.where(brain, 100 + 5 * rng.standard_normal((80, 80)), 0).astype(np.float32)
    image[30:38, 30:38] = 180

    cleaned, painted = paint_out(image, brain, np.zeros_like(brain))

    assert painted[32:36, 32:36].all()
    assert cleaned[32:36, 32:36].mean() == pytest.approx(100, abs=6)
    assert painted.mean() < 0.05
    assert np.array_equal(cleaned[~painted], image[~painted])


def test_the_published_glioma_set_has_its_75_patients_on_both_sides_of_the_split() -> None:
    folder = data_folder() / "lgg_flair"
    names = sorted(json.loads((folder / "index.json").read_text()))

    first = next(Lgg(folder).studies())

    assert len(names) == 75
    assert 20 <= sum(map(is_development, names)) <= 40
    assert first.patient == names[0]
    assert first.lesion is not None
    assert first.volume.array[first.lesion].mean() > 1.2 * np.median(first.volume.array[first.volume.array > 30])


@pytest.mark.slow
def test_soop_slices_lose_their_hyperintensities(tmp_path: Path) -> None:
    bank = soop_bank(data_folder() / "soop_flair", (160, 128), 1.25, tmp_path)

    inside = bank.brain > 127
    values = bank.image[inside].astype(np.float32)
    assert len(bank.image) > 1000
    assert np.abs(np.median(values)) < 0.1
    assert (values > 4).mean() < 0.002  # twice the median: hyperintensities, of which a few thin rims remain
