"""The quick reader of headers, against pydicom's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.part10 import read_header
from tests.dicom_node.results.builders import SeriesPlan, datasets


def nested(dataset: FileDataset, *, open_ended: bool) -> None:
    """Sequences within sequences, of defined or of undefined length, with text of another character set inside."""
    inner, outer = Dataset(), Dataset()
    inner.CodeMeaning = "Kopf, links"
    outer.ConceptNameCodeSequence = Sequence([inner])
    outer.PatientID, outer.IssuerOfPatientID = "OLD", "Spital Zürich"
    dataset.OtherPatientIDsSequence = Sequence([outer, Dataset()])
    dataset.private_block(0x0029, "ACME", create=True).add_new(0x10, "SQ", Sequence([inner]))
    for item in (inner, outer):
        item.is_undefined_length_sequence_item = open_ended
    for element in (dataset["OtherPatientIDsSequence"], outer["ConceptNameCodeSequence"]):
        element.is_undefined_length = open_ended


def with_syntax(syntax: str, *, implicit: bool, little: bool) -> Callable[[FileDataset], None]:
    def edit(dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.set_original_encoding(implicit, little)

    return edit


def with_kanji(dataset: FileDataset) -> None:
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.IssuerOfPatientID = "山田"


CASES: dict[str, Callable[[FileDataset], None]] = {
    "plain": lambda dataset: None,
    "sequences": lambda dataset: nested(dataset, open_ended=False),
    "sequences of undefined length": lambda dataset: nested(dataset, open_ended=True),
    "implicit": with_syntax(ImplicitVRLittleEndian, implicit=True, little=True),
    "big endian": with_syntax(ExplicitVRBigEndian, implicit=False, little=False),
    "deflated": with_syntax(DeflatedExplicitVRLittleEndian, implicit=False, little=True),
    "code extensions": with_kanji,
    "no pixels": lambda dataset: dataset.__delitem__("PixelData"),
}


@pytest.mark.parametrize("edit", list(CASES.values()), ids=list(CASES))
def test_it_says_what_pydicom_says(edit: Callable[[FileDataset], None], tmp_path: Path) -> None:
    dataset = datasets(SeriesPlan(shape=(1, 8, 8)))[0]
    edit(dataset)
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    theirs = dcmread(tmp_path / "one.dcm", stop_before_pixels=True)

    ours = read_header(tmp_path / "one.dcm")

    assert list(ours) == list(theirs)
    assert ours.file_meta == theirs.file_meta
    assert str(ours.PatientName) == str(theirs.PatientName)
    assert ours.get("IssuerOfPatientID") == theirs.get("IssuerOfPatientID")


@pytest.mark.parametrize("damage", [b"", b"not DICOM" * 100], ids=["empty", "something else"])
def test_what_is_no_file_of_ours_raises_as_pydicom_does(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(damage)

    with pytest.raises((InvalidDicomError, EOFError)):
        read_header(tmp_path / "one.dcm")
