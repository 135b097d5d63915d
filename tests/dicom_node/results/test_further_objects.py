"""The objects that a site may ask for beside segmentation and report, as readers, validators and an archive see them."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.outcome import KIND_OF_OBJECT, OutputOptions, Predecessor, Reason, ResultObject
from dicom_node.results import codes
from dicom_node.results.account import Account
from dicom_node.results.burned import NOT_ACQUIRED, lettering
from dicom_node.results.document import pdf_of
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import SeriesVolume, read_series
from inference.types import Localization
from tests.dicom_node.results.builders import (
    OBLIQUE,
    SAGITTAL,
    SeriesPlan,
    account_of,
    localization_of,
    two_masks,
    write,
)
from tests.dicom_node.results.test_report import items
from tests.dicom_node.results.tools import complaints, contradictions, segments_read_by_dcmqi, tool
from tests.peers import Orthanc, Sender, running_orthanc

ALL = tuple(KIND_OF_OBJECT)


@pytest.fixture(scope="module", params=[(OBLIQUE, False), (SAGITTAL, True)], ids=["oblique", "sagittal, numbered downwards"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directions, falling = request.param
    return write(SeriesPlan(directions=directions, falling=falling), tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def series(files: list[Path]) -> SeriesVolume:
    return read_series(files)


@pytest.fixture(scope="module")
def found(series: SeriesVolume) -> Localization:
    return with_everything(series)


def with_everything(series: SeriesVolume) -> Localization:
    """A localization with a score that differs at every voxel, an estimate and an uncertainty."""
    volume = series.volume
    localization = localization_of(volume, two_masks(volume.spatial_shape))
    inside = localization.brain.array > 0
    score = np.random.default_rng(1).uniform(0, 6, volume.spatial_shape) * inside
    return replace(
        localization,
        score=volume.with_array(score.astype(np.float32)),
        pseudo_healthy=volume.with_array((volume.array * 0.9).astype(np.float32)),
        uncertainty=volume.with_array((volume.array / 1000).astype(np.float32)),
    )


def account(series: SeriesVolume, found: Localization | None, **options: object) -> Account:
    output = OutputOptions(**{"objects": ALL, **options})  # type: ignore[arg-type]
    reason = None if found is not None else Reason("contrast", "T1 weighted, the model is for FLAIR")
    return account_of(series, found, output=output, reason=reason)


def made(series: SeriesVolume, found: Localization | None, **options: object) -> dict[str, list[ResultObject]]:
    told = account(series, found, **options)
    by_kind: dict[str, list[ResultObject]] = {}
    for one in encode(told, identity_of(told)):
        by_kind.setdefault(one.kind, []).append(one)
    return by_kind


def opened(one: ResultObject) -> Dataset:
    return opened_bytes(one.data)


def opened_bytes(data: bytes) -> Dataset:
    return dcmread(BytesIO(data))


@pytest.mark.slow
@pytest.mark.feature("E8")
@pytest.mark.parametrize("map_values", ["float32", "uint16"])
def test_validators_have_nothing_to_say(
    series: SeriesVolume, found: Localization, files: list[Path], map_values: str, tmp_path: Path
) -> None:
    objects = made(series, found, map_values=map_values)

    paths = []
    for kind, ones in objects.items():
        for number, one in enumerate(ones):
            path = tmp_path / f"{kind}-{number}.dcm"
            path.write_bytes(one.data)
            paths.append(path)
        assert complaints(tmp_path / f"{kind}-0.dcm") == []
    assert set(objects) == set(KIND_OF_OBJECT.values())
    assert contradictions([*files, *paths]) == []


@pytest.mark.feature("E3")
@pytest.mark.parametrize("map_extent", ["whole", "brain"])
@pytest.mark.parametrize(("map_values", "step"), [("float32", 0.0), ("uint16", 6 / 65535)])
@pytest.mark.parametrize("kind", ["MAP", "UNCERTAINTY"])
def test_a_map_holds_the_values_at_their_places(
    series: SeriesVolume, found: Localization, kind: str, map_values: str, step: float, map_extent: str
) -> None:
    expected = found.score if kind == "MAP" else found.uncertainty
    assert expected is not None

    (one,) = made(series, found, map_values=map_values, map_extent=map_extent)[kind]

    # not decoded at once: highdicom 0.28 cannot map floats that it holds already
    image = hd.imread(BytesIO(one.data), lazy_frame_retrieval=True)
    read = image.get_volume(apply_real_world_transform=True, dtype=np.float64)
    box = np.ptp(np.argwhere(found.brain.array > 0), axis=0) + 1
    assert read.array.size == np.prod(series.volume.spatial_shape if map_extent == "whole" else box)  # and not a voxel more
    to_source = np.linalg.inv(series.volume.affine) @ read.affine
    indices = np.indices(read.shape).reshape(3, -1)
    there = (to_source[:3, :3] @ indices + to_source[:3, 3:]).round(1)
    assert np.allclose(there, there.round(), atol=0.05)
    theirs = expected.array[tuple(there.round().astype(int))]
    assert np.allclose(read.array.ravel(), theirs, atol=step / 2 + 2e-6)


@pytest.mark.feature("E3")
def test_every_frame_of_a_map_names_the_image_it_lies_on(series: SeriesVolume, found: Localization) -> None:
    (one,) = made(series, found)["MAP"]

    headers = {header.SOPInstanceUID: header for header in series.source}
    for frame in opened(one).PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        header = headers[source.ReferencedSOPInstanceUID]
        normal = np.cross(header.ImageOrientationPatient[:3], header.ImageOrientationPatient[3:])
        off = np.subtract(frame.PlanePositionSequence[0].ImagePositionPatient, header.ImagePositionPatient)
        assert abs(off @ normal) < 0.01


@pytest.mark.feature("E3")
def test_a_map_says_its_quantity_and_unit(series: SeriesVolume, found: Localization) -> None:
    (one,) = made(series, found)["MAP"]

    (mapping,) = opened(one).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "{score}"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Departure score"


@pytest.mark.feature("E8")
@pytest.mark.parametrize("map_extent", ["whole", "brain"])
def test_dcmqi_reads_the_same_map(series: SeriesVolume, found: Localization, map_extent: str, tmp_path: Path) -> None:
    (one,) = made(series, found, map_extent=map_extent)["MAP"]
    (tmp_path / "map.dcm").write_bytes(one.data)
    command = [tool("paramap2itkimage"), "--inputDICOM", tmp_path / "map.dcm", "--outputDirectory", tmp_path, "-t", "nifti"]

    subprocess.run(command, capture_output=True, check=True)

    image = nibabel.load(next(tmp_path.glob("*.nii.gz")))
    affine_index_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    slope = json.loads(next(tmp_path.glob("*.json")).read_text(encoding="utf-8"))["RealWorldValueSlope"]
    values = np.asarray(image.dataobj) * float(slope)  # dcmqi gives what is stored, and beside it the mapping
    points = affine_index_to_lps @ np.vstack([np.indices(values.shape).reshape(3, -1), np.ones(values.size)])
    indices = (np.linalg.inv(series.volume.affine) @ points)[:3].round().astype(int)
    assert np.allclose(values.ravel(), found.score.array[tuple(indices)], atol=1e-5)


@pytest.mark.feature("E4")
def test_the_estimate_lies_slice_for_slice_on_the_source(series: SeriesVolume, found: Localization) -> None:
    images = [opened(one) for one in made(series, found)["HEALTHY"]]

    assert found.pseudo_healthy is not None
    assert len(images) == len(series.source)
    _, box = lettering(NOT_ACQUIRED, *images[0].pixel_array.shape)
    for image, header, expected in zip(images, series.source, found.pseudo_healthy.array, strict=True):
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert image.ImagePositionPatient == header.ImagePositionPatient
        assert image.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert np.allclose(image.pixel_array[~box], expected[~box], atol=0.5)  # stored as whole numbers


@pytest.mark.feature("E4")
def test_nobody_can_take_the_estimate_for_acquired(series: SeriesVolume, found: Localization) -> None:
    for one in made(series, found)["HEALTHY"]:
        image = opened(one)
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "not acquired" in image.SeriesDescription
        assert "not acquired" in image.DerivationDescription
        assert image.BurnedInAnnotation == "YES"
        text, box = lettering(NOT_ACQUIRED, image.Rows, image.Columns)
        brightest = image.pixel_array == image.pixel_array[text].max()
        assert text.sum() > 30
        assert np.array_equal(brightest & box, text)


@pytest.mark.feature("E4")
def test_an_estimate_of_small_numbers_keeps_its_greys(series: SeriesVolume, found: Localization) -> None:
    small = replace(found, pseudo_healthy=series.volume.with_array(series.volume.array / 1000 - 0.2))

    image = opened(made(series, small)["HEALTHY"][4])

    _, box = lettering(NOT_ACQUIRED, *image.pixel_array.shape)
    values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    assert np.allclose(values[~box], (series.volume.array[4] / 1000 - 0.2)[~box], atol=1e-4)


@pytest.mark.feature("E4")
def test_captures_show_the_marked_slices_with_outline_and_warning(series: SeriesVolume, found: Localization) -> None:
    images = [opened(one) for one in made(series, found)["CAPTURE"]]

    marked = [header.SOPInstanceUID for header, plane in zip(series.source, found.labels.array, strict=True) if plane.any()]
    assert [image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in images] == marked
    for image in images:
        pixels = image.pixel_array
        assert image.BurnedInAnnotation == "YES"
        assert "FrameOfReferenceUID" not in image
        assert np.all(pixels == (255, 210, 0), axis=-1).sum() > 200  # the warning
        coloured = np.ptp(pixels[40:].astype(int), axis=-1) > 60
        assert coloured.sum() > 20  # the outline


@pytest.mark.feature("E4")
def test_the_presentation_state_outlines_the_marked_pixels(series: SeriesVolume, found: Localization) -> None:
    (one,) = made(series, found)["GSPS"]

    state = opened(one)
    index_of = {header.SOPInstanceUID: index for index, header in enumerate(series.source)}
    drawn = set()
    for annotation in state.GraphicAnnotationSequence:
        index = index_of[annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
        number = int(annotation.GraphicLayer.split("_")[1])
        points = np.array(annotation.GraphicObjectSequence[0].GraphicData).reshape(-1, 2)
        rows, columns = np.nonzero(found.labels.array[index] == number)
        # pixels count from 1 and reach half a pixel around their centres
        assert points.min(axis=0) == pytest.approx([columns.min() + 0.5, rows.min() + 0.5])
        assert points.max(axis=0) == pytest.approx([columns.max() + 1.5, rows.max() + 1.5])
        drawn.add((index, number))
    labels = found.labels.array
    assert drawn == {(index, int(label)) for index in range(len(labels)) for label in np.unique(labels[index]) if label}


@pytest.mark.feature("E4")
def test_the_document_says_what_the_report_says_and_no_name(series: SeriesVolume, found: Localization) -> None:
    (one,) = made(series, found)["PDF"]

    document = opened(one)
    text = _text_of(document.EncapsulatedDocument)
    assert document.SOPClassUID == EncapsulatedPDFStorage
    assert "2 regions depart from healthy anatomy" in text
    assert "Research use; not a medical device" in text
    assert "Yamada" not in text


def test_a_pdf_finds_its_objects_where_its_table_says() -> None:
    data = pdf_of([f"line ({number}) \\ of many: {'words ' * 30}" for number in range(80)])

    start = int(data.rsplit(b"startxref\n", 1)[1].split()[0])
    count = int(data[start:].split()[2])
    places = [int(line.split()[0]) for line in data[start:].split(b"\n")[3 : 2 + count]]
    assert data[start:].startswith(b"xref")
    assert [data[place:].split()[0] for place in places] == [b"%d" % number for number in range(1, count)]
    assert len(re.findall(rb"/Type /Page\b[^s]", data)) == 5  # 80 lines of three rows each, 58 rows a page


def _text_of(pdf: bytes) -> str:
    shown = re.findall(rb"\((.*)\) Tj", pdf)
    return " ".join(one.decode("latin-1") for one in shown).replace("\\(", "(").replace("\\)", ")")


@pytest.mark.feature("E4")
def test_what_the_run_did_not_give_is_not_made(series: SeriesVolume) -> None:
    nothing = localization_of(series.volume, [])

    assert set(made(series, nothing)) == {"SR", "MAP", "PDF"}
    assert set(made(series, None)) == {"SR", "PDF"}


@pytest.mark.feature("E7")
def test_the_same_request_gives_the_same_bytes(series: SeriesVolume, found: Localization) -> None:
    assert made(series, found) == made(series, found)


@pytest.mark.slow
@pytest.mark.feature("E7")
def test_other_objects_or_values_give_other_uids(series: SeriesVolume, found: Localization) -> None:
    before = made(series, found)
    other_score = replace(found, score=series.volume.with_array(found.score.array * np.float32(1.001)))

    for changed in (
        made(series, other_score),
        made(series, found, map_values="uint16"),
        made(series, found, map_extent="brain"),
        made(series, found, objects=("seg", "sr", "parametric-map")),
    ):
        assert not _uids(before) & _uids(changed)


def _uids(objects: dict[str, list[ResultObject]]) -> set[str]:
    return {one.sop_instance_uid for ones in objects.values() for one in ones}


def test_every_kind_is_a_series_of_its_own_with_a_free_number(series: SeriesVolume, found: Localization) -> None:
    objects = made(series, found)

    numbers = {kind: {int(opened(one).SeriesNumber) for one in ones} for kind, ones in objects.items()}
    uids = {kind: {one.series_instance_uid for one in ones} for kind, ones in objects.items()}
    assert sorted(number for group in numbers.values() for number in group) == [9000, *range(9002, 9009)]  # 9001 is taken
    assert all(len(group) == 1 for group in uids.values())
    assert len({uid for group in uids.values() for uid in group}) == len(ALL)


@pytest.mark.feature("E6")
def test_every_object_of_a_revision_says_so_under_the_newest_identity(series: SeriesVolume, found: Localization) -> None:
    first = made(series, found)
    (report,) = first["SR"]
    predecessor = Predecessor(
        opened(report).StudyInstanceUID, report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid
    )
    told = account_of(
        series, found, output=OutputOptions(objects=ALL), predecessors=(predecessor,), revision=2,
    )  # fmt: skip
    told.headers[0]["PatientID"].value, told.headers[0]["PatientName"].value = "NEW-ID", "Newer^Name"

    second = encode(told, identity_of(told))

    assert {one.kind for one in second} == set(first) == set(KIND_OF_OBJECT.values())
    old = {one.series_instance_uid for ones in first.values() for one in ones} | _uids(first)
    for one in second:
        read = opened(one)
        assert " rev 2" in read.SeriesDescription
        assert " rev " not in opened(first[one.kind][0]).SeriesDescription
        assert (read.PatientID, read.PatientName) == ("NEW-ID", "Newer^Name")
        assert not {one.series_instance_uid, one.sop_instance_uid} & old
    replaced = opened(second[-1]).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [one.ReferencedSOPInstanceUID for one in replaced] == [report.sop_instance_uid]


@pytest.mark.feature("E2")
def test_the_report_refers_to_what_else_was_made(series: SeriesVolume, found: Localization) -> None:
    objects = made(series, found)

    report = opened(objects["SR"][0])

    (container,) = items(report, codes.EVIDENCE)
    referred = {one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in container.ContentSequence}
    by_kind = {kind: {one.sop_instance_uid for one in ones} for kind, ones in objects.items()}
    assert {kind for kind, uids in by_kind.items() if uids & referred} == set(by_kind) - {"SR", "SEG"}
    evidence = {
        one.ReferencedSOPInstanceUID
        for group in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for one in group.ReferencedSOPSequence
    }
    assert evidence == _uids(objects) - by_kind["SR"] | {header.SOPInstanceUID for header in series.source}


@pytest.mark.feature("E4")
def test_a_labelmap_holds_the_same_findings(series: SeriesVolume, found: Localization, tmp_path: Path) -> None:
    (one,) = made(series, found, segmentation="labelmap")["SEG"]
    (tmp_path / "seg.dcm").write_bytes(one.data)

    assert opened(one).SegmentationType == "LABELMAP"
    read = hd.seg.segread(tmp_path / "seg.dcm")
    masks = read.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in series.source], combine_segments=True, assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,
    )  # fmt: skip
    assert np.array_equal(masks, found.labels.array)
    [(mask, _)] = segments_read_by_dcmqi(tmp_path / "seg.dcm", tmp_path / "dcmqi")  # all labels in one
    assert np.count_nonzero(mask) == np.count_nonzero(found.labels.array)


@pytest.fixture(scope="module")
def archive(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive for each series: both have the same UIDs, which no archive sees twice with other content."""
    del files
    with running_orthanc(Orthanc(tmp_path_factory.mktemp("orthanc"))) as orthanc:
        yield orthanc


@pytest.mark.peer
@pytest.mark.feature("E8")
def test_an_archive_takes_every_object_by_c_store_and_by_stow(
    archive: Orthanc, series: SeriesVolume, found: Localization
) -> None:
    stored = [one for ones in made(series, found).values() for one in ones]
    posted = [one for ones in made(series, found, station_name="OTHER").values() for one in ones]

    variants = [
        *made(series, found, map_values="uint16", segmentation="labelmap", objects=("seg", "sr", "parametric-map")).values(),
        *made(series, localization_of(series.volume, [])).values(),
        *made(series, None).values(),
    ]
    posted += [one for ones in variants for one in ones]

    assert Sender(archive.port, called=archive.ae_title).send([opened(one) for one in stored])
    answer = _stow(archive, posted)

    assert len(answer["00081199"]["Value"]) == len(posted)
    for one in (*stored, *posted):
        (identifier,) = archive.find({"SOPInstanceUID": one.sop_instance_uid})
        assert list(opened_bytes(archive.file(identifier))) == list(opened(one))  # every element, pixels included


def _stow(archive: Orthanc, objects: list[ResultObject]) -> dict[str, dict[str, list[object]]]:
    """The answer to all of them as one STOW-RS request (PS3.18 10.5)."""
    body = b"".join(b"--part\r\nContent-Type: application/dicom\r\n\r\n" + one.data + b"\r\n" for one in objects) + b"--part--"
    request = urllib.request.Request(
        f"http://127.0.0.1:{archive.http_port}/dicom-web/studies",
        data=body,
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=part',
            "Accept": "application/dicom+json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, dict[str, list[object]]] = json.load(answer)
    return told


@pytest.mark.slow
def test_lettering_fits_even_a_small_image() -> None:
    for rows, columns in ((32, 32), (256, 256), (512, 512)):
        text, box = lettering(NOT_ACQUIRED, rows, columns)
        assert text.any()
        assert not (text & ~box).any()
        assert Image.fromarray(text).size == (columns, rows)
