"""Series that hold more than one stack: echoes, components, stacks of one multi-frame image, enhanced MR and CT."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, EnhancedMRImageStorage

from dicom_node.outcome import KIND_OF_OBJECT, OutputOptions
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import Unsuitable, UnsuitableSeries, read_series
from dicom_node.validate import validate
from tests.dicom_node.results.builders import (
    SeriesPlan,
    account_of,
    datasets,
    localization_of,
    pixels_of,
    save,
    two_masks,
)
from tests.dicom_node.results.tools import complaints as by_validator

PLAN = SeriesPlan(shape=(8, 48, 40))
FLAIR_MS = (70.0, 180.0)


def variant(first_number: int, seed: int, **attributes: object) -> list[FileDataset]:
    """The plan's instances with other pixels and attributes."""
    made = datasets(SeriesPlan(shape=PLAN.shape, seed=seed, attributes=attributes))
    for offset, one in enumerate(made):
        number = first_number + offset
        one.InstanceNumber = number
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{PLAN.series_uid}.9.{number}"
    return made


def expected(seed: int) -> np.ndarray:
    """The pixels of that seed in the order of a volume: against the normal."""
    return pixels_of(SeriesPlan(shape=PLAN.shape, seed=seed))[::-1]


@pytest.mark.feature("D4")
def test_the_echo_the_model_is_for_is_taken_and_said(tmp_path: Path) -> None:
    files = save([*variant(1, 1, EchoTime="20"), *variant(101, 2, EchoTime="100")], tmp_path)

    series = read_series(files, FLAIR_MS)

    assert np.array_equal(series.volume.array, expected(2))
    assert series.notes == ("The series holds 2 echoes; the one of 100 ms was used.",)


@pytest.mark.feature("D4")
@pytest.mark.parametrize(
    ("wanted", "text"),
    [(None, "none is asked for"), ((10.0, 200.0), "2 of them"), ((1.0, 2.0), "0 of them")],
    ids=["no range", "both inside", "both outside"],
)
def test_echoes_that_nothing_decides_between_are_refused(wanted: tuple[float, float] | None, text: str, tmp_path: Path) -> None:
    files = save([*variant(1, 1, EchoTime="20"), *variant(101, 2, EchoTime="100")], tmp_path)

    with pytest.raises(UnsuitableSeries, match=text) as caught:
        read_series(files, wanted)

    assert caught.value.code == Unsuitable.SEVERAL_ECHOES


def test_magnitude_is_taken_before_phase(tmp_path: Path) -> None:
    phase = variant(101, 2, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
    files = save([*variant(1, 1, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"]), *phase], tmp_path)

    series = read_series(files)

    assert np.array_equal(series.volume.array, expected(1))
    assert series.notes == ("The series holds magnitude and phase images; the magnitude images were used.",)


def test_an_echo_time_that_varies_from_slice_to_slice_is_no_second_echo(tmp_path: Path) -> None:
    def vary(dataset: Dataset, index: int) -> None:
        dataset.EchoTime = f"{100 + index % 2}"

    series = read_series(save(datasets(SeriesPlan(shape=PLAN.shape, edit=vary)), tmp_path))

    assert len(series.volume.array) == 8
    assert series.notes == ()


TIMES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "temporal positions": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    "acquisitions": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
    "trigger times": ({"TriggerTime": "0"}, {"TriggerTime": "812.5"}),
    "acquisition times": ({"AcquisitionTime": "101500"}, {"AcquisitionTime": "101530.25"}),
}


@pytest.mark.feature("D4")
@pytest.mark.parametrize(("early", "late"), list(TIMES.values()), ids=list(TIMES))
def test_the_first_whole_time_point_is_taken_and_said(
    early: dict[str, object], late: dict[str, object], tmp_path: Path
) -> None:
    files = save([*variant(101, 2, **late), *variant(1, 1, **early)], tmp_path)

    series = read_series(files)

    assert np.array_equal(series.volume.array, expected(1))
    assert series.notes == ("The series holds 2 time points; the first whole one, of 8 images, was used.",)


def test_a_time_point_that_was_cut_short_is_not_the_one(tmp_path: Path) -> None:
    times = [variant(1 + 100 * time, time, TemporalPositionIdentifier=time) for time in range(1, 4)]

    series = read_series(save([*times[0][:5], *times[1], *times[2]], tmp_path))

    assert np.array_equal(series.volume.array, expected(2))


def test_one_slice_taken_again_is_refused_as_a_duplicate(tmp_path: Path) -> None:
    files = save([*variant(1, 1, AcquisitionNumber=1), variant(101, 2, AcquisitionNumber=2)[3]], tmp_path)

    with pytest.raises(UnsuitableSeries) as caught:
        read_series(files)

    assert caught.value.code == Unsuitable.DUPLICATE_POSITION


def standard_b(dataset: Dataset, b: float) -> None:
    dataset.DiffusionBValue = b


def siemens_b(dataset: Dataset, b: float) -> None:
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", int(b))


def ge_b(dataset: Dataset, b: float) -> None:
    dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [1_000_000_000 + int(b), 8, 0, 0])


def philips_b(dataset: Dataset, b: float) -> None:
    dataset.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", b)


@pytest.mark.feature("D4")
@pytest.mark.parametrize("write_b", [standard_b, siemens_b, ge_b, philips_b])
def test_several_diffusion_weightings_are_refused_with_their_b_values(
    write_b: Callable[[Dataset, float], None], tmp_path: Path
) -> None:
    made = [*variant(1, 1), *variant(101, 2)]
    for number, one in enumerate(made):
        write_b(one, 0.0 if number < 8 else 1000.0)

    with pytest.raises(UnsuitableSeries, match="b 0, 1000 s/mm2") as caught:
        read_series(save(made, tmp_path))

    assert caught.value.code == Unsuitable.SEVERAL_B_VALUES


@pytest.mark.feature("D4")
def test_the_largest_of_several_stacks_of_single_images_is_taken(tmp_path: Path) -> None:
    files = save([*variant(1, 1, StackID="1")[:3], *variant(101, 2, StackID="2")], tmp_path)

    series = read_series(files)

    assert np.array_equal(series.volume.array, expected(2))
    assert series.notes == ("The series holds 2 stacks; the largest, of 8 frames, was used.",)


# ------------------------------------------------------------------------------------------ enhanced images


def enhanced(groups: list[tuple[list[FileDataset], str, float | None]], sop_class: str = EnhancedMRImageStorage) -> FileDataset:
    """One multi-frame instance of these stacks: their classic images, Stack ID and effective echo time."""
    first = groups[0][0][0]
    image = dcmread(BytesIO(_bytes(first)))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime",
                    "SpacingBetweenSlices"):  # fmt: skip
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class
    shared, measures, direction = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    measures.SpacingBetweenSlices = first.SpacingBetweenSlices
    direction.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([direction])
    frames, pixels = [], b""
    for made, stack, echo_ms in groups:
        for place, one in enumerate(made, start=1):
            frames.append(_frame(one, stack, place, echo_ms))
            pixels += one.PixelData
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image.NumberOfFrames = len(frames)
    image.PixelData = pixels
    return image


def _frame(one: Dataset, stack: str, place: int, echo_ms: float | None) -> Dataset:
    frame, content, position = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = stack, place
    position.ImagePositionPatient = one.ImagePositionPatient
    frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([position])
    if echo_ms is not None:
        echo = Dataset()
        echo.EffectiveEchoTime = echo_ms
        frame.MREchoSequence = Sequence([echo])
    if "RescaleSlope" in one:
        rescale = Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = one.RescaleSlope, one.RescaleIntercept, "HU"
        frame.PixelValueTransformationSequence = Sequence([rescale])
    return frame


def _bytes(dataset: FileDataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.feature("D4")
def test_an_echo_of_an_enhanced_image_is_taken_with_its_frames(tmp_path: Path) -> None:
    files = save([enhanced([(variant(1, 1), "1", 20.0), (variant(101, 2), "1", 100.0)])], tmp_path)

    series = read_series(files, FLAIR_MS)

    assert np.array_equal(series.volume.array, expected(2))
    assert sorted(series.frames) == list(range(9, 17))


@pytest.mark.feature("D4")
def test_the_largest_stack_of_an_enhanced_image_is_taken_and_said(tmp_path: Path) -> None:
    files = save([enhanced([(variant(1, 1)[:3], "1", None), (variant(101, 2), "2", None)])], tmp_path)

    series = read_series(files)

    assert np.array_equal(series.volume.array, expected(2))
    assert series.notes == ("The series holds 2 stacks; the largest, of 8 frames, was used.",)


def test_two_stacks_of_one_size_are_refused(tmp_path: Path) -> None:
    files = save([enhanced([(variant(1, 1), "1", None), (variant(101, 2), "2", None)])], tmp_path)

    with pytest.raises(UnsuitableSeries) as caught:
        read_series(files)

    assert caught.value.code == Unsuitable.SEVERAL_STACKS


def _ct() -> list[FileDataset]:
    made = datasets(SeriesPlan(shape=PLAN.shape, attributes={"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}))
    for one in made:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.KVP = "120"
    return made


@pytest.mark.feature("E1")
@pytest.mark.parametrize(
    "kind", ["enhanced MR", "enhanced MR, two times", "enhanced CT", "legacy-converted CT", "classic CT", "dynamic"]
)
def test_every_object_of_an_enhanced_series_refers_to_its_frames(kind: str, tmp_path: Path) -> None:
    images: list[FileDataset]
    if kind == "enhanced MR":
        images = [enhanced([(variant(1, 1), "1", 20.0), (variant(101, 2), "1", 100.0)])]
    elif kind == "enhanced MR, two times":
        images = [enhanced([(variant(1, 1), "1", None), (variant(101, 2), "1", None)])]
        for number, frame in enumerate(images[0].PerFrameFunctionalGroupsSequence):
            frame.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 8
    elif kind == "dynamic":
        images = [*variant(1, 1, TemporalPositionIdentifier=1), *variant(101, 2, TemporalPositionIdentifier=2)]
    elif kind == "enhanced CT":
        images = [enhanced([(_ct(), "1", None)], EnhancedCTImageStorage)]
    elif kind == "legacy-converted CT":
        images = [LegacyConvertedEnhancedCTImage(_ct(), "1.2.826.0.1.3680043.8.498.7", 6, "1.2.826.0.1.3680043.8.498.7.1", 1)]
    else:
        images = _ct()
    files = save(images, tmp_path / "source")
    series = read_series(files, FLAIR_MS)
    found = localization_of(series.volume, two_masks(series.volume.spatial_shape), pseudo_healthy=series.volume)
    told = account_of(series, found, output=OutputOptions(objects=tuple(KIND_OF_OBJECT)))

    paths = []
    for number, one in enumerate(encode(told, identity_of(told))):
        paths.append(tmp_path / f"{one.kind}-{number}.dcm")
        paths[-1].write_bytes(one.data)

    found_wrong, _ = validate([*files, *paths])
    ours = {str(path) for path in paths}
    assert by_validator(paths[0]) == []
    assert len(series.volume.array) == 8
    assert [one for one in found_wrong if one.severity == "error" and one.file in ours] == []
    if "CT" in kind:
        assert series.volume.array.min() < -900
