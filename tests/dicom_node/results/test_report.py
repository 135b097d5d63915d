"""The report: coded outcome, measurements, words, references, and how independent programs read it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code

from dicom_node.outcome import Outcome, Predecessor, Reason
from dicom_node.results import codes
from dicom_node.results.account import Account
from dicom_node.results.encode import REPORT, SEGMENTATION, encode
from dicom_node.results.identity import identity_of
from dicom_node.results.statements import plain_text
from dicom_node.series import SeriesVolume, read_series
from tests.dicom_node.results.builders import (
    MODEL,
    SeriesPlan,
    account_of,
    ball,
    localization_of,
    two_masks,
    write,
)
from tests.dicom_node.results.tools import complaints, contradictions, rendered, tool

NOTHING_FOUND = "No region above the operating point; not evidence of a normal examination"
PREDECESSOR = Predecessor("1.2.826.0.1.3680043.8.498.1", "2.25.11", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.12")


@pytest.fixture
def series(tmp_path: Path) -> SeriesVolume:
    return read_series(write(SeriesPlan(), tmp_path / "source"))


def accounts(series: SeriesVolume) -> dict[Outcome, Account]:
    found = localization_of(series.volume, two_masks(series.volume.spatial_shape))
    gap = Reason("gap", "slice gap 3.00 mm between instance 41 and instance 42, expected 1.20 mm within 0.12 mm")
    crash = Reason("out-of-memory", "the analysis ran out of memory three times")
    return {
        Outcome.FINDINGS: account_of(series, found),
        Outcome.NO_FINDING: account_of(series, localization_of(series.volume, [])),
        Outcome.REFUSED: account_of(series, None, reason=gap),
        Outcome.FAILED: account_of(series, None, reason=crash, outcome=Outcome.FAILED),
    }


def report_of(account: Account) -> Dataset:
    return dcmread(BytesIO(encode(account, identity_of(account))[-1].data))


def items(report: Dataset, name: Code) -> list[Dataset]:
    """Every content item of that name, in document order."""
    found = []
    for item in report.get("ContentSequence", []):
        if "ConceptNameCodeSequence" in item and item.ConceptNameCodeSequence[0].CodeValue == name.value:
            found.append(item)
        found += items(item, name)
    return found


@pytest.mark.feature("E5")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_gives_a_valid_report(outcome: Outcome, series: SeriesVolume, tmp_path: Path) -> None:
    objects = encode(accounts(series)[outcome], identity_of(accounts(series)[outcome]))
    paths = []
    for one in objects:
        paths.append(tmp_path / f"{one.kind}.dcm")
        paths[-1].write_bytes(one.data)

    assert [one.kind for one in objects] == ([SEGMENTATION] if outcome is Outcome.FINDINGS else []) + [REPORT]
    assert [complaints(path) for path in paths] == [[] for _ in paths]
    assert contradictions([*(tmp_path / "source").glob("*.dcm"), *paths]) == []


@pytest.mark.feature("E5")
@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.FINDINGS, "111242"),
        (Outcome.NO_FINDING, "111241"),
        (Outcome.REFUSED, "111245"),
        (Outcome.FAILED, "111245"),
    ],
)
def test_the_outcome_is_coded(outcome: Outcome, code: str, series: SeriesVolume) -> None:
    report = report_of(accounts(series)[outcome])  # codes of CID 6047

    (item,) = items(report, codes.PROCESSING_SUMMARY)
    assert item.ConceptCodeSequence[0].CodeValue == code
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR


@pytest.mark.feature("E5")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_report_without_regions_has_a_title_of_its_own(outcome: Outcome, series: SeriesVolume, tmp_path: Path) -> None:
    report = report_of(accounts(series)[outcome])
    report.save_as(tmp_path / "report.dcm")

    (title,) = report.ConceptNameCodeSequence
    # OHIF reads the words of a report under any title but this one, under which it looks for contours alone
    assert (title.CodeValue == "126000") is (outcome is Outcome.FINDINGS)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    command = [tool("tid1500reader"), "--inputDICOM", tmp_path / "report.dcm", "--outputMetadata", tmp_path / "read.json"]
    subprocess.run(command, capture_output=True, check=True)
    groups = json.loads((tmp_path / "read.json").read_text())["Measurements"]
    assert len(groups) == {Outcome.FINDINGS: 4}.get(outcome, 1)  # two for each finding, or the study alone


@pytest.mark.feature("E5")
def test_a_report_without_findings_says_so_in_these_words(series: SeriesVolume) -> None:
    account = accounts(series)[Outcome.NO_FINDING]
    report = report_of(account)

    assert [item.TextValue for item in items(report, codes.IMPRESSION)] == [NOTHING_FOUND]
    assert [item.TextValue for item in items(report, codes.BLIND_SPOT)] == list(account.blind_spots)
    assert items(report, codes.NUMBER_OF_LESIONS)[0].MeasuredValueSequence[0].NumericValue == 0
    assert plain_text(account).splitlines()[0] == NOTHING_FOUND


def test_a_refusal_says_the_numbers_that_decided(series: SeriesVolume) -> None:
    report = report_of(accounts(series)[Outcome.REFUSED])

    (reason,) = items(report, codes.REASON)
    assert reason.TextValue.endswith("expected 1.20 mm within 0.12 mm (code gap)")
    assert not items(report, codes.OPERATING_POINT)


def test_every_report_says_what_it_is_for_and_what_was_not_looked_at(series: SeriesVolume) -> None:
    for account in accounts(series).values():
        report = report_of(account)

        assert [item.TextValue for item in items(report, codes.INTENDED_USE)] == ["Research use; not a medical device"]
        assert "T1 weighted, the model is for FLAIR (code contrast)" in items(report, codes.SERIES_PASSED_OVER)[0].TextValue
        named = codes.SERIES_NOT_ANALYSED if account.analysis is None else codes.SERIES_ANALYSED
        assert account.analysed.series_instance_uid in items(report, named)[0].TextValue
        assert MODEL.digest in items(report, codes.MODEL)[0].TextValue


@pytest.mark.feature("E2")
def test_volumetric_and_planar_group_of_a_finding_share_the_segments_tracking_uid(series: SeriesVolume) -> None:
    account = accounts(series)[Outcome.FINDINGS]
    segmentation, report = (dcmread(BytesIO(one.data)) for one in encode(account, identity_of(account)))

    read = hd.sr.Comprehensive3DSR.from_dataset(report).content

    assert account.localization is not None
    for finding, segment in zip(account.localization.findings, segmentation.SegmentSequence, strict=True):
        (volumetric,) = read.get_volumetric_roi_measurement_groups(tracking_uid=segment.TrackingUID)
        (planar,) = read.get_planar_roi_measurement_groups(tracking_uid=segment.TrackingUID)
        assert volumetric.tracking_identifier == planar.tracking_identifier == segment.TrackingID
        assert volumetric.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        measured = {(item.name.value, _derivation(item)): item.value for item in volumetric.get_measurements()}
        assert measured["118565006", None] == pytest.approx(finding.volume_mm3 / 1000, rel=1e-3)  # SCT Volume, cm3
        assert measured["103339001", None] == pytest.approx(finding.long_axis_mm, abs=0.01)  # SCT Long axis, mm
        assert measured["SCORE-PEAK", "56851009"] == pytest.approx(finding.peak_score)  # SCT Maximum
        assert measured["SCORE-MEAN", "373098007"] == pytest.approx(finding.mean_score)  # SCT Mean
        first = [item.name.meaning for item in volumetric.get_measurements()][:3]
        assert first == ["Volume", "Peak departure score", "Mean departure score"]  # viewers may show the first few alone
        side = volumetric.finding_sites[0].laterality
        assert side is not None
        assert side.meaning.lower() == finding.hemisphere


def _derivation(measurement: hd.sr.Measurement) -> str | None:
    return None if measurement.derivation is None else measurement.derivation.value


@pytest.mark.feature("E2")
def test_the_planar_outline_encloses_the_pixels_on_the_image_it_names(series: SeriesVolume) -> None:
    mask = ball(series.volume.spatial_shape, (4, 15, 28), (2.2, 6, 3))
    account = account_of(series, localization_of(series.volume, [mask]))
    read = hd.sr.Comprehensive3DSR.from_dataset(report_of(account)).content

    (group,) = read.get_planar_roi_measurement_groups()

    assert group.roi is not None
    points = np.asarray(group.roi.value)
    index = int(np.argmax(mask.sum(axis=(1, 2))))
    rows, columns = np.nonzero(mask[index])
    # pixel (row, column) covers column..column+1 and row..row+1 (PS3.3 C.18.6.1.1)
    assert points.min(axis=0).tolist() == [columns.min(), rows.min()]
    assert points.max(axis=0).tolist() == [columns.max() + 1, rows.max() + 1]
    named = group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == series.source[index].SOPInstanceUID
    (area,) = group.get_measurements()
    assert area.value == pytest.approx(mask[index].sum() * 0.9 * 0.9, abs=0.01)  # pixels of 0.9 mm x 0.9 mm


def test_the_algorithm_is_identified_with_what_decides(series: SeriesVolume) -> None:
    report = report_of(accounts(series)[Outcome.FINDINGS])

    parameters = [item.TextValue for item in items(report, Code("111002", "DCM", "Algorithm Parameters"))]
    names = {item.TextValue for item in items(report, Code("111001", "DCM", "Algorithm Name"))}
    assert names == {"brain-flair"}
    assert f"model card SHA-256 {MODEL.digest}" in parameters
    assert "threshold 3.500, minimum volume 100 mm3" in parameters


@pytest.mark.feature("E11")
def test_every_object_names_the_model_as_contributing_equipment(series: SeriesVolume) -> None:
    account = accounts(series)[Outcome.FINDINGS]
    retrained = replace(account, model=replace(MODEL, digest="ef" * 32))

    device_uids = set()
    for told in (account, retrained):
        for one in encode(told, identity_of(told)):
            made = dcmread(BytesIO(one.data))
            (item,) = [e for e in made.ContributingEquipmentSequence if e.ManufacturerModelName == "brain-flair"]
            device_uids.add(item.DeviceUID)
            assert (made.Manufacturer, made.ManufacturerModelName) == ("Fovea", "Fovea")
            assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"  # DCM Processing Equipment
    assert len(device_uids) == 2


@pytest.mark.feature("E11")
def test_content_date_and_time_are_the_start_of_the_analysis(series: SeriesVolume) -> None:
    account = accounts(series)[Outcome.FINDINGS]

    for one in encode(account, identity_of(account)):
        made = dcmread(BytesIO(one.data))
        assert (made.ContentDate, made.ContentTime) == ("20260304", account.created.strftime("%H%M%S"))
        assert made.InstanceCreationTime == made.ContentTime


@pytest.mark.feature("E6")
def test_a_revision_names_its_predecessor(series: SeriesVolume, tmp_path: Path) -> None:
    account = replace(accounts(series)[Outcome.FINDINGS], predecessors=(PREDECESSOR,))
    report = report_of(account)
    path = tmp_path / "report.dcm"
    report.save_as(path)

    study = report.PredecessorDocumentsSequence[0]
    reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == PREDECESSOR.sop_instance_uid
    assert complaints(path) == []
    assert "supersedes an earlier report" in plain_text(account)


def test_series_are_described_and_numbered_around_those_of_the_study(series: SeriesVolume) -> None:
    account = accounts(series)[Outcome.FINDINGS]  # 9001 is taken
    segmentation, report = (dcmread(BytesIO(one.data)) for one in encode(account, identity_of(account)))

    assert (segmentation.SeriesNumber, report.SeriesNumber) == (9000, 9002)
    assert report.SeriesDescription == "Fovea brain-flair 0.1: 2 findings"
    long_name = replace(account, model=replace(MODEL, name="n" * 80))
    assert len(report_of(long_name).SeriesDescription) <= 64


def test_names_and_units_of_measurements_survive_rendering_as_text(series: SeriesVolume, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    account = accounts(series)[Outcome.FINDINGS]
    path.write_bytes(encode(account, identity_of(account))[-1].data)
    assert account.localization is not None
    first = account.localization.findings[0]

    text = rendered(path)

    assert f"Volume:\n{first.volume_mm3 / 1000:.4g} cm3" in text
    assert f"Long axis:\n{round(first.long_axis_mm, 2):g} mm" in text
    assert "Number of lesions:\n2 {lesions}" in text
    assert "Impression:\n2 regions depart from healthy anatomy" in text
    assert "Tarou Yamada" in text


def test_findings_that_are_not_listed_are_counted(series: SeriesVolume) -> None:
    found = localization_of(series.volume, two_masks(series.volume.spatial_shape), findings_left_out=3)

    report = report_of(account_of(series, found))

    assert items(report, codes.FINDINGS_LEFT_OUT)[0].TextValue.startswith("3 smaller regions")


def test_private_codes_fit_the_standards_lengths() -> None:
    private = [value for value in vars(codes).values() if isinstance(value, Code) and value.scheme_designator == "99FOVEA"]

    assert len(private) > 10
    assert all(len(code.value) <= 16 and len(code.meaning) <= 64 for code in private)  # SH and LO, PS3.5 6.2
    assert len({code.value for code in private}) == len(private)


@pytest.mark.parametrize(
    "sop_class",
    ["1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.999"],
    ids=["private", "retired", "of a later standard"],
)
def test_images_of_an_unknown_class_are_reported_under_their_own_class(sop_class: str, tmp_path: Path) -> None:
    series = read_series(write(SeriesPlan(attributes={"SOPClassUID": sop_class}), tmp_path / "source"))
    account = accounts(series)[Outcome.FINDINGS]

    segmentation, report = (dcmread(BytesIO(one.data)) for one in encode(account, identity_of(account)))

    frame = segmentation.PerFrameFunctionalGroupsSequence[0]
    assert frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPClassUID == sop_class
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {one.ReferencedSOPClassUID for group in evidence for one in group.ReferencedSOPSequence} == {
        sop_class,
        segmentation.SOPClassUID,
    }
