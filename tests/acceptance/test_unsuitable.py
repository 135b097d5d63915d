"""What a scanner or an archive sends that must not be analysed: bad bytes, bad geometry, another series, another patient.

Each is answered, kept, refused with a reason that reaches the radiologist, or held for a person; and the node goes on.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.readback import report_lines
from storage.read_models import Standing
from storage.states import StudyState
from tests import data, peers, studies
from tests.acceptance.conftest import Hospital
from tests.acceptance.patients import one_case
from tests.peers import Sender
from tests.studies import Plan, encoded

MR = "1.2.840.10008.5.1.4.1.1.4"
CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900
SMALL = Plan(slices=20, rows=128, columns=128, pixel_spacing_mm=(1.88, 1.88), patient=studies.Patient("SMALL-1"))
TINY = replace(SMALL, slices=8, rows=32, columns=32, pixel_spacing_mm=(7.5, 7.5))
"""Refused before any pixel is decoded: what matters is the way, not the result."""

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]


@pytest.fixture(autouse=True)
def _node_lives_on(hospital: Hospital) -> Iterator[None]:
    """After every test the node still runs in the same three processes and answers."""
    before = {name: hospital.node.role(name).pid for name in ("listen", "work", "web")}
    yield
    assert peers.echo(hospital.node.port)
    assert {name: hospital.node.role(name).pid for name in ("listen", "work", "web")} == before


# ------------------------------------------------------------------------------------------------ bytes


@pytest.mark.feature("R5")
def test_an_object_that_is_not_dicom_is_refused(hospital: Hospital) -> None:
    noise = random.Random(3).randbytes(20_000)

    status = Sender(hospital.node.port).send_bytes(MR, str(generate_uid()), noise)

    assert status == CANNOT_UNDERSTAND


@pytest.mark.feature("R5")
def test_a_truncated_object_is_refused_and_the_whole_one_taken_afterwards(hospital: Hospital) -> None:
    dataset = studies.series(replace(SMALL, study="truncated", accession_number="CUT1"))[0]
    sender = Sender(hospital.node.port)

    status = sender.send_bytes(MR, str(dataset.SOPInstanceUID), peers.truncated(dataset))
    after = sender.send_bytes(MR, str(dataset.SOPInstanceUID), encoded(dataset))

    assert status == CANNOT_UNDERSTAND
    assert after == 0x0000
    assert set(hospital.node.kept(str(dataset.StudyInstanceUID))) == {str(dataset.SOPInstanceUID)}


@pytest.mark.feature("R5")
def test_an_object_with_another_uid_than_announced_is_refused(hospital: Hospital) -> None:
    dataset = studies.series(replace(SMALL, study="other uid", accession_number="UID1"))[0]

    status = Sender(hospital.node.port).send_bytes(MR, str(generate_uid()), encoded(dataset))

    assert status == DOES_NOT_MATCH


@pytest.mark.feature("S1")
def test_a_stranger_that_talks_http_is_shown_out(hospital: Hospital) -> None:
    with socket.create_connection(("127.0.0.1", hospital.node.port), timeout=20) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: fovea\r\n\r\n")
        answer = b""
        while piece := stranger.recv(4096):
            answer += piece

    assert answer == b"" or answer[:1] == b"\x07"  # closed, or A-ABORT (PS3.8 9.3.8) and closed


@pytest.mark.feature("R2")
def test_an_unknown_sender_is_refused(hospital: Hospital) -> None:
    assert not peers.echo(hospital.node.port, calling="STRANGER")
    assert not peers.echo(hospital.node.port, called="SOMEBODY")


# ------------------------------------------------------------------------------------------------ geometry


def _gap(datasets: list[Dataset]) -> list[Dataset]:
    return datasets[:9] + datasets[10:]


def _other_pixels_at_the_same_place(datasets: list[Dataset]) -> list[Dataset]:
    double = deepcopy(datasets[8])
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["double"])
    double.InstanceNumber = len(datasets) + 1
    double.PixelData = datasets[3].PixelData
    return [*datasets, double]


def _sheared(datasets: list[Dataset]) -> list[Dataset]:
    for place, dataset in enumerate(datasets):
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + 0.4 * place, z]
    return datasets


def _one_without_pixels(datasets: list[Dataset]) -> list[Dataset]:
    del datasets[5].PixelData
    return datasets


GEOMETRIES: dict[str, tuple[Callable[[list[Dataset]], list[Dataset]], str, str]] = {
    "gap": (_gap, "gap", "slice gap 10.00 mm between instance 11 and instance 9, expected 5.00 mm"),
    "same place, other pixels": (_other_pixels_at_the_same_place, "duplicate-position", "instance 9 and instance 21"),
    "sheared stack": (_sheared, "sheared", "7.60 mm beside its place"),  # 19 steps of 0.4 mm
    "image without pixels": (_one_without_pixels, "no-pixel-data", "has no pixel data"),
}


@pytest.mark.feature("D4")
@pytest.mark.parametrize("fault", GEOMETRIES)
def test_an_unusable_series_is_kept_and_its_refusal_delivered(hospital: Hospital, tmp_path: Path, fault: str) -> None:
    spoil, code, words = GEOMETRIES[fault]
    plan = replace(SMALL, study=f"bad {fault}", accession_number=f"BAD{sorted(GEOMETRIES).index(fault)}")
    datasets = spoil(studies.series(plan))
    node, uid = hospital.node, plan.study_instance_uid

    peers.storescu(node.port, datasets, tmp_path)
    job = node.await_delivered(uid)

    segmentations, reports = hospital.pacs.results(uid)
    assert set(node.kept(uid)) == {str(one.SOPInstanceUID) for one in datasets}
    assert job.row.standing is Standing.REFUSED
    assert job.row.reason == code
    assert segmentations == []
    (report,) = reports
    text = "\n".join(report_lines(report))
    assert "Not analysed: the series is not suitable. Nothing was looked for" in text
    assert f"(code {code})" in text
    assert words in text
    assert _errors(report, tmp_path) == []


# ------------------------------------------------------------------------------------------------ other series


@pytest.mark.feature("D6")
def test_a_real_sagittal_t1_beside_the_flair_is_passed_over_and_the_report_says_so(hospital: Hospital, tmp_path: Path) -> None:
    case = one_case("beside", "FLAIR and GE T1", accession_number="GE1", who=studies.Patient("GE-1", "Beside^Flair"))
    flair = case.datasets[0]
    t1 = [_moved_into(flair, one) for one in data.ge_datasets(tmp_path / "ge")]
    node, uid = hospital.node, case.study_instance_uid

    peers.storescu(node.port, [*t1, *case.datasets], tmp_path / "sent")
    job = node.await_delivered(uid)

    (report,) = hospital.pacs.objects(uid, "SR")
    (passed,) = job.plan["passed_over"]
    text = "\n".join(report_lines(report))
    assert job.row.standing in (Standing.FINDINGS, Standing.NO_FINDING)
    assert job.plan["analysed"] == [str(flair.SeriesInstanceUID)]
    assert passed["series_instance_uid"] == str(t1[0].SeriesInstanceUID)
    assert passed["reason"]["text"] in text
    assert len(node.kept(uid)) == len(t1) + len(case.datasets)
    assert _errors(report, tmp_path) == []


@pytest.mark.feature("E5")
def test_a_real_sagittal_t1_alone_gets_a_delivered_refusal(hospital: Hospital, tmp_path: Path) -> None:
    t1 = data.ge_datasets(tmp_path / "ge")
    node, uid = hospital.node, str(t1[0].StudyInstanceUID)

    peers.storescu(node.port, t1, tmp_path / "sent")
    job = node.await_delivered(uid)

    segmentations, reports = hospital.pacs.results(uid)
    (report,) = reports
    assert job.row.standing is Standing.REFUSED
    assert job.detail is not None
    assert segmentations == []
    assert job.detail in "\n".join(report_lines(report))
    assert str(report.PatientName) == str(t1[0].PatientName)
    assert _errors(report, tmp_path) == []


@pytest.mark.feature("L6")
def test_a_real_t1_that_calls_itself_flair_is_refused_by_its_pixels(hospital: Hospital, tmp_path: Path) -> None:
    t1 = data.labelled_flair(data.ge_datasets(tmp_path / "ge"), "acceptance")
    node, uid = hospital.node, str(t1[0].StudyInstanceUID)

    peers.storescu(node.port, t1, tmp_path / "sent")
    job = node.await_delivered(uid)

    segmentations, reports = hospital.pacs.results(uid)
    (report,) = reports
    text = "\n".join(report_lines(report))
    assert job.plan["analysed"] == [str(t1[0].SeriesInstanceUID)]
    assert job.row.standing is Standing.REFUSED
    assert job.row.reason == "out-of-distribution"
    assert segmentations == []
    assert "the images are unlike all that the model was calibrated on" in text
    assert _errors(report, tmp_path) == []


@pytest.mark.feature("D6")
def test_a_study_that_no_rule_selects_gets_no_report(hospital: Hospital, tmp_path: Path) -> None:
    plan = replace(SMALL, study="localizer alone", accession_number="NONE1")

    peers.storescu(hospital.node.port, studies.localizer(plan), tmp_path)
    story = hospital.node.await_state(plan.study_instance_uid, StudyState.SETTLED)

    explained = hospital.node.fovea("explain", "NONE1")
    assert story.study.standing is Standing.NEVER_SELECTED
    assert story.jobs == ()
    assert hospital.pacs.find({"StudyInstanceUID": plan.study_instance_uid}) == []
    assert explained.returncode == 0, explained.stderr
    assert "selects nothing" in explained.stdout
    assert "LOCALIZER" in explained.stdout


# ------------------------------------------------------------------------------------------------ other patient


@pytest.mark.feature("S1")
@pytest.mark.parametrize("end", ["release", "include-held", "discard"])
def test_two_patients_in_one_study_are_held_until_a_person_decides(hospital: Hospital, tmp_path: Path, end: str) -> None:
    plan = replace(TINY, study=f"two patients {end}", accession_number=f"TWO-{end}"[:16], patient=studies.Patient("ONE"))
    other = replace(plan, patient=studies.Patient("ANOTHER", "Another^Person"), series="another", series_number=8)
    datasets = [*studies.series(plan), *studies.series(other)]
    node, uid = hospital.node, plan.study_instance_uid

    peers.storescu(node.port, datasets, tmp_path)
    held = node.await_state(uid, StudyState.QUARANTINED)

    assert set(node.kept(uid)) == {str(one.SOPInstanceUID) for one in datasets}
    assert sum(series.held for series in held.series) == other.slices
    assert held.study.standing is Standing.QUARANTINED
    assert held.jobs == ()
    assert hospital.pacs.find({"StudyInstanceUID": uid}) == []
    _decide(hospital, uid, end)
    if end == "discard":
        assert node.told(uid).study.state is StudyState.PURGED
        assert node.kept(uid) == {}
        assert hospital.pacs.find({"StudyInstanceUID": uid}) == []
        return
    job = node.await_delivered(uid)
    assert set(node.kept(uid)) == {str(one.SOPInstanceUID) for one in datasets}
    (report,) = hospital.pacs.objects(uid, "SR")
    assert report.PatientID == ("ANOTHER" if end == "include-held" else "ONE")  # the newest identity wins
    assert len(job.plan["passed_over"]) == (1 if end == "include-held" else 0)


def _decide(hospital: Hospital, study_instance_uid: str, end: str) -> None:
    options = {"release": (), "include-held": ("--include-held",), "discard": ("--discard",)}[end]
    answer = hospital.node.fovea("release", study_instance_uid, *options)
    assert answer.returncode == 0, answer.stderr
    told = "study discarded" if end == "discard" else "study released"
    kinds = [kind for kind, _ in hospital.node.events(study_instance_uid)]  # written before the command ends
    assert "study quarantined" in kinds
    assert told in kinds


# ------------------------------------------------------------------------------------------------ helpers


def _moved_into(example: Dataset, dataset: Dataset) -> Dataset:
    """The image as part of the example's study and patient."""
    for keyword in (
        "StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "AccessionNumber",
        "StudyDate", "StudyTime", "StudyID", "StudyDescription", "ReferringPhysicianName", "PatientWeight",
    ):  # fmt: skip
        setattr(dataset, keyword, example.get(keyword))
    return dataset


def _errors(report: Dataset, folder: Path) -> list[str]:
    path = folder / "report-to-check.dcm"
    report.save_as(path, enforce_file_format=True)
    return peers.errors_of(path)
