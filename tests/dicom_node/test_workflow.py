"""The story of a study on both databases: what is settled, run, finished and sent, and that nothing happens twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicom_node import ledger, workflow
from dicom_node.engine import Engine, Limits
from dicom_node.settings import Destination
from dicom_node.simulator import SimulatedPacs
from dicom_node.workflow import Site, utc_now
from storage import queue
from storage.database import Database
from storage.models import Delivery, Event, Job, Result, Study
from storage.reception import Receipt
from storage.states import DeliveryState, JobState, StudyState
from tests import studies
from tests.site import receive, site

pytestmark = pytest.mark.slow

NOT_FLAIR = replace(studies.Plan(slices=10, rows=128, columns=128, pixel_spacing_mm=(1.8, 1.8)), kind=studies.T1)
FLAIR = replace(NOT_FLAIR, kind=studies.FLAIR)
LIMITS = Limits(memory_mb=4096, timeout_s=60, threads=1)

CRASHES_UNLESS_ASKED_FOR_THE_FAILURE_REPORT = """
import os
import dicom_node.run as real
honest = real.run
def crash(request):
    if request.failure is None:
        os.kill(os.getpid(), 9)
    return honest(request)
real.run = crash
from dicom_node.child import main
main()
"""


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SimulatedPacs]:
    simulated = SimulatedPacs("PACS", folder=tmp_path / "pacs")
    simulated.start()
    yield simulated
    simulated.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(LIMITS)
    yield made
    made.close()


def quiet(where: Site, *, node_seconds: float = 40.0) -> int:
    """Let the node's clock run in ticks of one second until the quiet time is over; the number of studies settled."""
    settled = 0
    start = getattr(quiet, "clock", 1000.0)
    for second in range(int(node_seconds)):
        settled += workflow.settle(where, holder="test", monotonic_s=start + second, at=utc_now())
    quiet.clock = start + node_seconds  # type: ignore[attr-defined]
    return settled


def jobs(where: Site) -> list[Job]:
    with where.database.read() as session:
        found = list(session.scalars(select(Job).order_by(Job.id)))
        session.expunge_all()
    return found


def kinds(where: Site) -> list[str]:
    with where.database.read() as session:
        return list(session.scalars(select(Event.kind).order_by(Event.id)))


def to(pacs: SimulatedPacs) -> Destination:
    return pacs.destination()


def reports(pacs: SimulatedPacs) -> list[Dataset]:
    return [dcmread(one.path) for one in pacs.received() if one.modality == "SR"]


def test_a_study_settles_once_and_becomes_one_job(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(FLAIR), at=utc_now())

    assert quiet(where, node_seconds=20) == 0
    assert quiet(where, node_seconds=20) == 1
    assert quiet(where, node_seconds=60) == 0

    assert [job.state for job in jobs(where)] == [JobState.SCHEDULED]
    assert kinds(where)[-3:] == ["study settled", "rule decided", "job created"]


def test_a_late_image_starts_the_quiet_time_again(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    images = studies.series(FLAIR)
    receive(where, images[:-1], at=utc_now())
    quiet(where, node_seconds=20)

    receive(where, images[-1:], at=utc_now())

    assert quiet(where, node_seconds=25) == 0
    assert quiet(where, node_seconds=25) == 1
    assert len(jobs(where)) == 1


def test_a_late_image_of_another_series_leaves_the_wanted_job_alone(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(FLAIR), at=utc_now())
    quiet(where)

    receive(where, studies.series(NOT_FLAIR)[:1], at=utc_now())
    quiet(where)

    assert [job.state for job in jobs(where)] == [JobState.SCHEDULED]
    assert jobs(where)[0].revision == 2


def test_a_late_image_of_the_analysed_series_makes_another_job(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    images = studies.series(FLAIR)
    receive(where, images[:-1], at=utc_now())
    quiet(where)

    receive(where, images[-1:], at=utc_now())
    quiet(where)

    assert [job.state for job in jobs(where)] == [JobState.CANCELED, JobState.SCHEDULED]


def test_the_same_study_again_starts_nothing(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    images = studies.series(FLAIR)
    receive(where, images, at=utc_now())
    quiet(where)

    assert set(receive(where, images, at=utc_now())) == {Receipt.REPEATED}

    assert quiet(where) == 0
    assert len(jobs(where)) == 1


def test_a_study_that_no_rule_selects_makes_no_job(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database, rules=[{"name": "ct", "model": "brain-flair", "modality": ["CT"], "destinations": ["pacs"]}])
    receive(where, studies.series(FLAIR), at=utc_now())

    assert quiet(where) == 1
    assert jobs(where) == []


def test_another_patient_in_the_study_stops_everything_until_a_person_decides(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    other = replace(FLAIR, patient=studies.Patient(patient_id="OTHER"), series="other", seed=5)
    receive(where, studies.series(FLAIR), at=utc_now())
    strange = studies.series(other)[:1]
    strange[0].SOPInstanceUID = strange[0].file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"

    assert receive(where, strange, at=utc_now()) == [Receipt.HELD]
    assert quiet(where) == 0

    with where.database.read() as session:
        assert session.scalars(select(Study)).one().state == StudyState.QUARANTINED
    assert jobs(where) == []


def test_a_refused_study_gets_one_delivered_report_and_it_is_not_made_twice(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)

    assert workflow.submit(where, engine, worker="w")
    assert workflow.deliver(where, to(pacs), worker="s")

    assert not workflow.submit(where, engine, worker="w")
    assert not workflow.deliver(where, to(pacs), worker="s")
    [report] = reports(pacs)
    assert report.PatientID == NOT_FLAIR.patient.patient_id
    [job] = jobs(where)
    assert (job.state, job.reason) == (JobState.COMPLETED, "contrast")
    assert kinds(where)[-3:] == ["result created", "delivery attempted", "delivery succeeded"]


@pytest.mark.feature("E4")
def test_a_destination_gets_the_kinds_it_asks_for(tmp_path: Path, database: Database, engine: Engine) -> None:
    peer = {"ae_title": "PACS", "host": "127.0.0.1", "port": 1}
    where = site(
        tmp_path,
        database,
        output={"objects": ["seg", "sr", "pdf"]},
        rules=[{"name": "flair", "model": "brain-flair", "destinations": ["pacs", "viewer"]}],
        destinations=[{"name": "pacs", **peer}, {"name": "viewer", **peer, "objects": ["seg", "sr"]}],
    )
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)

    assert workflow.submit(where, engine, worker="w")

    with where.database.read() as session:
        sent = {
            delivery.destination: sorted(item.result.kind for item in delivery.items)
            for delivery in session.scalars(select(Delivery))
        }
    assert sent == {"pacs": ["PDF", "SR"], "viewer": ["SR"]}


def test_a_report_that_comes_back_starts_nothing(tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")
    workflow.deliver(where, to(pacs), worker="s")

    receive(where, reports(pacs), at=utc_now())

    assert quiet(where) == 0
    assert len(jobs(where)) == 1


def test_a_corrected_patient_gets_a_revised_report_that_names_the_old_one(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    images = studies.series(NOT_FLAIR)
    receive(where, images, at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")
    workflow.deliver(where, to(pacs), worker="s")

    for image in images:
        image.PatientName = "Right^Name"
    assert set(receive(where, images, at=utc_now())) == {Receipt.CORRECTED}
    quiet(where)
    workflow.submit(where, engine, worker="w")
    workflow.deliver(where, to(pacs), worker="s")

    first, second = reports(pacs)
    assert str(second.PatientName) == "Right^Name"
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == first.SOPInstanceUID
    with where.database.read() as session:
        assert [one.superseded for one in session.scalars(select(Result).order_by(Result.id))] == [True, False]


def test_a_report_that_nobody_has_received_is_called_back_when_it_is_superseded(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    images = studies.series(NOT_FLAIR)
    receive(where, images, at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")

    for image in images:
        image.PatientName = "Right^Name"
    receive(where, images, at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")
    while workflow.deliver(where, to(pacs), worker="s"):
        continue

    [report] = reports(pacs)
    assert str(report.PatientName) == "Right^Name"
    assert "PredecessorDocumentsSequence" not in report
    with where.database.read() as session:
        states = [one.state for one in session.scalars(select(Delivery).order_by(Delivery.id))]
    assert states == [DeliveryState.CANCELED, DeliveryState.STORED]


def test_a_correction_that_is_taken_back_makes_a_third_report(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    for name in ("Example^Ada", "Wrong^Name", "Example^Ada"):
        images = studies.series(NOT_FLAIR)
        for image in images:
            image.PatientName = name
        receive(where, images, at=utc_now())
        quiet(where)
        workflow.submit(where, engine, worker="w")
        workflow.deliver(where, to(pacs), worker="s")

    found = reports(pacs)
    assert [str(one.PatientName) for one in found] == ["Example^Ada", "Wrong^Name", "Example^Ada"]
    assert len({one.SOPInstanceUID for one in found}) == 3


def test_a_run_that_crashes_is_tried_again_and_then_reported_as_failed(
    tmp_path: Path, database: Database, pacs: SimulatedPacs
) -> None:
    where = site(tmp_path, database)
    script = tmp_path / "child.py"
    script.write_text(CRASHES_UNLESS_ASKED_FOR_THE_FAILURE_REPORT, encoding="utf-8")
    crashing = Engine(LIMITS, (sys.executable, str(script)))
    receive(where, studies.series(FLAIR), at=utc_now())
    quiet(where)

    runs = 0
    while any(job.state == JobState.SCHEDULED for job in jobs(where)):
        runs += workflow.submit(where, crashing, worker="w")
    crashing.close()
    workflow.deliver(where, to(pacs), worker="s")

    assert runs == where.settings.run.maximum_attempts
    [job] = jobs(where)
    assert (job.state, job.reason) == (JobState.FAILED, "quarantined")
    with database.read() as session:
        assert session.scalars(select(Study.state)).all() == [StudyState.QUARANTINED]
    [report] = reports(pacs)
    assert "fail" in report.SeriesDescription.lower()


def test_a_failed_job_can_be_resubmitted_and_its_report_replaces_the_failure(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database, run={"retry_after_s": 0.001, "quarantine_after_deaths": 9})
    script = tmp_path / "child.py"
    script.write_text(CRASHES_UNLESS_ASKED_FOR_THE_FAILURE_REPORT, encoding="utf-8")
    crashing = Engine(LIMITS, (sys.executable, str(script)))
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)
    while any(job.state == JobState.SCHEDULED for job in jobs(where)):
        workflow.submit(where, crashing, worker="w")
    crashing.close()
    workflow.deliver(where, to(pacs), worker="s")

    with where.database.write() as session:
        queue.resubmit_job(session, session.scalars(select(Job)).one(), user="somebody", at=utc_now())
    workflow.submit(where, engine, worker="w")
    workflow.deliver(where, to(pacs), worker="s")

    failed, refused = reports(pacs)
    predecessor = refused.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert predecessor.ReferencedSOPInstanceUID == failed.SOPInstanceUID
    assert jobs(where)[0].state == JobState.COMPLETED


def test_the_result_of_a_worker_that_lost_its_job_is_dropped(tmp_path: Path, database: Database, engine: Engine) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)
    with where.database.write() as session:
        stale = queue.claim_job(session, worker="dead", lease_s=1, at=utc_now())
        assert stale is not None
        request = workflow.request_for(where, session, stale, at=utc_now())
        assert request is not None
    assert workflow.take_back(where, is_dead=lambda worker: worker == "dead", at=utc_now()) == 1
    workflow.submit(where, engine, worker="alive")
    outcome, _ = engine.run(request)

    workflow.finish(where, stale, request, outcome, peak_memory_mb=1.0, at=utc_now())

    with where.database.read() as session:
        assert len(session.scalars(select(Result)).all()) == 1
    assert len(list(where.spool.files(workflow.Area.RESULTS))) == 1


def test_attempts_lost_with_their_worker_do_not_count_as_failures(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)

    for _ in range(5):
        with where.database.write() as session:
            claim = queue.claim_job(session, worker="dead", lease_s=1, at=utc_now())
        workflow.take_back(where, is_dead=lambda worker: True, at=utc_now())

    assert claim is not None
    with where.database.read() as session:
        assert ledger.failed_runs(session, claim) == 0
    assert jobs(where)[0].state == JobState.SCHEDULED


def test_a_pacs_that_is_down_gets_everything_when_it_is_back(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")
    here = to(pacs)
    down = here.model_copy(update={"port": 1})

    before = utc_now()
    assert workflow.deliver(where, down, worker="s")
    with where.database.read() as session:
        assert session.scalars(select(Delivery)).one().state == DeliveryState.PENDING
        due = session.scalars(select(Delivery)).one().not_before
    assert due > before
    while not workflow.deliver(where, here, worker="s"):
        continue

    assert len(reports(pacs)) == 1


def test_files_of_a_delivered_study_are_purged_after_their_time_and_rows_stay(
    tmp_path: Path, database: Database, pacs: SimulatedPacs, engine: Engine
) -> None:
    where = site(tmp_path, database)
    receive(where, studies.series(NOT_FLAIR), at=utc_now())
    quiet(where)
    workflow.submit(where, engine, worker="w")
    assert workflow.purge(where, at=utc_now() + timedelta(days=30)) == 0, "an undelivered study is never purged"
    workflow.deliver(where, to(pacs), worker="s")

    assert workflow.purge(where, at=utc_now() + timedelta(days=13)) == 0
    assert workflow.purge(where, at=utc_now() + timedelta(days=15)) == 1

    assert list(where.spool.files(workflow.Area.INSTANCES)) == []
    assert list(where.spool.files(workflow.Area.RESULTS)) == []
    with where.database.read() as session:
        assert session.scalars(select(Study)).one().state == StudyState.PURGED
        assert len(session.scalars(select(Result)).all()) == 1
