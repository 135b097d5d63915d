"""`fovea validate`: a good set has no errors, and each kind of damage is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.outcome import KIND_OF_OBJECT, OutputOptions
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import read_series
from dicom_node.validate import validate
from tests.dicom_node.results.builders import SeriesPlan, account_of, localization_of, two_masks, write
from tests.dicom_node.results.tools import tool

runner = CliRunner()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a series and of every kind of result of it, by name."""
    folder = tmp_path_factory.mktemp("set")
    files = write(SeriesPlan(shape=(8, 48, 40)), folder / "source")
    series = read_series(files)
    volume = series.volume
    found = replace(
        localization_of(volume, two_masks(volume.spatial_shape)),
        pseudo_healthy=volume.with_array((volume.array * 0.9).astype(np.float32)),
    )
    account = account_of(series, found, output=OutputOptions(objects=tuple(KIND_OF_OBJECT)))
    named = {f"image-{number}.dcm": file.read_bytes() for number, file in enumerate(files)}
    for number, one in enumerate(encode(account, identity_of(account))):
        name = f"{one.kind}.dcm"
        named[name if name not in named else f"{one.kind}-{number}.dcm"] = one.data
    return named


@pytest.fixture
def folder(whole: dict[str, bytes], tmp_path: Path) -> Path:
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def edited(file: Path, edit: Callable[[Dataset], None]) -> None:
    dataset = dcmread(file)
    edit(dataset)
    dataset.save_as(file, enforce_file_format=True)


def errors(folder: Path) -> list[tuple[str, str]]:
    """Code and text of each error that is not dciodvfy's."""
    complaints, _ = validate(sorted(folder.iterdir()))
    return [(one.code, one.text) for one in complaints if one.severity == "error" and one.code != "modules"]


@pytest.mark.feature("E8")
def test_our_own_results_with_their_series_have_no_errors(folder: Path) -> None:
    tool("dciodvfy")

    complaints, remarks = validate(sorted(folder.iterdir()))

    assert [one for one in complaints if one.severity == "error"] == []
    assert remarks == []


def move_frame(dataset: Dataset) -> None:
    place = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    place.ImagePositionPatient = [value + 3 for value in place.ImagePositionPatient]


def move_image(dataset: Dataset) -> None:
    dataset.ImagePositionPatient = [value + 3 for value in dataset.ImagePositionPatient]


def point_to_a_missing_segment(dataset: Dataset) -> None:
    def rewrite(item: Dataset, element: object) -> None:
        if "ReferencedSegmentNumber" in item:
            item.ReferencedSegmentNumber = 9

    dataset.walk(rewrite)


def name_another_class(dataset: Dataset) -> None:
    source = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


DAMAGE: dict[str, tuple[str, Callable[[Dataset], None], str, str]] = {
    "a frame elsewhere": ("SEG.dcm", move_frame, "geometry", "frame 1 lies"),
    "an estimate elsewhere": ("HEALTHY.dcm", move_image, "geometry", "the image lies"),
    "a segment that does not exist": ("SR.dcm", point_to_a_missing_segment, "reference", "segment 9 of"),
    "a wrong class": ("MAP.dcm", name_another_class, "reference", "as CT Image Storage, it is MR Image Storage"),
    "another patient": ("SR.dcm", lambda one: setattr(one, "PatientID", "X"), "identity", "PatientID differs"),
    "another frame of reference": (
        "MAP.dcm", lambda one: setattr(one, "FrameOfReferenceUID", "1.2.3"), "geometry", "differ in frame of reference",
    ),
    "a series in two studies": (
        "image-3.dcm", lambda one: setattr(one, "StudyInstanceUID", "1.2.3"), "uid", "is in 2 studies",
    ),
    "a meta header of another instance": (
        "GSPS.dcm", lambda one: setattr(one, "SOPInstanceUID", "1.2.3"), "uid", "meta information names",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "edit", "code", "text"), list(DAMAGE.values()), ids=list(DAMAGE))
def test_damage_is_named(folder: Path, file: str, edit: Callable[[Dataset], None], code: str, text: str) -> None:
    dataset = dcmread(folder / file)
    edit(dataset)
    dataset.save_as(folder / file, enforce_file_format=False)

    found = errors(folder)

    assert any(one == code and text in said for one, said in found), found
    assert not any("Yamada" in said for _, said in found)


def test_a_uid_twice_and_a_file_that_is_none_are_named(folder: Path) -> None:
    (folder / "again.dcm").write_bytes((folder / "SR.dcm").read_bytes())
    (folder / "notes.txt").write_text("no DICOM")

    codes = {code for code, _ in errors(folder)}

    assert codes == {"uid", "unreadable"}


def test_without_the_source_the_rest_is_checked_and_said(folder: Path) -> None:
    for file in folder.glob("image-*"):
        file.unlink()

    complaints, remarks = validate(sorted(folder.iterdir()))

    assert [one for one in complaints if one.severity == "error"] == []
    assert any("not among the files" in remark for remark in remarks)


def test_the_command_answers_in_text_and_json_and_fails_on_errors(folder: Path) -> None:
    good = runner.invoke(app, ["validate", str(folder)])
    edited(folder / "SEG.dcm", move_frame)

    bad = runner.invoke(app, ["validate", "--json", str(folder)])

    assert good.exit_code == 0, good.output
    assert "0 errors" in good.output
    assert bad.exit_code == 3
    told = json.loads(bad.stdout)
    assert {one["code"] for one in told["complaints"] if one["severity"] == "error"} == {"geometry"}
