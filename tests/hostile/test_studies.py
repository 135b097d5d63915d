"""F29 to F35, F43, F45 and F46: studies that come twice, late, mixed up, in pieces, misspelled, or back from the archive."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    generate_uid,
)

from dicom_node import workflow
from dicom_node.completeness import BROKEN_OFF
from dicom_node.engine import Engine
from dicom_node.results.codes import INPUT_QUALITY
from dicom_node.settling import FORCED, INCOMPLETE
from dicom_node.workflow import utc_now
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.spool import Spool
from storage.states import JobState, StudyState
from tests import studies
from tests.hostile.house import BOOT, REFUSED, House, living, predecessors
from tests.hostile.listener import Listening, exchange, send_over, sent, small, status_of, uids
from tests.network import Wire, p_data, store_command
from tests.studies import Patient, Plan
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("D1", "S1")

SUCCESS, DOES_NOT_MATCH = 0x0000, 0xA900
A_SHORT_AGE_S = 400.0
"""Instead of an hour, since every image takes a moment."""


# ------------------------------------------------------------------------------------------------ at the door


def test_f29_other_pixels_under_a_known_uid_keep_the_first_and_quarantine_the_second(node: Listening) -> None:
    first = small(f"F29 {node.receive_path}")[0]
    second = deepcopy(first)
    second.PixelData = bytes(len(first.PixelData))
    mark = node.mark()

    assert sent(node, first) == SUCCESS
    answer = exchange(node, store_command(str(second.SOPInstanceUID)), studies.encoded(second))

    assert status_of(answer) == DOES_NOT_MATCH
    (row,) = node.instances(str(first.StudyInstanceUID))
    assert node.file(row.path).endswith(studies.encoded(first))
    (aside,) = node.rejected(str(first.SOPInstanceUID))
    assert node.file(aside.path).endswith(studies.encoded(second))
    study = node.study(str(first.StudyInstanceUID))
    assert study is not None
    assert study.state == StudyState.QUARANTINED
    alert = node.await_event(mark, EventKind.STUDY_QUARANTINED)
    assert alert.outcome == EventOutcome.SERIOUS_FAILURE
    assert "same SOP Instance UID" in alert.detail["reason"]


def test_f30_two_senders_at_once_make_one_study_and_lose_nothing(node: Listening) -> None:
    plan = Plan(slices=20, rows=8, columns=8, study=f"F30 {node.receive_path}")
    both = {name: studies.series(replace(plan, series=name, series_number=number)) for number, name in enumerate("ab", 1)}

    def send(name: str, calling: str) -> list[int]:
        with Wire(node.port, timeout_s=30) as wire:
            statuses = [send_over(wire, both[name][0], calling=calling)]
            for one in both[name][1:]:
                wire.store(store_command(str(one.SOPInstanceUID)), studies.encoded(one))
                statuses.append(wire.status())
            return statuses

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(send, "ab", ("MODALITY", "MODALITY2")))

    rows = node.instances(plan.study_instance_uid)
    assert answers == [[SUCCESS] * 20] * 2
    assert {row.sop_instance_uid for row in rows} == uids([*both["a"], *both["b"]])
    assert len({row.series_id for row in rows}) == 2
    assert node.study(plan.study_instance_uid) is not None


def test_f31_another_patient_under_the_study_uid_quarantines_it(node: Listening) -> None:
    plan = Plan(slices=1, rows=8, columns=8, study=f"F31 {node.receive_path}")
    mine = studies.series(plan)[0]
    other = studies.series(replace(plan, series="other", patient=Patient(patient_id="TEST-0002")))[0]
    mark = node.mark()

    assert [sent(node, mine), sent(node, other)] == [SUCCESS, SUCCESS]

    study = node.study(plan.study_instance_uid)
    assert study is not None
    assert study.state == StudyState.QUARANTINED
    assert sorted(row.held for row in node.instances(plan.study_instance_uid)) == [False, True]
    alerts = node.events(mark, EventKind.STUDY_QUARANTINED)
    assert {alert.patient_id for alert in alerts} == {"TEST-0001", "TEST-0002"}
    assert {alert.outcome for alert in alerts} == {EventOutcome.SERIOUS_FAILURE}


def test_f31_nothing_of_a_quarantined_study_is_analysed_or_sent(house: House) -> None:
    other = studies.series(replace(REFUSED, series="other", patient=Patient(patient_id="TEST-0002")))
    house.send([*studies.series(REFUSED), *other])

    house.answer()

    assert house.study(REFUSED).state == StudyState.QUARANTINED
    assert (house.jobs(), house.reports()) == ([], [])


def test_f32_abort_in_the_middle_keeps_what_was_acknowledged(node: Listening) -> None:
    first, second, _ = small(f"F32 {node.receive_path}")
    mark = node.mark()
    with Wire(node.port) as wire:
        assert send_over(wire, first) == SUCCESS
        wire.send(p_data(1, 3, store_command(str(second.SOPInstanceUID))) + p_data(1, 0, studies.encoded(second)[:300]))
        wire.send(struct.pack(">BxIxxBB", 7, 4, 0, 0))

    closed = node.await_event(mark, EventKind.ASSOCIATION_CLOSED)
    assert (closed.detail["outcome"], closed.outcome) == ("aborted", EventOutcome.MINOR_FAILURE)
    assert {row.sop_instance_uid for row in node.instances(str(first.StudyInstanceUID))} == uids([first])
    assert node.temporaries() == []
    study = node.study(str(first.StudyInstanceUID))
    assert study is not None
    assert (study.state, study.quiet_s) == (StudyState.RECEIVING, 0.0)


def test_f32_broken_study_waits_anew_and_its_report_says_that_it_may_be_incomplete(house: House) -> None:
    images = studies.series(REFUSED)
    receive = house.where.settings.receive
    before_s, after_s = int(receive.settle_after_s) - 5, 6
    with Wire(house.port) as wire:
        assert send_over(wire, images[0]) == SUCCESS
        for image in images[1:6]:
            wire.store(store_command(str(image.SOPInstanceUID)), studies.encoded(image))
            assert wire.status() == SUCCESS
        house.quiet(before_s)
        wire.send(p_data(1, 3, store_command(str(images[6].SOPInstanceUID))) + p_data(1, 0, studies.encoded(images[6])[:300]))
        wire.send(struct.pack(">BxIxxBB", 7, 4, 0, 0))
    wait_until("the abort is noted", lambda: house.study(REFUSED).interrupted_by == "MODALITY", 15)
    settled_early = house.quiet(after_s)

    house.answer()
    broken = house.study(REFUSED)
    house.send(images[:1], calling="ARCHIVE")
    by_another = house.study(REFUSED).interrupted_by
    house.send(images)
    house.answer()
    whole = house.study(REFUSED)

    first, second = house.reports()
    assert settled_early == 0, "the quiet time began anew when the association broke"
    assert broken.incomplete == BROKEN_OFF
    assert by_another == "MODALITY", "that another sender ends in order says nothing of this one"
    assert [event.detail.get("incomplete") for event in house.events(EventKind.STUDY_SETTLED)] == [BROKEN_OFF, None]
    assert [INCOMPLETE in remarks for remarks in map(input_quality, (first, second))] == [True, False]
    assert (whole.incomplete, predecessors(second)) == (None, [str(first.SOPInstanceUID)])


ANNOUNCED: dict[str, Callable[[list[Dataset]], list[Dataset]]] = {
    "its sender announced 12 instances and 10 are here": lambda images: with_counts(images, study=12),
    "its sender announced 12 instances of series 2 and 10 are here": lambda images: with_counts(images, series=12),
    "the instance numbers of series 2 leave out 2": lambda images: images[:3] + images[5:],
}


def with_counts(images: list[Dataset], *, study: int | None = None, series: int | None = None) -> list[Dataset]:
    """The images as an archive exports them, with what it has counted."""
    for image in images:
        image.NumberOfStudyRelatedInstances, image.NumberOfSeriesRelatedInstances = study, series
    return images


@pytest.mark.parametrize("sentence", ANNOUNCED)
def test_f32_fewer_instances_than_announced_are_told(house: House, sentence: str) -> None:
    house.send(ANNOUNCED[sentence](studies.series(replace(REFUSED, series_number=2))))
    house.answer()

    (report,) = house.reports()
    assert house.study(REFUSED).incomplete == sentence
    assert f"{INCOMPLETE}: {sentence}." in input_quality(report)


def input_quality(report: Dataset) -> str:
    """What the report says of its input, in one text."""
    return " ".join(
        str(one.TextValue) for one in content_items(report) if one.ConceptNameCodeSequence[0].CodeValue == INPUT_QUALITY.value
    )


def content_items(item: Dataset) -> Iterator[Dataset]:
    """Every text item of a report, at any depth."""
    for one in item.get("ContentSequence", []):
        if one.ValueType == "TEXT":
            yield one
        yield from content_items(one)


# ------------------------------------------------------------------------------------------------ in time


def test_f33_late_images_give_a_revised_report_that_names_the_first(house: House) -> None:
    images = studies.series(REFUSED)
    house.send(images[:-1])
    house.answer()

    house.send(images[-1:])
    house.answer()

    first, second = house.reports()
    assert house.study(REFUSED).revision == 2
    assert predecessors(second) == [str(first.SOPInstanceUID)]
    assert predecessors(first) == []


@pytest.mark.parametrize("choice", ["go on", "wait", "discard"])
def test_f34_a_study_that_trickles_does_at_its_maximum_age_what_its_rule_says(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, choice: str
) -> None:
    rule = {"name": "flair", "model": "brain-flair", "destinations": ["pacs"], "on_maximum_age": choice}
    receive = {"maximum_age_s": A_SHORT_AGE_S}
    with living(tmp_path, sqlite_database, spool, engine, rules=[rule], receive=receive) as house:
        elapsed_s, settled = _trickle(house, until_s=A_SHORT_AGE_S)
        (forced, early) = house.study(REFUSED).forced, house.jobs()
        house.answer()
        study, reports, ends = house.study(REFUSED), house.reports(), house.events(EventKind.STUDY_SETTLED)
        kept_open = house.events(EventKind.STUDY_KEPT_OPEN)

    (end,), (report,) = ends, reports
    assert elapsed_s - A_SHORT_AGE_S <= 60
    if choice == "wait":
        assert (settled, early, forced, len(kept_open)) == (0, [], False, 1)
        assert (end.detail["reason"], study.forced) == ("quiet for 30 s", False)
        assert FORCED not in input_quality(report)
        return
    assert (settled, len(early), forced, kept_open) == (1, 1, True, [])
    assert (end.detail["reason"], end.detail["forced complete"]) == ("closed by force at its maximum age", True)
    assert FORCED in input_quality(report)
    code = "(code maximum-age)" if choice == "discard" else "(code contrast)"
    assert any(code in str(item.TextValue) for item in content_items(report))


@pytest.mark.feature("D5")
def test_f34_what_comes_after_a_forced_end_makes_a_revision_without_the_mark(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine
) -> None:
    with living(tmp_path, sqlite_database, spool, engine, receive={"maximum_age_s": A_SHORT_AGE_S}) as house:
        _trickle(house, until_s=A_SHORT_AGE_S)
        house.answer()

        house.send(studies.series(REFUSED))
        house.answer()

        first, second = house.reports()
    assert [FORCED in input_quality(one) for one in (first, second)] == [True, False]
    assert predecessors(second) == [str(first.SOPInstanceUID)]


def _trickle(house: House, *, until_s: float) -> tuple[int, int]:
    """An image each time just before the study would be quiet, the last again and again; seconds, studies settled."""
    images = studies.series(REFUSED)[:-1]
    gap_s, elapsed_s, settled = int(house.where.settings.receive.settle_after_s) - 5, 0, 0
    while elapsed_s < until_s + 1:
        house.send([images[min(elapsed_s // gap_s, len(images) - 1)]])
        settled += house.quiet(gap_s, tick_s=5)
        elapsed_s += gap_s
    return elapsed_s, settled


@pytest.mark.parametrize(
    "jump",
    [timedelta(hours=1), timedelta(hours=-1), timedelta(days=365), timedelta(days=-365), timedelta(seconds=-0.5)],
    ids=["summer time", "winter time", "a year on", "a year back", "a step of NTP"],
)
def test_f35_a_jump_of_the_wall_clock_closes_no_study(house: House, jump: timedelta) -> None:
    plans = [replace(REFUSED, study=f"F35 {number}", slices=1, rows=8, columns=8) for number in range(5)]
    house.send([studies.series(plan)[0] for plan in plans])
    house.quiet(10)

    settled = 0
    for second in range(15):
        house.clock_s += 1.0
        settled += workflow.settle(house.where, holder=BOOT, monotonic_s=house.clock_s, at=utc_now() + jump)
        assert settled == 0, f"closed {second + 1} s after the jump, before its quiet time was over"

    assert house.quiet(10) == len(plans), "the quiet time is counted on as if nothing had happened"


def test_f35_quiet_time_goes_on_where_a_restart_and_a_night_off_left_it(house: House) -> None:
    house.send(studies.series(REFUSED)[:1])
    house.quiet(20)
    a_night_s = 8 * 3600.0

    def tick(holder: str, monotonic_s: float) -> int:
        return workflow.settle(house.where, holder=holder, monotonic_s=monotonic_s, at=utc_now() + timedelta(seconds=a_night_s))

    settled_by_the_night = sum(tick("after the reboot", 5.0 + second) for second in range(5))
    settled = sum(tick("after the reboot", 10.0 + second) for second in range(10))

    assert settled_by_the_night == 0
    assert settled == 1, "20 s before the night and 10 s after it are 30 s"


# ------------------------------------------------------------------------------------------------ spelling


def _japanese(one: Dataset) -> None:
    one.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    one.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def _chinese(one: Dataset) -> None:
    one.SpecificCharacterSet = "GB18030"
    one.PatientName = "Wang^XiaoDong=王^小东"


def _five_components(one: Dataset) -> None:
    one.PatientName = "Müller^Jörg^Xaver^Dr.^jun."


def _undeclared(one: Dataset) -> None:
    one.SpecificCharacterSet = "ISO_IR 192"
    one.PatientName = "Müller^Jörg"


def _private_sequence(one: Dataset) -> None:
    inner = Dataset()
    inner.add_new(0x00110010, "LO", "TESTS")
    inner.add_new(0x00111001, "UN", b"\xde\xad\xbe\xef")
    one.add_new(0x00090010, "LO", "TESTS")
    one.add_new(0x00091001, "SQ", [inner])


def _retired(one: Dataset) -> None:
    one.add_new(0x00080001, "UL", 1234)  # Length to End
    one.add_new(0x00080010, "SH", "ACR-NEMA 2.0")  # Recognition Code


SPELLINGS: dict[str, tuple[Callable[[Dataset], None], Callable[[bytes], bytes]]] = {
    "ISO 2022": (_japanese, bytes),
    "GB18030": (_chinese, bytes),
    "five components": (_five_components, bytes),
    "wrong character set": (_undeclared, lambda data: data.replace(b"ISO_IR 192", b"ISO_IR 100", 1)),
    "unknown character set": (_undeclared, lambda data: data.replace(b"ISO_IR 192", b"KLINGON 1 ", 1)),
    "private sequence": (_private_sequence, bytes),
    "retired elements": (_retired, bytes),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_f43_whatever_the_spelling_the_object_is_kept_byte_for_byte(node: Listening, spelling: str) -> None:
    edit, damage = SPELLINGS[spelling]
    one = small(f"F43 {spelling} {node.receive_path}")[0]
    edit(one)
    data = damage(studies.encoded(one))

    with Wire(node.port) as wire:
        assert send_over(wire, one, data=data) == SUCCESS

    (row,) = node.instances(str(one.StudyInstanceUID))
    assert node.file(row.path).endswith(data)


@pytest.mark.parametrize("spelling", ["ISO 2022", "GB18030"])
def test_f43_the_report_has_the_patients_name_whatever_the_character_set(house: House, spelling: str) -> None:
    edit, _ = SPELLINGS[spelling]
    images = studies.series(REFUSED)
    for one in images:
        edit(one)
    source = dcmread(BytesIO(studies.part10(images[0])))
    source.decode()

    house.send(images)
    house.answer()

    (report,) = house.reports()
    report.decode()
    assert report.PatientName == source.PatientName
    assert report.SpecificCharacterSet == "ISO_IR 192"


# ------------------------------------------------------------------------------------------------ the archive's ways


def passive_objects(images: list[Dataset]) -> list[Dataset]:
    """What other systems make of a study: SR, SEG, SC, and objects that only name their class: PR, KO, PM."""
    plan = REFUSED
    made = [studies.structured_report(plan), studies.segmentation(images), studies.secondary_capture(plan)]
    for sop_class_uid, modality in (
        (GrayscaleSoftcopyPresentationStateStorage, "PR"),
        (KeyObjectSelectionDocumentStorage, "KO"),
        (ParametricMapStorage, "MR"),
    ):
        other = studies.structured_report(plan, manufacturer=f"Acme {modality}")
        other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = sop_class_uid
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[modality])
        other.Modality = modality
        made.append(other)
    return made


@pytest.mark.feature("D6")
def test_f45_an_archive_that_routes_everything_back_gets_one_result_set(house: House) -> None:
    images = studies.series(REFUSED)
    house.send(images)
    house.answer()
    before = house.study(REFUSED)

    for _ in range(2):
        answers = house.send([*images, *passive_objects(images), *house.reports()], calling="PACS")
        house.answer()
        assert set(answers) == {"0x0000"}

    after = house.study(REFUSED)
    assert (after.state, after.revision) == (StudyState.SETTLED, before.revision)
    assert [job.state for job in house.jobs()] == [JobState.COMPLETED]
    assert len(house.reports()) == house.pacs.receipts() == 1


@pytest.mark.feature("E10")
def test_f46_a_patient_corrected_in_the_archive_gets_a_revised_report_and_no_quarantine(house: House) -> None:
    images = studies.series(REFUSED)
    house.send(images)
    house.answer()
    for image in images:
        image.PatientID, image.PatientName, image.AccessionNumber = "RIGHT-ID", "Right^Person", "RIGHT1"

    house.send(images, calling="PACS")
    house.answer()

    study = house.study(REFUSED)
    first, second = house.reports()
    assert (study.state, study.patient_id) == (StudyState.SETTLED, "RIGHT-ID")
    assert (second.PatientID, str(second.PatientName), second.AccessionNumber) == ("RIGHT-ID", "Right^Person", "RIGHT1")
    assert predecessors(second) == [str(first.SOPInstanceUID)]
    assert house.events(EventKind.STUDY_QUARANTINED) == []
