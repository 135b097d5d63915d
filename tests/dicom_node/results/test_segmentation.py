"""The segmentation: the right voxels on the right slices and the right side, for every geometry that comes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.outcome import OutputOptions, ResultObject
from dicom_node.results.encode import SEGMENTATION, encode
from dicom_node.results.grid import MisplacedMask, on_source_grid
from dicom_node.results.identity import identity_of
from dicom_node.results.labelmap import check_frames
from dicom_node.series import SeriesVolume, read_series
from inference.types import Localization
from tests.dicom_node.results.builders import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SeriesPlan,
    account_of,
    ball,
    localization_of,
    two_masks,
    write,
)
from tests.dicom_node.results.tools import complaints, contradictions, segments_read_by_dcmqi

GEOMETRIES = {
    "axial": SeriesPlan(directions=AXIAL),
    "oblique": SeriesPlan(directions=OBLIQUE),
    "oblique, numbered downwards": SeriesPlan(directions=OBLIQUE, falling=True),
    "coronal": SeriesPlan(directions=CORONAL, spacing_mm=(3.0, 0.7, 1.1)),
    "sagittal": SeriesPlan(directions=SAGITTAL, spacing_mm=(1.2, 1.0, 1.0), shape=(20, 40, 48)),
    "rows from left to right": SeriesPlan(directions=(-AXIAL[0], AXIAL[1])),
}


def found_in(series: SeriesVolume) -> Localization:
    return localization_of(series.volume, two_masks(series.volume.spatial_shape))


def opened(one: ResultObject) -> Dataset:
    return dcmread(BytesIO(one.data))


def segmentation_object(series: SeriesVolume, localization: Localization, **options: str) -> ResultObject:
    account = account_of(series, localization, output=OutputOptions(**options))  # type: ignore[arg-type]
    return next(one for one in encode(account, identity_of(account)) if one.kind == SEGMENTATION)


@pytest.fixture(params=list(GEOMETRIES.values()), ids=list(GEOMETRIES))
def series(request: pytest.FixtureRequest, tmp_path: Path) -> SeriesVolume:
    return read_series(write(request.param, tmp_path / "source"))


@pytest.fixture
def oblique(tmp_path: Path) -> SeriesVolume:
    return read_series(write(SeriesPlan(), tmp_path / "source"))


@pytest.mark.feature("E1")
def test_every_frame_lies_where_the_source_image_it_names_lies(series: SeriesVolume) -> None:
    made = dcmread(BytesIO(segmentation_object(series, found_in(series)).data))

    sources = {str(header.SOPInstanceUID): header for header in series.source}
    assert len(made.PerFrameFunctionalGroupsSequence) > 2
    for frame in made.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        header = sources[source.ReferencedSOPInstanceUID]
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, header.ImagePositionPatient, atol=1e-4)


@pytest.mark.feature("E1")
def test_each_source_image_carries_exactly_the_marked_pixels(series: SeriesVolume) -> None:
    localization = found_in(series)

    made = hd.seg.Segmentation.from_dataset(dcmread(BytesIO(segmentation_object(series, localization).data)))

    uids = [str(header.SOPInstanceUID) for header in series.source]
    read = made.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(read, localization.labels.array)


@pytest.mark.feature("E8")
def test_dcmqi_reads_the_same_voxels_at_the_same_places(series: SeriesVolume, tmp_path: Path) -> None:
    localization = found_in(series)
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(segmentation_object(series, localization).data)

    read = segments_read_by_dcmqi(path, tmp_path / "dcmqi")

    assert len(read) == 2
    to_index = np.linalg.inv(series.volume.affine)
    for number, (mask, affine) in enumerate(read, start=1):
        points_lps = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
        indices = points_lps @ to_index[:3, :3].T + to_index[:3, 3]
        assert np.abs(indices - indices.round()).max() < 0.02
        found = np.zeros(series.volume.spatial_shape, dtype=bool)
        found[tuple(indices.round().astype(int).T)] = True
        assert np.array_equal(found, localization.labels.array == number)


@pytest.mark.feature("E8")
@pytest.mark.peer
def test_validators_have_nothing_to_say(series: SeriesVolume, tmp_path: Path) -> None:
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(segmentation_object(series, found_in(series)).data)

    assert complaints(path) == []
    assert contradictions([*(tmp_path / "source").glob("*.dcm"), path]) == []


@pytest.mark.feature("E1")
def test_a_mask_from_a_reoriented_volume_comes_back_to_its_slices_and_its_side(series: SeriesVolume) -> None:
    left = _mask_on_the_left(series)
    straight = localization_of(series.volume, [left])
    turned = straight.labels.to_patient_orientation("RAS")
    assert not turned.geometry_equal(series.volume, tol=1e-3)

    object_of_turned = segmentation_object(series, replace(straight, labels=turned))

    assert object_of_turned.data == segmentation_object(series, straight).data
    made = dcmread(BytesIO(object_of_turned.data))
    points = _marked_points_lps(made)
    assert len(points) == np.count_nonzero(left)
    assert points[:, 0].min() > 0  # LPS: positive x is the patient's left


def _mask_on_the_left(series: SeriesVolume) -> np.ndarray:
    shape = series.volume.spatial_shape
    grid = np.indices(shape).reshape(3, -1).T @ series.volume.affine[:3, :3].T + series.volume.affine[:3, 3]
    size = np.abs(series.volume.affine[:3, :3] @ (np.array(shape) / 2)).min()
    centre = grid.mean(axis=0) + np.array([0.6, 0.15, -0.1]) * size
    return (np.linalg.norm(grid - centre, axis=1) < 0.4 * size).reshape(shape)


def _marked_points_lps(made: Dataset) -> np.ndarray:
    """Each marked pixel in the patient, by PS3.3 equation C.7.6.2.1-1 from the object's own header alone."""
    shared = made.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for row, column in np.argwhere(pixels):
            points.append(corner + orientation[:3] * column_mm * column + orientation[3:] * row_mm * row)
    return np.array(points)


def test_one_segment_for_each_finding_largest_first(oblique: SeriesVolume) -> None:
    made = dcmread(BytesIO(segmentation_object(oblique, found_in(oblique)).data))

    assert made.SegmentationType == "BINARY"
    assert made.BitsAllocated == 1
    assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert [item.SegmentNumber for item in made.SegmentSequence] == [1, 2]
    assert [item.SegmentLabel for item in made.SegmentSequence] == ["Finding 1: brighter, right", "Finding 2: darker, left"]
    assert len({item.TrackingUID for item in made.SegmentSequence}) == 2
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in made.SegmentSequence}) == 2
    for item in made.SegmentSequence:
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.1"
        assert item.AnatomicRegionSequence[0].CodeValue == "12738006"  # SCT Brain


def test_a_single_voxel_can_be_a_finding(oblique: SeriesVolume, tmp_path: Path) -> None:
    mask = np.zeros(oblique.volume.spatial_shape, dtype=bool)
    mask[4, 20, 11] = True
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(segmentation_object(oblique, localization_of(oblique.volume, [mask])).data)

    ((read, _),) = segments_read_by_dcmqi(path, tmp_path / "dcmqi")

    assert np.count_nonzero(read) == 1
    assert complaints(path) == []


@pytest.mark.slow
def test_more_findings_than_eight_bits_hold_are_encoded(tmp_path: Path) -> None:
    series = read_series(write(SeriesPlan(shape=(3, 40, 40), directions=AXIAL), tmp_path / "source"))
    masks = []
    for number in range(300):
        mask = np.zeros(series.volume.spatial_shape, dtype=bool)
        mask[1, number // 20 * 2, number % 20 * 2] = True
        masks.append(mask)

    made = dcmread(BytesIO(segmentation_object(series, localization_of(series.volume, masks)).data))

    assert len(made.SegmentSequence) == 300
    assert int(made.pixel_array.sum()) == 300


def test_a_mask_on_another_grid_is_not_encoded(oblique: SeriesVolume) -> None:
    masks = two_masks(oblique.volume.spatial_shape)
    labels = localization_of(oblique.volume, masks).labels
    moved = oblique.volume.affine.copy()
    moved[0, 3] += 0.4  # mm, less than half a pixel
    elsewhere = hd.Volume(
        labels.array,
        moved,
        coordinate_system="PATIENT",
        frame_of_reference_uid=oblique.volume.frame_of_reference_uid,
    )

    with pytest.raises(MisplacedMask):
        on_source_grid(elsewhere, oblique)


@pytest.mark.parametrize(("other", "told"), [(5, "mm from the slice"), (3, "name")], ids=["swapped", "named twice"])
def test_slices_that_name_other_images_are_noticed(other: int, told: str, oblique: SeriesVolume) -> None:
    found = localization_of(oblique.volume, [ball(oblique.volume.spatial_shape, (3, 20, 20), (1.5, 5, 5))])
    source = list(oblique.source)
    source[2] = source[other]

    with pytest.raises(MisplacedMask, match=told):
        segmentation_object(replace(oblique, source=tuple(source)), found)


def test_frames_of_a_label_map_that_name_other_slices_are_noticed(oblique: SeriesVolume) -> None:
    found = localization_of(oblique.volume, [ball(oblique.volume.spatial_shape, (3, 20, 20), (1.5, 5, 5))])
    made = opened(segmentation_object(oblique, found, segmentation="labelmap"))
    frames = made.PerFrameFunctionalGroupsSequence
    uid = frames[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    frames[1].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = uid

    with pytest.raises(MisplacedMask, match="mm from the slice"):
        check_frames(made, found.labels.array, oblique)


def test_a_label_that_no_finding_explains_is_noticed(oblique: SeriesVolume) -> None:
    found = found_in(oblique)
    found.labels.array[0, 0, 0] = 9

    with pytest.raises(MisplacedMask, match="2 findings, and 3 labels"):
        segmentation_object(oblique, found)


def test_frames_need_not_be_whole_bytes(tmp_path: Path) -> None:
    series = read_series(write(SeriesPlan(shape=(6, 21, 33)), tmp_path / "source"))  # 693 pixels a frame
    localization = found_in(series)

    made = opened(segmentation_object(series, localization))

    read = hd.seg.Segmentation.from_dataset(made).get_pixels_by_source_instance(
        [str(header.SOPInstanceUID) for header in series.source], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(read, localization.labels.array)


def test_source_without_slice_thickness_gives_a_segmentation(tmp_path: Path) -> None:
    def forget(dataset: Dataset, index: int) -> None:
        del dataset.SliceThickness

    series = read_series(write(SeriesPlan(edit=forget), tmp_path / "source"))

    made = dcmread(BytesIO(segmentation_object(series, found_in(series)).data))

    # the slice distance of the plan, since the header has no thickness
    assert float(made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == pytest.approx(5.5)
