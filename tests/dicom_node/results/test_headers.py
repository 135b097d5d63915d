"""Real headers, as bad as they come: each must give results that carry the patient's identity unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from dicom_node.outcome import KIND_OF_OBJECT, OutputOptions, Reason
from dicom_node.results.encode import encode
from dicom_node.results.headers import content_moment, sanitise, under_identity
from dicom_node.results.identity import identity_of
from dicom_node.series import SeriesVolume, read_series
from tests import studies
from tests.dicom_node.results.builders import SeriesPlan, account_of, localization_of, two_masks, write
from tests.dicom_node.results.tools import complaints

Edit = Callable[[Dataset], None]


@dataclass(frozen=True)
class Pathology:
    """What is wrong with the header, and what the result must hold; attributes not named must be as in the source."""

    edit: Edit
    becomes: tuple[tuple[str, str], ...] = ()
    complaint: str = ""
    """The attribute that the validator rightly finds fault with, because an identity is copied verbatim."""


def put(**values: object) -> Edit:
    def edit(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return edit


def drop(*keywords: str) -> Edit:
    def edit(dataset: Dataset) -> None:
        for keyword in keywords:
            if keyword in dataset:
                delattr(dataset, keyword)

    return edit


def named(name: str, character_set: object) -> Edit:
    """The name as the character set spells it."""
    return put(SpecificCharacterSet=character_set, PatientName=name, ReferringPhysicianName="", StudyDescription="MR")


def named_in_bytes(name: bytes, character_set: object) -> Edit:
    """The name as bytes, whatever the character set says."""

    def edit(dataset: Dataset) -> None:
        if character_set is None:
            del dataset.SpecificCharacterSet
        else:
            dataset.SpecificCharacterSet = character_set
        dataset["PatientName"] = DataElement(0x00100010, "PN", name)
        dataset.StudyDescription = "MR"

    return edit


def with_private(dataset: Dataset) -> None:
    block = dataset.private_block(0x0011, "ACME SECRET", create=True)
    block.add_new(0x01, "LO", "Smith^Hidden")
    block.add_new(0x02, "OB", b"\1" * 4096)


def with_issuer(dataset: Dataset) -> None:
    item = Dataset()
    item.LocalNamespaceEntityID = "HOSP"
    block = item.private_block(0x0011, "ACME SECRET", create=True)
    block.add_new(0x01, "LO", "Smith^Hidden")
    dataset.IssuerOfAccessionNumberSequence = Sequence([item])


def with_other_ids(dataset: Dataset) -> None:
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID, item.TypeOfPatientID = "OLD-1", "OTHER", "TEXT"
    dataset.OtherPatientIDsSequence = Sequence([item])


def with_removed_identity(dataset: Dataset) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113100", "DCM", "Basic Application Confidentiality Profile"
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethodCodeSequence = "YES", Sequence([item])


def with_long_positions(dataset: Dataset) -> None:
    dataset.ImagePositionPatient = [f"{float(value):.15f}"[:20] for value in dataset.ImagePositionPatient]


def as_bytes(keyword: str, vr: str, value: bytes) -> Edit:
    """The very bytes as they stand in the file."""

    def edit(dataset: Dataset) -> None:
        padded = value + b" " * (len(value) % 2)
        tag = Tag(keyword)
        dataset[tag] = RawDataElement(tag, vr, len(padded), padded, 0, False, True)
        dataset.set_original_encoding(False, True, ["utf8"])

    return edit


JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
PATHOLOGIES = {
    "UTF-8 kanji": Pathology(named(JAPANESE, "ISO_IR 192")),
    "kanji by code extension, first set empty": Pathology(named(JAPANESE, ["", "ISO 2022 IR 87"])),
    "kanji by code extension, first set named": Pathology(named(JAPANESE, ["ISO 2022 IR 6", "ISO 2022 IR 87"])),
    "half-width katakana and kanji": Pathology(named("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", ["ISO 2022 IR 13", "ISO 2022 IR 87"])),
    "wrong but real: ISO_IR 13 with extension": Pathology(named("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", ["ISO_IR 13", "ISO 2022 IR 87"])),
    "Korean by code extension": Pathology(named("Hong^Gildong=洪^吉洞=홍^길동", ["", "ISO 2022 IR 149"])),
    "Chinese GB18030": Pathology(named("Wang^XiaoDong=王^小东", "GB18030")),
    "Chinese GBK": Pathology(named("Wang^XiaoDong=王^小东", "GBK")),
    "Latin-1": Pathology(named("Müller^Jürgen", "ISO_IR 100")),
    "Latin-2": Pathology(named("Dvořák^Antonín", "ISO_IR 101")),
    "Cyrillic": Pathology(named("Люкceмбypг", "ISO_IR 144")),
    "Arabic": Pathology(named("قباني^لنزار", "ISO_IR 127")),
    "Greek": Pathology(named("Διονυσιος", "ISO_IR 126")),
    "Hebrew": Pathology(named("שרון^דבורה", "ISO_IR 138")),
    "Turkish": Pathology(named("Çavuşoğlu", "ISO_IR 148")),
    "Thai": Pathology(named("นามสกุล^ชื่อ", "ISO_IR 166")),
    "no character set": Pathology(named_in_bytes(b"Smith^John", None)),
    "empty character set": Pathology(named_in_bytes(b"Smith^John", "")),
    "Latin-1 bytes without a character set": Pathology(
        named_in_bytes("Müller".encode("latin-1"), None), (("PatientName", "Müller"),)
    ),
    "UTF-8 bytes without a character set": Pathology(
        named_in_bytes("山田^太郎".encode(), None), (("PatientName", "山田^太郎"),)
    ),
    "UTF-8 bytes in an unknown character set": Pathology(
        named_in_bytes("Müller".encode(), "ISO_IR 999"), (("PatientName", "Müller"),)
    ),
    "Latin-1 bytes declared as UTF-8": Pathology(
        named_in_bytes("Müller^Jürgen".encode("latin-1"), "ISO_IR 192"), (("PatientName", "Müller^Jürgen"),)
    ),
    "unknown character set": Pathology(named_in_bytes(b"Smith^John", "ISO_IR 999")),
    "Study Time of one digit": Pathology(put(StudyTime="1"), (("StudyTime", ""),)),
    "Study Time with colons": Pathology(put(StudyTime="10:15:00"), (("StudyTime", ""),)),
    "Study Date with dots": Pathology(put(StudyDate="2026.03.04"), (("StudyDate", ""),)),
    "birth date is a year": Pathology(put(PatientBirthDate="1960"), (("PatientBirthDate", ""),)),
    "birth date does not exist": Pathology(put(PatientBirthDate="19610229"), (("PatientBirthDate", ""),)),
    "sex X": Pathology(put(PatientSex="X"), (("PatientSex", ""),)),
    "sex in lower case": Pathology(put(PatientSex="m"), (("PatientSex", "M"),)),
    "no Study Time": Pathology(drop("StudyTime")),
    "no Study Date": Pathology(drop("StudyDate", "StudyTime")),
    "no Study ID": Pathology(drop("StudyID")),
    "no name, birth date or sex": Pathology(drop("PatientName", "PatientBirthDate", "PatientSex")),
    "no Patient ID": Pathology(drop("PatientID", "IssuerOfPatientID")),
    "no Accession Number": Pathology(drop("AccessionNumber")),
    "no Referring Physician's Name": Pathology(drop("ReferringPhysicianName")),
    "Accession Number of 23 characters": Pathology(
        put(AccessionNumber="A" * 23), complaint="Accession Number"
    ),
    "Patient ID with leading space and leading zeros": Pathology(put(PatientID=" 000123")),
    "Patient ID with a star": Pathology(put(PatientID="*7*")),
    "Patient Age without unit": Pathology(put(PatientAge="66"), complaint="Patient's Age"),
    "Patient Age empty": Pathology(put(PatientAge="")),
    "name with five carets": Pathology(put(PatientName="A^B^C^D^E^F"), complaint="Patient's Name"),
    "name of 90 characters": Pathology(put(PatientName="N" * 90), complaint="Patient's Name"),
    "no Slice Thickness": Pathology(drop("SliceThickness")),
    "no Position Reference Indicator": Pathology(drop("PositionReferenceIndicator")),
    "no Manufacturer": Pathology(drop("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "InstitutionName")),
    "no Body Part Examined": Pathology(drop("BodyPartExamined")),
    "no Series Number and no Instance Number": Pathology(drop("SeriesNumber", "InstanceNumber")),
    "private elements": Pathology(with_private),
    "Patient Position not stated": Pathology(drop("PatientPosition")),
    "Spacing Between Slices not stated": Pathology(drop("SpacingBetweenSlices")),
    "Image Type of one value": Pathology(put(ImageType="ORIGINAL")),
    "Patient ID of 70 characters": Pathology(put(PatientID="P" * 70), complaint="Patient ID"),
    "Study ID of 20 characters": Pathology(put(StudyID="S" * 20), complaint="Study ID"),
    "lower-case Body Part Examined": Pathology(put(BodyPartExamined="brain")),
    "issuer of Accession Number, private within": Pathology(with_issuer),
    "other patient identifiers": Pathology(with_other_ids),
    "identity removed, method in codes only": Pathology(with_removed_identity),
    "identity removed, method not stated": Pathology(put(PatientIdentityRemoved="YES")),
    "Series Description of 80 characters": Pathology(put(SeriesDescription="S" * 80)),
    "station in time zone +0900": Pathology(put(TimezoneOffsetFromUTC="+0900")),
    "Software Versions of three values": Pathology(put(SoftwareVersions=["a", "b", "c"])),
    "pixels that are not square": Pathology(put(PixelSpacing=["0.9", "1.35"])),
    "Pixel Spacing of 20 characters": Pathology(put(PixelSpacing=["0.898437500000000012", "0.898437500000000012"])),
    "Image Position of 20 characters": Pathology(with_long_positions),
    "Slice Thickness of 18 characters": Pathology(put(SliceThickness="5.0000000000000001")),
    "Instance Number not stated": Pathology(drop("InstanceNumber")),
    "Patient's Weight of two values": Pathology(put(PatientWeight=["71.5", "72"]), (("PatientWeight", ""),)),
    "Patient's Weight with a comma": Pathology(as_bytes("PatientWeight", "DS", b"71,5"), (("PatientWeight", ""),)),
    "Accession Number of two values": Pathology(put(AccessionNumber=["A1", "A2"]), complaint="AccessionNumber"),
    "Study Description of two values": Pathology(put(StudyDescription=["MR", "Kopf"]), complaint="StudyDescription"),
    "a name padded with NUL": Pathology(as_bytes("PatientName", "PN", b"Smith^John\0\0"), (("PatientName", "Smith^John"),)),
    "a name of two values": Pathology(put(PatientName=["Smith^John", "Doe^Jane"]), complaint="PatientName"),
    "a name of carets": Pathology(put(PatientName="^^^^")),
    "Study Time with fraction of nine digits": Pathology(put(StudyTime="101500.123456789"), (("StudyTime", ""),)),
    "Study Time of four digits": Pathology(put(StudyTime="1015")),
    "Study Date with dots, empty Study Time": Pathology(put(StudyDate="1997.01.31", StudyTime=""), (("StudyDate", ""),)),
    "Patient's Birth Time with colons": Pathology(put(PatientBirthTime="10:15")),
    "Body Part Examined of 20 characters": Pathology(put(BodyPartExamined="BRAIN AND NECK REGION")),
    "Pixel Padding Value": Pathology(put(PixelPaddingValue=20)),
    "Study Instance UID with leading zero": Pathology(
        put(StudyInstanceUID="1.2.03.4"), complaint="Study Instance UID"
    ),
}
DEMOGRAPHIC_WARNINGS = (
    "needed to build DICOMDIR",  # an empty or absent Study Date, Time, ID or Patient ID, as in the source
    "Retired Person Name form",  # a name without a caret, as in the source
)
INVALID_VALUES = "Error - Dicom dataset contains invalid data values for Value Representations"
"""What the validator says in sum after it named the attribute."""
IDENTITY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription",
    "ReferringPhysicianName",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.feature("E10")
@pytest.mark.parametrize("pathology", list(PATHOLOGIES.values()), ids=list(PATHOLOGIES))
def test_the_results_of_a_bad_header_carry_the_patient_unchanged(pathology: Pathology, tmp_path: Path) -> None:
    plan = SeriesPlan(shape=(6, 32, 32), edit=lambda dataset, _: pathology.edit(dataset))
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own words about the bad header that is written here
        files = write(plan, tmp_path / "source")
        source = _identity(dcmread(files[0])) | dict(pathology.becomes)
    series = read_series(files)
    found = replace(
        localization_of(series.volume, two_masks(series.volume.spatial_shape)),
        pseudo_healthy=series.volume,
        uncertainty=series.volume,
    )
    account = account_of(series, found, output=OutputOptions(objects=tuple(KIND_OF_OBJECT)))

    objects = {one.kind: one for one in encode(account, identity_of(account))}

    assert set(objects) == set(KIND_OF_OBJECT.values())
    for one in objects.values():
        assert _identity(dcmread(BytesIO(one.data))) == source
        assert dcmread(BytesIO(one.data)).SpecificCharacterSet == "ISO_IR 192"
        assert b"Hidden" not in one.data
        path = tmp_path / f"{one.kind}.dcm"
        path.write_bytes(one.data)
        said = [line for line in complaints(path) if not any(known in line for known in DEMOGRAPHIC_WARNINGS)]
        assert all(pathology.complaint and (pathology.complaint in line or line == INVALID_VALUES) for line in said), said


def _identity(dataset: Dataset) -> dict[str, str]:
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        return {keyword: str(dataset.get(keyword) or "") for keyword in IDENTITY}


def test_a_number_that_is_none_is_left_out(tmp_path: Path) -> None:
    files = write(SeriesPlan(shape=(6, 32, 32)), tmp_path / "source")
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"DS\4\x0071.5", b"DS\4\0heav"))
    series = read_series(files)
    account = account_of(series, localization_of(series.volume, two_masks(series.volume.spatial_shape)))

    for one in encode(account, identity_of(account)):
        assert "PatientWeight" not in dcmread(BytesIO(one.data))
        assert b"heav" not in one.data


@pytest.mark.feature("E10")
@pytest.mark.parametrize(
    ("name", "wanted", "written"),
    [
        ("Müller^Jürgen", "ISO_IR 100", "ISO_IR 100"),
        ("Müller^Jürgen", "ISO_IR 192", "ISO_IR 192"),
        (JAPANESE, "ISO_IR 100", "ISO_IR 192"),
    ],
    ids=["fits Latin-1", "UTF-8", "does not fit: identity comes before the setting"],
)
def test_the_character_set_is_a_setting_that_never_costs_a_name(
    name: str, wanted: str, written: str, tmp_path: Path
) -> None:
    series = read_series(write(SeriesPlan(shape=(6, 32, 32), attributes={"PatientName": name}), tmp_path))
    account = account_of(
        series,
        localization_of(series.volume, two_masks(series.volume.spatial_shape)),
        output=OutputOptions(character_set=wanted),
    )

    for one in encode(account, identity_of(account)):
        made = dcmread(BytesIO(one.data))
        assert made.SpecificCharacterSet == written
        assert str(made.PatientName) == name


def test_sanitising_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    plan = SeriesPlan(shape=(2, 16, 16), edit=lambda dataset, _: put(PatientSex="X", StudyTime="1")(dataset))
    with disable_value_validation():
        header = dcmread(write(plan, tmp_path)[0], stop_before_pixels=True)

        sanitise(header, "ISO_IR 192")

        assert (header.PatientSex, header.StudyTime) == ("X", "1")


@pytest.mark.parametrize(
    ("started_at", "attributes", "expected"),
    [
        ("2026-03-04T23:30:00+00:00", {"TimezoneOffsetFromUTC": "+0900"}, "2026-03-05T08:30:00+09:00"),
        ("2026-03-04T23:30:00+00:00", {"TimezoneOffsetFromUTC": "-0330"}, "2026-03-04T20:00:00-03:30"),
        ("", {"ContentDate": "20260305", "ContentTime": "0102"}, "2026-03-05T01:02:00"),
        ("", {"ContentDate": "20260305", "ContentTime": "235960"}, "2026-03-05T23:59:59"),
        ("", {"ContentDate": "5.3.2026", "ContentTime": "0102"}, "2026-03-04T04:12:30"),
    ],
    ids=["Tokyo", "Newfoundland", "no start: newest header moment", "leap second", "unusable content date"],
)
def test_the_content_moment_is_the_start_of_the_analysis_in_the_sources_time_zone(
    started_at: str, attributes: dict[str, object], expected: str, tmp_path: Path
) -> None:
    plan = SeriesPlan(shape=(2, 16, 16), attributes=attributes)
    header = sanitise(dcmread(write(plan, tmp_path)[0]), "ISO_IR 192")

    assert content_moment(started_at, [header]).isoformat() == expected


def test_no_start_and_no_date_anywhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not say when"):
        content_moment("", [sanitise(Dataset(), "ISO_IR 192")])


@pytest.mark.feature("E5")
def test_a_header_with_nothing_but_uids_gets_its_refusal_report(tmp_path: Path) -> None:
    kept = {"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"}

    def strip(dataset: Dataset, index: int) -> None:
        for element in list(dataset):
            if element.keyword not in kept:
                del dataset[element.tag]

    header = dcmread(write(SeriesPlan(shape=(1, 16, 16), edit=strip), tmp_path / "source")[0])
    bare = SeriesVolume(volume=None, source=(header,), frames=(), notes=())  # type: ignore[arg-type]  # there is none
    account = account_of(bare, None, reason=Reason("no-pixel-data", "instance 1 is not an image"))

    (report,) = encode(account, identity_of(account))

    path = tmp_path / "report.dcm"
    path.write_bytes(report.data)
    assert [line for line in complaints(path) if "needed to build DICOMDIR" not in line] == []
    assert dcmread(path).StudyInstanceUID == header.StudyInstanceUID


def _header_of(**values: str) -> Dataset:
    image = studies.series(studies.Plan(slices=1, rows=8, columns=8))[0]
    put(**values)(image)
    return image


class TestNewestIdentity:
    """F46: the study's newest instance names the patient."""

    TOLD = (("PatientID", "P9"), ("IssuerOfPatientID", ""), ("PatientName", "Neu^Jos\u00e9"), ("AccessionNumber", "A9"))

    def test_another_patient_takes_the_place_of_the_images_own(self) -> None:
        header = sanitise(_header_of(PatientID="P1", PatientName="Old^Name"), "ISO_IR 192")

        under_identity(header, self.TOLD)

        assert (header.PatientID, header.PatientName, header.AccessionNumber) == ("P9", "Neu^Jos\u00e9", "A9")

    def test_the_same_patient_stays_character_for_character(self) -> None:
        header = sanitise(_header_of(PatientID=" P9", PatientName="Spelled^Otherwise"), "ISO_IR 192")

        under_identity(header, self.TOLD)
        under_identity(header, ())

        assert header.PatientName == "Spelled^Otherwise"
