"""From files to a checked volume: what is read, what is refused, and with which code and numbers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.pixels import stream_size
from dicom_node.planes import affine_index_to_lps, planes_of, sort_planes
from dicom_node.series import Unsuitable, UnsuitableSeries, read_series
from tests.dicom_node.results.builders import AXIAL, OBLIQUE, SAGITTAL, SeriesPlan, axial, datasets, pixels_of, save, write

Datasets = list[FileDataset]


def refusal(made: Datasets, folder: Path) -> UnsuitableSeries:
    with pytest.raises(UnsuitableSeries) as caught:
        read_series(save(made, folder))
    return caught.value


@pytest.mark.parametrize("falling", [False, True], ids=["numbered upwards", "numbered downwards"])
@pytest.mark.parametrize("directions", [AXIAL, OBLIQUE, SAGITTAL], ids=["axial", "oblique", "sagittal"])
def test_every_voxel_lies_where_its_header_says(
    directions: tuple[np.ndarray, np.ndarray], falling: bool, tmp_path: Path
) -> None:
    plan = SeriesPlan(directions=directions, falling=falling, spacing_mm=(5.5, 0.8, 1.1))

    series = read_series(write(plan, tmp_path))

    assert series.volume.array.dtype == np.float32
    for index, header in enumerate(series.source):
        orientation = np.array(header.ImageOrientationPatient, dtype=float)
        corner = np.array(header.ImagePositionPatient, dtype=float)
        row, column = 7, 31  # PS3.3 equation C.7.6.2.1-1; rows 0.8 mm apart, columns 1.1 mm
        expected = corner + orientation[:3] * 1.1 * column + orientation[3:] * 0.8 * row
        found = series.volume.map_indices_to_reference(np.array([[index, row, column]]))[0]
        assert np.allclose(found, expected, atol=1e-3)


def test_the_volume_equals_highdicoms(tmp_path: Path) -> None:
    files = write(SeriesPlan(), tmp_path)

    series = read_series(files)

    theirs = hd.get_volume_from_series([dcmread(file) for file in files], dtype=np.float32)
    assert np.array_equal(series.volume.array, theirs.array)
    assert np.allclose(series.volume.affine, theirs.affine, atol=1e-6)
    assert series.volume.frame_of_reference_uid == theirs.frame_of_reference_uid


def test_slices_and_headers_are_in_the_same_order_and_without_pixels(tmp_path: Path) -> None:
    plan = SeriesPlan()
    by_number = {index + 1: plane for index, plane in enumerate(pixels_of(plan))}

    series = read_series(write(plan, tmp_path)[::-1])

    for index, header in enumerate(series.source):
        assert np.array_equal(series.volume.array[index], by_number[header.InstanceNumber])
        assert "PixelData" not in header
    assert series.notes == ()


def test_a_missing_slice_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    made = datasets(SeriesPlan())
    del made[5]

    error = refusal(made, tmp_path)

    assert error.code is Unsuitable.GAP
    # 5.5 mm twice where one slice is gone; a tenth of 5.5 mm is allowed
    assert error.text == "slice gap 11.00 mm between instance 7 and instance 5, expected 5.50 mm within 0.55 mm"


def test_a_sheared_stack_is_refused_instead_of_straightened(tmp_path: Path) -> None:
    def shear(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [-20 + 0.06 * index, -20, 3.0 * index]  # 1.1 degrees: highdicom takes it

    plan = SeriesPlan(directions=AXIAL, spacing_mm=(3.0, 0.9, 0.9), edit=shear)
    assert hd.get_volume_from_series(datasets(plan)).spatial_shape == plan.shape

    error = refusal(datasets(plan), tmp_path)

    assert error.code is Unsuitable.SHEARED
    assert "0.66 mm" in error.text  # 11 slices x 0.06 mm
    assert "limit 0.10 mm" in error.text


def test_a_drift_below_the_tolerance_of_every_gap_is_noticed_in_sum(tmp_path: Path) -> None:
    def squeeze(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [0, 0, 2.0 * index + 0.02 * index * index]

    error = refusal(datasets(SeriesPlan(directions=AXIAL, edit=squeeze)), tmp_path)

    assert error.code is Unsuitable.IRREGULAR_SPACING


def test_rounded_positions_are_accepted(tmp_path: Path) -> None:
    def rounded(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [f"{float(value):.2f}" for value in dataset.ImagePositionPatient]

    assert read_series(write(SeriesPlan(edit=rounded), tmp_path)).volume.spatial_shape == (12, 48, 40)


def test_a_slice_sent_twice_is_used_once_and_said(tmp_path: Path) -> None:
    made = datasets(SeriesPlan())
    twin = deepcopy(made[3])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.99"
    twin.InstanceNumber = 40

    series = read_series(save([*made, twin], tmp_path))

    assert len(series.volume.array) == 12
    assert len(series.notes) == 1
    assert "instance 40" in series.notes[0]


def test_two_images_in_one_place_are_refused(tmp_path: Path) -> None:
    made = datasets(SeriesPlan())
    twin = deepcopy(made[3])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.99"
    twin.PixelData = bytes(len(twin.PixelData))

    error = refusal([*made, twin], tmp_path)

    assert error.code is Unsuitable.DUPLICATE_POSITION


def test_the_largest_stack_is_taken_and_the_rest_said(tmp_path: Path) -> None:
    scouts = datasets(SeriesPlan(shape=(3, 48, 40), directions=SAGITTAL))
    for number, scout in enumerate(scouts):
        scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.8.{number}"

    series = read_series(save([*scouts, *datasets(SeriesPlan())], tmp_path))

    assert len(series.volume.array) == 12
    assert series.notes == ("3 of 15 images have another orientation than the rest and were not used.",)


def _drop(*keywords: str) -> Callable[[Datasets], Datasets]:
    def edit(made: Datasets) -> Datasets:
        for keyword in keywords:
            del made[4][keyword]
        return made

    return edit


def _put(**values: object) -> Callable[[Datasets], Datasets]:
    def edit(made: Datasets) -> Datasets:
        for keyword, value in values.items():
            setattr(made[4], keyword, value)
        return made

    return edit


def _three_planes(made: Datasets) -> Datasets:
    other = datasets(SeriesPlan(directions=SAGITTAL, series_uid="1.2.826.0.1.3680043.8.498.1.5"))
    for number, dataset in enumerate(other):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.8.{number}"
    return [*made, *other]


def _smaller(made: Datasets) -> Datasets:
    made[4].Rows, made[4].Columns = 24, 40
    made[4].PixelData = made[4].PixelData[: 24 * 40 * 2]
    return made


def _truncated(made: Datasets) -> Datasets:
    made[4].PixelData = made[4].PixelData[:100]
    return made


def _garbage(made: Datasets) -> Datasets:
    made[4].file_meta.TransferSyntaxUID = JPEGLSLossless
    made[4].PixelData = encapsulate([b"\xff\xd8\xff\xd9 not an image"])
    return made


def _colour(made: Datasets) -> Datasets:
    made[4].SamplesPerPixel, made[4].PhotometricInterpretation = 3, "RGB"
    return made


REFUSALS: dict[str, tuple[Unsuitable, Callable[[Datasets], Datasets]]] = {
    "one image": (Unsuitable.TOO_FEW_SLICES, lambda made: made[:1]),
    "no pixel data": (Unsuitable.NO_PIXEL_DATA, _drop("PixelData")),
    "not an image": (Unsuitable.NO_PIXEL_DATA, _drop("Rows", "Columns", "PixelData")),
    "empty pixel data": (Unsuitable.NO_PIXEL_DATA, _put(PixelData=b"")),
    "truncated pixel data": (Unsuitable.UNDECODABLE, _truncated),
    "a stream that is no image": (Unsuitable.UNDECODABLE, _garbage),
    "colour": (Unsuitable.NOT_MONOCHROME, _colour),
    "palette": (Unsuitable.NOT_MONOCHROME, _put(PhotometricInterpretation="PALETTE COLOR")),
    "no position": (Unsuitable.MISSING_GEOMETRY, _drop("ImagePositionPatient")),
    "no orientation": (Unsuitable.MISSING_GEOMETRY, _drop("ImageOrientationPatient")),
    "no pixel spacing": (Unsuitable.MISSING_GEOMETRY, _drop("PixelSpacing")),
    "empty position": (Unsuitable.MISSING_GEOMETRY, _put(ImagePositionPatient=None)),
    "position of two numbers": (Unsuitable.MISSING_GEOMETRY, _put(ImagePositionPatient=[1, 2])),
    "orientation of zeros": (Unsuitable.BAD_GEOMETRY, _put(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])),
    "rows along columns": (Unsuitable.BAD_GEOMETRY, _put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
    "negative pixel spacing": (Unsuitable.BAD_GEOMETRY, _put(PixelSpacing=[-1, 1])),
    "no frame of reference": (Unsuitable.NO_FRAME_OF_REFERENCE, _drop("FrameOfReferenceUID")),
    "two frames of reference": (Unsuitable.MIXED_FRAME_OF_REFERENCE, _put(FrameOfReferenceUID="1.2.3")),
    "two series": (Unsuitable.MIXED_SERIES, _put(SeriesInstanceUID="1.2.3")),
    "two sizes": (Unsuitable.MIXED_SIZE, _smaller),
    "two pixel spacings": (Unsuitable.MIXED_PIXEL_SPACING, _put(PixelSpacing=[0.902, 0.902])),
    "two stacks of one size": (Unsuitable.MIXED_ORIENTATION, _three_planes),
    "a billion pixels declared": (Unsuitable.TOO_LARGE, _put(Rows=60000, Columns=60000)),
    "not a slope": (Unsuitable.BAD_RESCALE, _put(RescaleSlope="1e30", RescaleIntercept="1e39")),
    "several multi-frame images": (Unsuitable.SEVERAL_MULTIFRAME, _put(SharedFunctionalGroupsSequence=[Dataset()])),
}


@pytest.mark.feature("D4")
@pytest.mark.parametrize(("code", "spoil"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_what_cannot_be_a_volume_is_refused_with_a_code(
    code: Unsuitable, spoil: Callable[[Datasets], Datasets], tmp_path: Path
) -> None:
    error = refusal(spoil(datasets(SeriesPlan(directions=AXIAL))), tmp_path)

    assert error.code is code
    assert "Yamada" not in error.text


def test_a_file_that_is_not_dicom_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "abc.dcm"
    path.write_bytes(b"not DICOM" * 100)

    with pytest.raises(UnsuitableSeries, match=r"abc\.dcm is not readable") as caught:
        read_series([path])

    assert caught.value.code is Unsuitable.UNREADABLE


def test_no_files_are_refused() -> None:
    with pytest.raises(UnsuitableSeries) as caught:
        read_series([])

    assert caught.value.code is Unsuitable.NO_FILES


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
def test_compressed_pixels_are_the_same_pixels(syntax: str, tmp_path: Path) -> None:
    made = datasets(SeriesPlan())
    plain = read_series(save(made, tmp_path / "plain"))
    for dataset in made:
        compress(dataset, syntax, generate_instance_uid=False)

    assert np.array_equal(read_series(save(made, tmp_path / "compressed")).volume.array, plain.volume.array)


def test_jpeg_lossless_is_decoded(tmp_path: Path) -> None:
    made = datasets(SeriesPlan(shape=(2, 16, 16)))
    for dataset in made:
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = encapsulate([_jpeg_lossless_of_constant(16, 16, 12)])

    series = read_series(save(made, tmp_path))

    assert np.all(series.volume.array == 2048)  # 2 ** (precision - 1): the first prediction of ITU-T T.81 H.1.2.1


def _jpeg_lossless_of_constant(rows: int, columns: int, precision: int) -> bytes:
    """A lossless JPEG (process 14, selection value 1) of which every difference is zero.

    One Huffman code of one bit, `0`, for category 0: the scan is rows x columns zero bits, padded with ones.
    """
    header = b"\xff\xd8"
    header += b"\xff\xc3" + bytes([0, 11, precision, 0, rows, 0, columns, 1, 1, 0x11, 0])
    header += b"\xff\xc4" + bytes([0, 20, 0, 1, *[0] * 15, 0])
    header += b"\xff\xda" + bytes([0, 8, 1, 1, 0, 1, 0, 0])
    whole, rest = divmod(rows * columns, 8)
    return header + bytes(whole) + (bytes([0xFF >> rest]) if rest else b"") + b"\xff\xd9"


def test_a_stream_larger_than_its_header_is_refused_before_decoding(tmp_path: Path) -> None:
    made = datasets(SeriesPlan(shape=(2, 16, 16)))
    for dataset in made:
        compress(dataset, JPEGLSLossless, generate_instance_uid=False)
    # height and width of JPEG-LS's start of frame (ITU-T T.87 C.2.2), 16 x 16 made 65,000 x 65,000
    made[0].PixelData = made[0].PixelData.replace(b"\x0c\x00\x10\x00\x10", b"\x0c\xfd\xe8\xfd\xe8")

    error = refusal(made, tmp_path)

    assert error.code is Unsuitable.UNDECODABLE
    assert "65000 x 65000, the header says 16 x 16" in error.text


@given(st.binary(max_size=300))
def test_any_bytes_have_a_size_or_none(stream: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51"):
        size = stream_size(start + stream)
        assert size is None or len(size) == 2


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    plain = read_series(write(SeriesPlan(), tmp_path / "plain")).volume.array

    scaled = read_series(
        write(SeriesPlan(attributes={"RescaleSlope": "2.5", "RescaleIntercept": "-10"}), tmp_path / "scaled")
    ).volume.array

    assert np.allclose(scaled, plain * 2.5 - 10)


def test_signed_pixels_keep_their_sign(tmp_path: Path) -> None:
    def make_signed(dataset: Dataset, index: int) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").astype(np.int16) - 300
        dataset.PixelRepresentation = 1
        dataset.PixelData = values.astype("<i2").tobytes()

    plan = SeriesPlan(edit=make_signed)

    array = read_series(write(plan, tmp_path)).volume.array

    assert np.array_equal(array[::-1], pixels_of(plan).astype(np.float32) - 300)  # highdicom counts from the top down


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_bits_above_the_stored_ones_do_not_count(signed: bool, tmp_path: Path) -> None:
    def put_overlay(dataset: Dataset, index: int) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").astype(np.int32) - (300 if signed else 0)
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = ((values & 0x0FFF) | 0x5000).astype("<u2").tobytes()  # 12 bits stored, the rest is noise

    plan = SeriesPlan(edit=put_overlay)

    array = read_series(write(plan, tmp_path)).volume.array

    assert np.array_equal(array[::-1], pixels_of(plan).astype(np.float32) - (300 if signed else 0))


def test_big_endian_is_read(tmp_path: Path) -> None:
    made = datasets(SeriesPlan())
    plain = read_series(save(made, tmp_path / "plain"))
    for dataset in made:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.set_original_encoding(False, False)
        dataset.save_as(tmp_path / f"{dataset.InstanceNumber}.dcm", enforce_file_format=True)

    assert np.array_equal(read_series(sorted(tmp_path.glob("*.dcm"))).volume.array, plain.volume.array)


def test_what_the_reader_should_know_of_the_pixels_is_said(tmp_path: Path) -> None:
    plan = SeriesPlan(attributes={"PhotometricInterpretation": "MONOCHROME1", "LossyImageCompression": "01"})

    notes = read_series(write(plan, tmp_path)).notes

    assert [note.split()[-1] for note in notes] == ["stored.", "loss."]


@given(
    tilt_x=st.floats(-40, 40),
    tilt_z=st.floats(-40, 40),
    gap=st.floats(0.5, 8),
    spacing=st.floats(0.3, 2),
    count=st.integers(2, 9),
)
def test_any_even_stack_fits_its_affine(tilt_x: float, tilt_z: float, gap: float, spacing: float, count: int) -> None:
    plan = SeriesPlan(shape=(count, 4, 5), directions=axial(tilt_x, tilt_z), spacing_mm=(gap, spacing, spacing))
    made = datasets(plan)

    affine = affine_index_to_lps(sort_planes(planes_of(made)))

    assert np.linalg.det(affine[:3, :3]) == pytest.approx(gap * spacing * spacing, rel=1e-3)
    last = affine @ np.array([count - 1, 0, 0, 1])
    assert np.allclose(last[:3], np.array(made[0].ImagePositionPatient, dtype=float), atol=0.01)
