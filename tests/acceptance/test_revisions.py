"""What happens to a study after its result: late images, the same images again, a corrected patient."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from pydicom import Dataset

from storage.states import StudyState
from tests import peers, studies
from tests.acceptance.conftest import Hospital
from tests.acceptance.patients import one_case
from tests.node import current_reports
from tests.studies import Plan
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]


@pytest.mark.feature("E6")
def test_late_images_give_a_revised_set_that_names_its_predecessor(hospital: Hospital, tmp_path: Path) -> None:
    case = one_case("late", "late images", accession_number="LATE1")
    node, uid = hospital.node, case.study_instance_uid
    peers.storescu(node.port, case.datasets[:-2], tmp_path / "early")
    node.await_delivered(uid)
    (first,) = hospital.pacs.objects(uid, "SR")

    peers.storescu(node.port, case.datasets[-2:], tmp_path / "late")
    node.await_delivered(uid, revision=2)

    story = node.told(uid)
    reports = {str(report.SOPInstanceUID): report for report in hospital.pacs.objects(uid, "SR")}
    assert story.study.revision == 2
    assert len(reports) == 2
    (current,) = current_reports(story)
    assert current != first.SOPInstanceUID
    assert _predecessors(reports[current]) == [str(first.SOPInstanceUID)]
    assert not_replaced(list(reports.values())) == [current]
    assert _segmented_images(hospital, uid, current) <= set(case.sop_instance_uids)
    analysed = [plan["analysed"] for plan in (job.plan for job in story.jobs)]
    assert analysed == [[str(case.datasets[0].SeriesInstanceUID)]] * 2


@pytest.mark.feature("E7")
def test_the_same_images_again_give_nothing_new(hospital: Hospital, tmp_path: Path) -> None:
    plan = Plan(slices=8, rows=32, columns=32, study="sent twice", accession_number="TWICE1")  # refused: quick
    node, uid = hospital.node, plan.study_instance_uid
    folder = tmp_path / "images"
    studies.save(studies.shuffled_series(plan), folder)
    peers.send_folder(node.port, folder)
    node.await_delivered(uid)
    before = node.told(uid)

    peers.send_folder(node.port, folder)
    wait_until("the second transfer is in the audit", lambda: _repeated(hospital, uid) == plan.slices)

    after = node.told(uid)
    assert after.study.state is StudyState.SETTLED
    assert after.study.revision == before.study.revision == 1
    assert after.jobs == before.jobs
    assert len(hospital.pacs.objects(uid, "SR")) == 1


@pytest.mark.feature("E10")
def test_a_corrected_patient_gets_revised_results_under_the_newest_identity(hospital: Hospital, tmp_path: Path) -> None:
    plan = Plan(slices=8, rows=32, columns=32, study="wrong patient at first", accession_number="WRONG1")  # refused: quick
    node, uid = hospital.node, plan.study_instance_uid
    datasets = studies.series(plan)
    peers.storescu(node.port, datasets, tmp_path / "wrong")
    node.await_delivered(uid)
    (wrong,) = hospital.pacs.objects(uid, "SR")

    peers.storescu(node.port, [_corrected(one) for one in datasets], tmp_path / "right")
    node.await_delivered(uid, revision=2)

    story = node.told(uid)
    reports = {str(report.SOPInstanceUID): report for report in hospital.pacs.objects(uid, "SR")}
    (current,) = current_reports(story)
    assert story.study.state is StudyState.SETTLED
    assert (story.study.patient_id, story.study.accession_number) == ("RIGHT-ID", "RIGHT1")
    assert (reports[current].PatientID, str(reports[current].PatientName)) == ("RIGHT-ID", "Right^Person")
    assert reports[current].AccessionNumber == "RIGHT1"
    assert _predecessors(reports[current]) == [str(wrong.SOPInstanceUID)]
    assert not_replaced(list(reports.values())) == [current]


def _corrected(dataset: Dataset) -> Dataset:
    corrected = deepcopy(dataset)
    corrected.PatientID, corrected.PatientName, corrected.AccessionNumber = "RIGHT-ID", "Right^Person", "RIGHT1"
    return corrected


def _predecessors(report: Dataset) -> list[str]:
    """SOP Instance UIDs in Predecessor Documents Sequence (PS3.3 C.17.2.3)."""
    return [
        str(reference.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def not_replaced(reports: list[Dataset]) -> list[str]:
    """The reports that no other names as its predecessor: what a reader of the PACS alone takes for current."""
    replaced = {uid for report in reports for uid in _predecessors(report)}
    return [str(report.SOPInstanceUID) for report in reports if str(report.SOPInstanceUID) not in replaced]


def _segmented_images(hospital: Hospital, study_instance_uid: str, report_uid: str) -> set[str]:
    """The images under the segmentation that came with the report."""
    story = hospital.node.told(study_instance_uid)
    job = next(job for job in story.jobs if report_uid in {one.sop_instance_uid for one in job.results})
    together = {one.sop_instance_uid for one in job.results if one.kind == "SEG"}
    return {
        str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for segmentation in hospital.pacs.objects(study_instance_uid, "SEG")
        if str(segmentation.SOPInstanceUID) in together
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    }


def _repeated(hospital: Hospital, study_instance_uid: str) -> int:
    events = hospital.node.events(study_instance_uid)
    return sum(int(detail["repeated"]) for kind, detail in events if kind == "instances received")
