"""What fuzzing starts from: small objects in every encoding, generated and real, each with the command that announces it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.intake import Command
from tests import studies
from tests.studies import Plan

PLAIN_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One data set as a C-STORE carries it."""

    name: str
    command: Command
    data: bytes


def sample(name: str, dataset: Dataset) -> Sample:
    """The sample of a data set in the syntax that its file meta names."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    return Sample(name, Command(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax), studies.encoded(dataset))


@cache
def samples() -> tuple[Sample, ...]:
    """The generated ones: each syntax, with and without sequences of undefined length, compressed, and without pixels."""
    return tuple(_generated())


def _generated() -> Iterator[Sample]:
    image = studies.series(Plan(slices=1, rows=8, columns=8))[0]
    nested = _with_sequences(image)
    larger = studies.series(Plan(slices=1, rows=32, columns=32))[0]
    for syntax in PLAIN_SYNTAXES:
        yield sample(syntax.keyword, studies.recoded(image, syntax))
        yield sample(f"{syntax.keyword}, sequences", studies.recoded(nested, syntax))
    for syntax in studies.COMPRESSED_SYNTAXES:
        yield sample(syntax.keyword, studies.compressed(larger, syntax))
    yield sample("report", studies.structured_report())
    yield sample("character set", _japanese(image))


def _with_sequences(image: Dataset) -> Dataset:
    """Sequences of defined and undefined length, items too, a private one, and an UN of undefined length."""
    made = deepcopy(image)
    innermost = Dataset()
    innermost.ReferencedSOPClassUID = image.SOPClassUID
    innermost.ReferencedSOPInstanceUID = "1.2.3"
    middle = Dataset()
    middle.ReferencedImageSequence = [innermost, deepcopy(innermost)]
    middle["ReferencedImageSequence"].is_undefined_length = True
    middle.is_undefined_length_sequence_item = True
    made.SourceImageSequence = [middle]
    made.ReferencedImageSequence = [deepcopy(innermost)]
    made["SourceImageSequence"].is_undefined_length = True
    made.add_new(0x00410010, "LO", "TESTS")
    made.add_new(0x00411001, "SQ", [deepcopy(innermost)])
    made.add_new(0x00411002, "UN", b"\1\2\3\4")
    return made


def _japanese(image: Dataset) -> Dataset:
    made = deepcopy(image)
    made.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    made.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    return made


def real_samples(paths: list[Path]) -> list[Sample]:
    """Real files, their pixels cut to a few, in each uncompressed syntax."""
    found: list[Sample] = []
    for number, path in enumerate(paths):
        dataset = dcmread(path)
        dataset.Rows = dataset.Columns = 8
        dataset.PixelData = bytes(128)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scanner's own spelling, which must stay
            found += [sample(f"real {number} {syntax.keyword}", studies.recoded(dataset, syntax)) for syntax in PLAIN_SYNTAXES]
    return found


def as_pydicom_reads(one: Sample) -> Dataset:
    """The data set as pydicom reads it from a file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(one.command.transfer_syntax_uid)
    meta.MediaStorageSOPClassUID = UID(one.command.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(one.command.sop_instance_uid)
    head = BytesIO()
    write_file_meta_info(head, meta)
    return dcmread(BytesIO(b"\0" * 128 + b"DICM" + head.getvalue() + one.data))


def with_data(one: Sample, data: bytes) -> Sample:
    """The same announcement with other bytes."""
    return replace(one, data=data)
