"""NIfTI files: RAS becomes LPS once, and every voxel stays at its place in the patient."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inference.nifti import UnreadableImageError, volume_from_nifti

SHAPE = (7, 9, 5)
AFFINES = {
    "RAS": np.array([[1.2, 0, 0, -10], [0, 0.9, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]]),
    "LPS": np.array([[-1.2, 0, 0, 10], [0, -0.9, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]]),
    "sagittal, slices first": np.array([[0, 0, 3.0, -9], [1.1, 0, 0, -40], [0, -0.8, 0, 33], [0, 0, 0, 1]]),
    "oblique": np.array([[0.96, -0.28, 0, 4], [0.28, 0.96, 0, 5], [0, 0, 4, 6], [0, 0, 0, 1]]),
}


def written(folder: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """A NIfTI file of the array."""
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
def test_every_voxel_keeps_its_place_and_x_and_y_change_sign(tmp_path: Path, affine: np.ndarray) -> None:
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)

    volume = volume_from_nifti(written(tmp_path, array, affine))

    for index in np.ndindex(volume.spatial_shape):
        source = np.argwhere(array == volume.array[index])[0]
        ras = affine @ np.append(source, 1)
        lps = np.asarray(volume.affine) @ np.append(index, 1)
        assert np.allclose(lps[:3], ras[:3] * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
def test_slices_rise_to_the_head_rows_to_the_back_columns_to_the_left(tmp_path: Path, affine: np.ndarray) -> None:
    volume = volume_from_nifti(written(tmp_path, np.zeros(SHAPE, dtype=np.float32), affine))

    slices, rows, columns = volume.unit_vectors()
    assert volume.array.dtype == np.float32
    assert slices[2] > 0.7
    assert rows[1] > 0.7
    assert columns[0] > 0.7


def test_a_trailing_axis_of_one_is_dropped_and_integers_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((*SHAPE, 1), 3, dtype=np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 2.0, 1.0)  # scl_slope, scl_inter of the NIfTI-1 header
    path.write_bytes(bytes(content))

    volume = volume_from_nifti(path)

    assert volume.array.shape == (5, 9, 7)
    assert np.all(volume.array == 7.0)


def test_a_stated_spacing_replaces_the_headers(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros(SHAPE, dtype=np.float32), np.eye(4))

    volume = volume_from_nifti(path, stated_spacing_mm=(5.0, 0.94, 0.94))

    assert volume.spacing == pytest.approx((5.0, 0.94, 0.94))


def broken(folder: Path) -> Path:
    path = folder / "broken.nii"
    path.write_bytes(b"no image")
    return path


@pytest.mark.parametrize("case", ["broken", "missing", "four dimensions", "a singular affine"])
def test_what_is_no_volume_is_refused_with_its_name(tmp_path: Path, case: str) -> None:
    match case:
        case "broken":
            path = broken(tmp_path)
        case "missing":
            path = tmp_path / "none.nii"
        case "four dimensions":
            path = written(tmp_path, np.zeros((*SHAPE, 2), dtype=np.float32), np.eye(4))
        case _:
            sheared = np.eye(4)
            sheared[0, 1] = 0.5
            path = written(tmp_path, np.zeros(SHAPE, dtype=np.float32), sheared)

    with pytest.raises(UnreadableImageError, match=path.name):
        volume_from_nifti(path)


def test_a_stated_spacing_of_nothing_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros(SHAPE, dtype=np.float32), np.eye(4))

    with pytest.raises(UnreadableImageError, match="above 0"):
        volume_from_nifti(path, stated_spacing_mm=(0.0, 1.0, 1.0))


def test_a_header_without_spacing_and_orientation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    image = nibabel.Nifti1Image(np.zeros(SHAPE, dtype=np.float32), None)
    image.header["pixdim"][1:4] = 0
    nibabel.save(image, path)

    with pytest.raises(UnreadableImageError, match="no spacing and orientation"):
        volume_from_nifti(path)
