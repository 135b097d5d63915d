"""F23 and F36 to F39: runs that crash, hang, starve or poison; workers that die; two schedulers. Every study gets its answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless

from dicom_node import acting, workflow
from dicom_node.engine import Engine, Limits
from dicom_node.workflow import utc_now
from storage import queue
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.models import Attempt, Result
from storage.spool import Spool
from storage.states import JobState, StudyState
from tests import studies
from tests.hostile.house import FLAIR, LIMITS, REFUSED, House, faulty_engine, living, predecessors
from tests.studies import Plan

pytestmark = pytest.mark.feature("S2")

TIGHT = Limits(memory_mb=512, timeout_s=60, threads=1)


# ------------------------------------------------------------------------------------------------ pixel bombs


SHIPPED = [{"name": "brain-flair"}]
"""The model with its weights: what passes the rules is read and decoded."""


@pytest.fixture
def house_with_model(tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine) -> Iterator[House]:
    with living(tmp_path, sqlite_database, spool, engine, models=SHIPPED) as made:
        yield made


def _huge(one: Dataset) -> None:
    one.Rows = one.Columns = 65535


def _sixty_four_bits(one: Dataset) -> None:
    one.BitsAllocated, one.BitsStored, one.HighBit = 64, 64, 63


def _a_thousand_frames(one: Dataset) -> None:
    one.NumberOfFrames = 1000


def _palette(one: Dataset) -> None:
    one.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(one, f"{colour}PaletteColorLookupTableDescriptor", [65535, 65535, 16])
        setattr(one, f"{colour}PaletteColorLookupTableData", b"\0\0")


def _short(one: Dataset) -> None:
    one.PixelData = one.PixelData[:100]


BOMBS: dict[str, Callable[[Dataset], None]] = {
    "65535 x 65535": _huge,
    "64 bits": _sixty_four_bits,
    "1000 frames": _a_thousand_frames,
    "palette": _palette,
    "short pixel data": _short,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_f23_pixels_that_cannot_be_are_stored_and_answered_with_a_reason(house_with_model: House, bomb: str) -> None:
    house = house_with_model
    images = studies.series(FLAIR)
    for image in images:
        BOMBS[bomb](image)

    assert set(house.send(images)) == {"0x0000"}
    house.answer()

    (job,) = house.jobs()
    assert (job.state, bool(job.reason)) == (JobState.COMPLETED, True)
    assert len(house.reports()) == 1
    assert house.rows(Attempt)[0].peak_memory_mb is None or house.rows(Attempt)[0].peak_memory_mb < 2048


def _compressed_zeros(count: int, size: int) -> list[Dataset]:
    """A series that a few kilobytes each blow up to count x size x size voxels, all within the model's declared range."""
    plan = Plan(slices=count, rows=8, columns=8, gap_mm=1.0, thickness_mm=1.0, pixel_spacing_mm=(0.3, 0.3), study="F23 zeros")
    images = studies.series(plan)
    full = deepcopy(images[0])
    full.Rows = full.Columns = size
    full.PixelData = bytes(2 * size * size)
    stream = studies.compressed(full, RLELossless)
    for image in images:
        image.Rows = image.Columns = size
        image.PixelData = stream.PixelData
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = RLELossless
    return images


def test_f23_decompression_bomb_is_killed_by_its_memory_limit_and_the_report_says_failed(
    tmp_path: Path, sqlite_database: Database, spool: Spool
) -> None:
    images = _compressed_zeros(160, 1000)
    engine = Engine(TIGHT)
    before = psutil.Process().memory_info().rss
    try:
        with living(tmp_path, sqlite_database, spool, engine, models=SHIPPED, run={"maximum_attempts": 1}) as house:
            assert set(house.send(images)) == {"0x0000"}
            house.answer()

            (job,) = house.jobs()
            (report,) = house.reports()
    finally:
        engine.close()

    assert sum(len(image.PixelData) for image in images) < 20 * 1024 * 1024
    assert (job.state, job.reason) == (JobState.FAILED, "out-of-memory")
    assert "fail" in str(report.SeriesDescription).lower()
    assert psutil.Process().memory_info().rss - before < 512 * 1024 * 1024


def test_f23_compressed_stream_that_is_larger_than_its_header_is_not_decoded(house_with_model: House) -> None:
    house = house_with_model
    images = studies.series(replace(FLAIR, slices=20))
    large = deepcopy(images[0])
    large.Rows = large.Columns = 2048
    large.PixelData = bytes(2 * 2048 * 2048)
    stream = studies.compressed(large, JPEG2000Lossless)
    for image in images:
        image.PixelData = stream.PixelData
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = JPEG2000Lossless

    assert set(house.send(images)) == {"0x0000"}
    house.answer()

    (job,) = house.jobs()
    assert (job.state, job.reason) == (JobState.COMPLETED, "undecodable")
    assert len(house.reports()) == 1


# ------------------------------------------------------------------------------------------------ runs that fail


FAULTS = {
    "kill -9": ("os.kill(os.getpid(), 9)", "died"),
    "out of memory": ("raise MemoryError('Unable to allocate 9.00 GiB')", "out-of-memory"),
    "CUDA error": ("raise RuntimeError('CUDA error: an illegal memory access was encountered')", "crashed"),
    "no GPU any more": ("raise RuntimeError('CUDA error: unknown error: GPU has fallen off the bus')", "crashed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_f36_run_that_is_lost_is_tried_again_and_then_reported_as_failed(
    tmp_path: Path, sqlite_database: Database, spool: Spool, fault: str
) -> None:
    body, reason = FAULTS[fault]
    with faulty_engine(tmp_path, body) as engine, living(tmp_path, sqlite_database, spool, engine, run=TWICE) as house:
        house.send(studies.series(REFUSED))
        house.answer()

        (job,) = house.jobs()
        (report,) = house.reports()
        attempts = house.rows(Attempt)

    assert (job.state, job.reason) == (JobState.FAILED, reason)
    assert len(attempts) == 2
    assert "fail" in str(report.SeriesDescription).lower()


TWICE = {"maximum_attempts": 2, "retry_after_s": 0.001}


def test_f36_job_of_a_worker_that_was_killed_goes_to_another_at_once(house: House) -> None:
    house.send(studies.series(REFUSED))
    house.quiet()
    with house.where.database.write() as session:
        assert queue.claim_job(session, worker="killed", lease_s=3600, at=utc_now()) is not None

    assert workflow.take_back(house.where, is_dead=lambda worker: worker == "killed", at=utc_now()) == 1
    house.run(worker="alive")
    house.deliver()

    (job,) = house.jobs()
    assert (job.state, job.attempt) == (JobState.COMPLETED, 2)
    assert [one.outcome for one in house.rows(Attempt)] == ["lease expired", "refused"]
    assert len(house.reports()) == 1


def test_f37_run_that_hangs_is_killed_at_its_limit_and_the_next_is_served(
    tmp_path: Path, sqlite_database: Database, spool: Spool
) -> None:
    limits = Limits(memory_mb=4096, timeout_s=5, threads=1)
    hangs, goes = (replace(REFUSED, study=name) for name in ("F37 hangs", "F37 goes"))
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    with (
        faulty_engine(tmp_path, "time.sleep(3600)", victim=hangs.study_instance_uid, limits=limits) as engine,
        living(tmp_path, sqlite_database, spool, engine, run={"maximum_attempts": 1}) as house,
    ):
        house.send([*studies.series(hangs), *studies.series(goes)])
        house.quiet()
        began = time.monotonic()
        house.run()
        took = time.monotonic() - began
        house.deliver()
        states = {job.study_id: (job.state, job.reason) for job in house.jobs()}
        reports = house.reports()
    left = {one.pid for one in psutil.Process().children(recursive=True)} - before

    assert sorted(states.values()) == [(JobState.COMPLETED, "contrast"), (JobState.FAILED, "timed-out")]
    assert len(reports) == 2
    assert took < 120
    assert not left, "the hanging child and the waiting one are gone"


def test_f38_study_that_kills_its_workers_is_quarantined_until_a_person_releases_it_and_stops_no_other(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine
) -> None:
    poison = replace(REFUSED, study="F38 poison")
    others = [replace(REFUSED, study=f"F38 {number}") for number in range(2)]
    run = {"maximum_attempts": 9, "quarantine_after_deaths": 3, "retry_after_s": 0.001}
    with (
        faulty_engine(tmp_path, "os._exit(7)", victim=poison.study_instance_uid) as deadly,
        living(tmp_path, sqlite_database, spool, deadly, run=run) as house,
    ):
        house.send([image for plan in (poison, *others) for image in studies.series(plan)])
        house.answer()
        (alert,) = house.events(EventKind.STUDY_QUARANTINED)
        states = [house.study(plan).state for plan in (poison, *others)]
        deaths = [one.outcome for one in house.rows(Attempt)].count("died")
        again = house.quiet(), workflow.submit(house.where, deadly, worker="w")
        standing = {job.reason for job in house.jobs() if job.study_id == house.study(poison).id}

        with house.where.database.write() as session:
            acting.release(session, spool, poison.study_instance_uid, user="reader", discard=False, include_held=False)
        house.quiet()
        house.run(engine)
        house.deliver()
        (released,) = house.events(EventKind.STUDY_RELEASED)
        (job,) = [job for job in house.jobs() if job.study_id == house.study(poison).id]
        about_poison = [one for one in house.reports() if one.StudyInstanceUID == poison.study_instance_uid]

    assert states == [StudyState.QUARANTINED, StudyState.SETTLED, StudyState.SETTLED]
    assert (alert.study_instance_uid, alert.outcome) == (poison.study_instance_uid, EventOutcome.SERIOUS_FAILURE)
    assert alert.detail["worker processes ended"] == deaths == 3
    assert standing == {"quarantined"}
    assert again == (0, False), "nothing of it is tried any more until a person says so"
    assert (released.study_instance_uid, released.user) == (poison.study_instance_uid, "reader")
    assert (job.state, house.study(poison).state) == (JobState.COMPLETED, StudyState.SETTLED)
    assert ["fail" in str(one.SeriesDescription) for one in about_poison] == [True, False]
    assert predecessors(about_poison[1]) == [str(about_poison[0].SOPInstanceUID)]


def test_f38_broken_installation_fails_each_run_and_quarantines_no_study(
    tmp_path: Path, sqlite_database: Database, spool: Spool
) -> None:
    broken = Engine(LIMITS, (sys.executable, "-c", "raise SystemExit(3)"))
    with living(tmp_path, sqlite_database, spool, broken, run={"maximum_attempts": 4, "retry_after_s": 0.001}) as house:
        house.send(studies.series(REFUSED))
        house.answer()

        (job,) = house.jobs()
        state = house.study(REFUSED).state
    broken.close()

    assert (job.state, job.reason, state) == (JobState.FAILED, "crashed", StudyState.SETTLED)


def test_f39_two_nodes_on_one_database_own_each_job_once_and_make_the_same_objects(house: House) -> None:
    house.send(studies.series(REFUSED))
    house.quiet()
    with house.where.database.write() as session:
        stale = queue.claim_job(session, worker="first node", lease_s=1, at=utc_now())
        assert stale is not None
        assert queue.claim_job(session, worker="second node", lease_s=1, at=utc_now()) is None
        request = workflow.request_for(house.where, session, stale, at=utc_now())
        assert request is not None
    workflow.take_back(house.where, is_dead=lambda worker: worker == "first node", at=utc_now())

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(house.engine.run, request)
        other = Engine(Limits(4096, 120, 1))
        second = pool.submit(workflow.submit, house.where, other, worker="second node")
        outcome, _ = first.result()
        assert second.result()
        other.close()
    workflow.finish(house.where, stale, request, outcome, peak_memory_mb=1.0, at=utc_now())
    house.deliver()

    kept = {one.sop_instance_uid for one in house.rows(Result)}
    assert {one.sop_instance_uid for one in outcome.objects} == kept, "a retry makes the same objects"
    assert len(house.rows(Result)) == len(house.pacs.received()) == 1
    assert [job.state for job in house.jobs()] == [JobState.COMPLETED]
