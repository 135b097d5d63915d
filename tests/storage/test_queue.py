"""Claims, leases, epochs and quiet time, one process or many, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from storage import queue
from storage.database import Database, DatabaseBusy
from storage.models import Attempt, Delivery, DeliveryItem, Event, Job, Result
from storage.queue import JobClaim
from storage.states import DeliveryEvent, DeliveryState, InvalidMove, JobState, StudyEvent, StudyState
from tests.storage.rows import add_delivery, add_job, at, kinds, received, take, the_study

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.feature("C2")


def with_jobs(database: Database, *names: str, priority: int = 0) -> list[int]:
    take(database, received())
    with database.write() as session:
        study = the_study(session)
        return [add_job(session, study, name, priority=priority, seconds=n).id for n, name in enumerate(names)]


def claim(database: Database, worker: str = "w1", seconds: float = 100.0, lease_s: float = 60.0) -> JobClaim | None:
    with database.write() as session:
        return queue.claim_job(session, worker=worker, lease_s=lease_s, at=at(seconds))


def finish(database: Database, mine: JobClaim, seconds: float = 110.0) -> bool:
    with database.write() as session:
        job = queue.finish_job(session, mine, at=at(seconds), peak_memory_mb=1.5, outcome="completed", summary={"score": 1})
        return job is not None


def state_of(database: Database, job_id: int) -> str:
    with database.read() as session:
        return session.get_one(Job, job_id).state


def test_claim_takes_the_most_urgent_then_the_oldest(database: Database) -> None:
    first, second = with_jobs(database, "a", "b")
    with database.write() as session:
        urgent = add_job(session, the_study(session), "urgent", priority=10, seconds=50).id
        add_job(session, the_study(session), "tomorrow", priority=20, seconds=86400)

    claims = [claim(database) for _ in range(4)]

    assert [one.job_id if one else None for one in claims] == [urgent, first, second, None]


def test_claim_leases_the_job_and_notes_the_attempt(database: Database) -> None:
    (job_id,) = with_jobs(database, "a")

    mine = claim(database)

    assert mine == JobClaim(job_id, epoch=1, attempt=1)
    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.worker, job.lease_until, job.started_at) == (JobState.IN_PROGRESS, "w1", at(160), at(100))
        attempt = session.scalars(select(Attempt)).one()
        assert (attempt.number, attempt.epoch, attempt.worker, attempt.ended_at) == (1, 1, "w1", None)
    assert kinds(database) == ["job started"]


def test_finish_completes_job_and_attempt(database: Database) -> None:
    (job_id,) = with_jobs(database, "a")
    mine = claim(database)
    assert mine is not None

    assert finish(database, mine)

    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.summary, job.ended_at) == (JobState.COMPLETED, {"score": 1}, at(110))
        assert (job.worker, job.lease_until) == (None, None)
        attempt = session.scalars(select(Attempt)).one()
        assert (attempt.outcome, attempt.ended_at, attempt.peak_memory_mb) == ("completed", at(110), 1.5)
        ended = session.scalars(select(Event).where(Event.kind == "job ended")).one()
        assert (ended.job_id, ended.model, ended.study_instance_uid, ended.patient_id) == (job_id, "brain 1", "1.2.3", "P1")


def test_a_lost_lease_gives_the_job_to_another_and_fences_the_first(database: Database) -> None:
    """F36, F39: the slow first worker's result is dropped, the second one's counts."""
    (job_id,) = with_jobs(database, "a")
    first = claim(database, "w1", lease_s=60)
    assert first is not None

    with database.write() as session:
        assert queue.expire_job_leases(session, at=at(159)) == []
        assert queue.expire_job_leases(session, at=at(161)) == [job_id]
    second = claim(database, "w2", seconds=162)
    assert second == JobClaim(job_id, epoch=2, attempt=2)

    with database.write() as session:
        assert not queue.heartbeat_job(session, first, lease_s=60, at=at(163))
        assert queue.heartbeat_job(session, second, lease_s=60, at=at(163))
    assert not finish(database, first)
    assert state_of(database, job_id) == JobState.IN_PROGRESS
    assert finish(database, second)
    with database.read() as session:
        assert session.scalars(select(Attempt.outcome).order_by(Attempt.id)).all() == ["lease expired", "completed"]
        dropped = session.scalars(select(Event).where(Event.kind == "job ended").order_by(Event.id)).first()
        assert dropped is not None
        assert (dropped.outcome, dropped.detail["dropped"], dropped.detail["epoch"]) == ("minor failure", "finish", 1)


@pytest.mark.parametrize("ending", ["retry", "give up"])
def test_every_ending_is_fenced(database: Database, ending: str) -> None:
    (job_id,) = with_jobs(database, "a")
    first = claim(database)
    assert first is not None
    with database.write() as session:
        queue.expire_job_leases(session, at=at(500))

    with database.write() as session:
        if ending == "retry":
            ended = queue.retry_job(session, first, at=at(501), not_before=at(900), outcome="crashed", detail=None)
        else:
            ended = queue.give_up_job(session, first, at=at(501), reason="crashed", detail=None, summary=None)

    assert ended is None
    assert state_of(database, job_id) == JobState.SCHEDULED
    assert claim(database, seconds=502) is not None


def test_heartbeat_keeps_the_lease(database: Database) -> None:
    with_jobs(database, "a")
    mine = claim(database, lease_s=60)
    assert mine is not None

    with database.write() as session:
        assert queue.heartbeat_job(session, mine, lease_s=60, at=at(150))
        assert queue.expire_job_leases(session, at=at(200)) == []
        assert queue.expire_job_leases(session, at=at(211)) == [mine.job_id]


def test_jobs_of_dead_workers_come_back_before_their_lease_ends(database: Database) -> None:
    first, second = with_jobs(database, "a", "b")
    claim(database, "dead")
    claim(database, "living")

    with database.write() as session:
        back = queue.expire_job_leases(session, at=at(101), dead_workers={"dead"})

    assert back == [first]
    assert (state_of(database, first), state_of(database, second)) == (JobState.SCHEDULED, JobState.IN_PROGRESS)


def test_retry_waits_and_give_up_ends_with_a_reason(database: Database) -> None:
    (job_id,) = with_jobs(database, "a")
    first = claim(database)
    assert first is not None
    with database.write() as session:
        queue.retry_job(session, first, at=at(110), not_before=at(200), outcome="crashed", detail="signal 9")

    assert claim(database, seconds=199) is None
    second = claim(database, seconds=200)
    assert second is not None
    assert second.attempt == 2
    with database.write() as session:
        queue.give_up_job(session, second, at=at(210), reason="crashed", detail="signal 9", summary={"outcome": "failed"})

    with database.read() as session:
        job = session.get_one(Job, job_id)
        assert (job.state, job.reason, job.detail, job.ended_at) == (JobState.FAILED, "crashed", "signal 9", at(210))
    assert kinds(database) == ["job started", "job retried", "job started", "job ended"]


def test_resubmitted_job_has_all_its_attempts_and_a_newer_epoch(database: Database) -> None:
    (job_id,) = with_jobs(database, "a")
    first = claim(database)
    assert first is not None
    with database.write() as session:
        queue.give_up_job(session, first, at=at(110), reason="crashed", detail=None, summary=None)
    with database.write() as session:
        queue.resubmit_job(session, session.get_one(Job, job_id), user="ada", at=at(300))

    assert not finish(database, first, seconds=301)
    assert claim(database, seconds=302) == JobClaim(job_id, epoch=2, attempt=1)
    with database.read() as session:
        event = session.scalars(select(Event).where(Event.kind == "job resubmitted")).one()
        assert event.user == "ada"


def test_cancelled_jobs_drop_their_result_and_may_be_wanted_again(database: Database) -> None:
    """A study that reopens and settles with the same images wants the job its reopening cancelled."""
    running, waiting, kept = with_jobs(database, "a", "b", "c")
    mine = claim(database)
    assert mine is not None

    with database.write() as session:
        cancelled = queue.cancel_open_jobs(session, the_study(session), at=at(120), keep={kept})

    assert cancelled == [running, waiting]
    assert not finish(database, mine)
    with database.write() as session:
        queue.resubmit_job(session, session.get_one(Job, running), user=None, at=at(130))
        assert session.scalars(select(Attempt.outcome)).all() == ["superseded"]
    assert not finish(database, mine)
    states = [state_of(database, one) for one in (running, waiting, kept)]
    assert states == [JobState.SCHEDULED, JobState.CANCELED, JobState.SCHEDULED]


def test_eight_threads_never_get_the_same_job(database: Database) -> None:
    jobs = with_jobs(database, *[str(n) for n in range(40)])
    claims: list[JobClaim] = []
    failures: list[BaseException] = []
    together = threading.Barrier(8)

    def work(worker: str) -> None:
        try:
            together.wait()
            while (mine := claim(database, worker)) is not None:
                claims.append(mine)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert Counter(one.job_id for one in claims) == Counter(jobs)
    assert {(one.epoch, one.attempt) for one in claims} == {(1, 1)}


def test_two_processes_never_get_the_same_job(database: Database, database_url: str) -> None:
    jobs = with_jobs(database, *[str(n) for n in range(20)])
    script = """
import sys
from storage import queue
from storage.database import Database
from tests.storage.rows import at
database = Database(sys.argv[1])
sys.stdin.read()
while True:
    with database.write() as session:
        mine = queue.claim_job(session, worker=sys.argv[2], lease_s=60, at=at(100))
    if mine is None:
        break
    print(mine.job_id)
"""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script, database_url, name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    told = []
    for worker in workers:
        assert worker.stdout is not None
        told += [int(line) for line in worker.stdout.read().split()]
        worker.stdout.close()
        assert worker.wait() == 0

    assert sorted(told) == jobs


def test_of_two_transactions_that_settle_one_study_one_wins(database: Database) -> None:
    """Compare-and-set under real concurrency: both have read RECEIVING before either moves."""
    take(database, received())
    outcomes: list[str] = []
    both_have_read = threading.Barrier(2)

    def settle() -> None:
        with database.read() as session:
            study = the_study(session)
        both_have_read.wait()
        try:
            with database.write() as session:
                session.add(study)
                queue.move_study(session, study, StudyEvent.SETTLE, at=at(60))
            outcomes.append("moved")
        except InvalidMove:
            outcomes.append("came second")

    threads = [threading.Thread(target=settle) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["came second", "moved"]
    assert kinds(database) == ["study settled"]


# Deliveries


def with_delivery(database: Database, *destinations: str) -> list[int]:
    take(database, received())
    with database.write() as session:
        job = add_job(session, the_study(session))
        return [add_delivery(session, job, one, seconds=n).id for n, one in enumerate(destinations)]


def results_of(database: Database) -> list[int]:
    with database.read() as session:
        return list(session.scalars(select(Result.id).order_by(Result.id)))


def test_delivery_is_stored_when_every_object_is(database: Database) -> None:
    (delivery_id,) = with_delivery(database, "PACS")
    first, second = results_of(database)
    with database.write() as session:
        mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10), destinations={"PACS"})
        assert mine is not None
        assert queue.claim_delivery(session, worker="e", lease_s=60, at=at(10)) is None
        assert queue.item_stored(session, mine, first, status="0x0000", at=at(11))
        assert queue.item_failed(session, mine, second, status="0xA700", detail="out of resources")
        queue.retry_delivery(session, mine, at=at(12), not_before=at(60), reason="0xA700")

    with database.write() as session:
        assert queue.claim_delivery(session, worker="d", lease_s=60, at=at(59)) is None
        again = queue.claim_delivery(session, worker="d", lease_s=60, at=at(60))
        assert again is not None
        assert (again.epoch, again.attempt) == (2, 2)
        assert not queue.item_stored(session, mine, second, status="0x0000", at=at(61))
        assert queue.item_stored(session, again, second, status="0x0000", at=at(61))
        assert queue.finish_delivery(session, mine, at=at(62)) is None
        assert queue.finish_delivery(session, again, at=at(62)) is not None

    with database.read() as session:
        delivery = session.get_one(Delivery, delivery_id)
        assert (delivery.state, delivery.ended_at, delivery.worker) == (DeliveryState.STORED, at(62), None)
        stored = session.scalars(select(DeliveryItem.stored_at).order_by(DeliveryItem.result_id)).all()
        assert stored == [at(11), at(61)]
    kept = ["delivery attempted", "delivery failed", "delivery attempted", "delivery succeeded"]
    assert kinds(database) == kept


def test_a_claim_looks_only_at_the_destinations_asked_for(database: Database) -> None:
    first, second = with_delivery(database, "PACS", "ARCHIVE")

    with database.write() as session:
        assert queue.claim_delivery(session, worker="d", lease_s=60, at=at(10), destinations=set()) is None
        mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10), destinations={"ARCHIVE"})

    assert mine is not None
    assert mine.delivery_id == second
    assert first != second


def test_objects_added_while_a_delivery_is_on_its_way_are_sent_too(database: Database) -> None:
    (delivery_id,) = with_delivery(database, "PACS")
    first, _ = results_of(database)
    with database.write() as session:
        mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10))
        assert mine is not None
        queue.item_stored(session, mine, first, status="0x0000", at=at(11))

        delivery = queue.finish_delivery(session, mine, at=at(12))

        assert delivery is not None
        assert (delivery.id, delivery.state, delivery.not_before) == (delivery_id, DeliveryState.PENDING, at(12))


def test_dead_letter_is_resubmitted_by_a_person(database: Database) -> None:
    (delivery_id,) = with_delivery(database, "PACS")
    with database.write() as session:
        mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10))
        assert mine is not None
        queue.refuse_delivery(session, mine, at=at(11), reason="0x0122", detail="SOP class not supported")
    with database.write() as session:
        delivery = session.get_one(Delivery, delivery_id)
        assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "0x0122")
        queue.resubmit_delivery(session, delivery, user="ada", at=at(100))
        assert (delivery.state, delivery.attempt, delivery.reason) == (DeliveryState.PENDING, 0, None)

    with database.read() as session:
        events = session.scalars(select(Event).order_by(Event.id)).all()
        assert [(one.kind, one.outcome, one.user) for one in events[1:]] == [
            ("delivery failed", "serious failure", None),
            ("delivery resubmitted", "success", "ada"),
        ]
        assert {one.peer for one in events} == {"PACS"}


def test_commitment_ends_or_reopens_a_delivery(database: Database) -> None:
    first, second = with_delivery(database, "PACS", "ARCHIVE")
    results = results_of(database)
    for _ in range(2):
        with database.write() as session:
            mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10))
            assert mine is not None
            for result in results:
                queue.item_stored(session, mine, result, status="0x0000", at=at(11))
            queue.finish_delivery(session, mine, at=at(12))

    with database.write() as session:
        queue.commit_delivery(session, session.get_one(Delivery, first), at=at(20), how="commitment")
        queue.fail_commitment(
            session, session.get_one(Delivery, second), results[:1], at=at(20), not_before=at(30), reason="0x0112"
        )

    with database.read() as session:
        assert session.get_one(Delivery, first).state == DeliveryState.COMMITTED
        assert session.get_one(Delivery, second).state == DeliveryState.PENDING
        missing = select(DeliveryItem.result_id).where(DeliveryItem.delivery_id == second, DeliveryItem.stored_at.is_(None))
        assert session.scalars(missing).all() == results[:1]


def test_delivery_leases_expire_and_cancel_and_reopen(database: Database) -> None:
    first, second = with_delivery(database, "PACS", "ARCHIVE")
    with database.write() as session:
        mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(10))
        assert mine is not None
        assert queue.heartbeat_delivery(session, mine, lease_s=60, at=at(30))
        assert queue.expire_delivery_leases(session, at=at(89)) == []
        assert queue.expire_delivery_leases(session, at=at(91)) == [first]
        assert not queue.heartbeat_delivery(session, mine, lease_s=60, at=at(92))
        queue.cancel_delivery(session, session.get_one(Delivery, second), at=at(93), reason="superseded")
        queue.reopen_delivery(session, session.get_one(Delivery, second), at=at(94))
        queue.reopen_delivery(session, session.get_one(Delivery, first), at=at(94))

    with database.read() as session:
        states = session.scalars(select(Delivery.state)).all()
        assert states == [DeliveryState.PENDING, DeliveryState.PENDING]
    cancelled = ["delivery attempted", "delivery failed", "delivery canceled", "delivery resubmitted"]
    assert kinds(database) == cancelled


def test_a_stored_delivery_cannot_be_called_back(database: Database) -> None:
    (delivery_id,) = with_delivery(database, "PACS")
    with database.write() as session:
        session.get_one(Delivery, delivery_id).state = DeliveryState.STORED

    with pytest.raises(InvalidMove), database.write() as session:
        queue.move_delivery(session, session.get_one(Delivery, delivery_id), DeliveryEvent.CANCEL, at=at())


def test_eight_threads_never_send_the_same_delivery(database: Database) -> None:
    deliveries = with_delivery(database, *[f"D{n}" for n in range(24)])
    claimed: list[int] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        while True:
            with database.write() as session:
                mine = queue.claim_delivery(session, worker="d", lease_s=60, at=at(100))
            if mine is None:
                return
            claimed.append(mine.delivery_id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == deliveries


# Quiet time (D1, F35)


def tick(database: Database, monotonic_s: float, *, holder: str = "boot 1", seconds: float = 0.0) -> float:
    with database.write() as session:
        delta_s = queue.tick_clock(session, holder=holder, monotonic_s=monotonic_s, at=at(seconds), cap_s=5.0)
        queue.count_quiet(session, delta_s)
    return delta_s


def due(database: Database) -> list[str]:
    with database.write() as session:
        return [one.study_instance_uid for one in queue.due_studies(session, settle_after_s=30, maximum_age_s=600)]


def test_quiet_time_is_counted_in_running_seconds(database: Database) -> None:
    take(database, received())

    deltas = [tick(database, 1000.0), tick(database, 1001.0), tick(database, 1002.5), tick(database, 1060.0)]

    assert deltas == [0.0, 1.0, 1.5, 5.0]
    with database.read() as session:
        assert (the_study(session).quiet_s, the_study(session).age_s) == (7.5, 7.5)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 365 * 86400.0, -365 * 86400.0])
def test_a_wall_clock_jump_settles_nothing(database: Database, jump_s: float) -> None:
    take(database, received())
    tick(database, 100.0, seconds=0)
    tick(database, 104.0, seconds=4)

    tick(database, 108.0, seconds=8 + jump_s)

    assert due(database) == []
    with database.read() as session:
        assert the_study(session).quiet_s == 8.0


def test_quiet_time_survives_a_reboot_and_the_night_does_not_count(database: Database) -> None:
    take(database, received())
    tick(database, 5000.0, seconds=0)
    for second in range(1, 21):
        tick(database, 5000.0 + second, seconds=second)

    tick(database, 3.0, holder="boot 2", seconds=8 * 3600)
    assert due(database) == []
    for second in range(1, 11):
        tick(database, 3.0 + second, holder="boot 2", seconds=8 * 3600 + second)

    assert due(database) == ["1.2.3"]
    with database.read() as session:
        assert the_study(session).quiet_s == 30.0


def test_two_schedulers_of_one_machine_share_the_time(database: Database) -> None:
    take(database, received())
    tick(database, 10.0)

    shared = [tick(database, 10.0 + n / 2) for n in range(1, 9)]

    assert sum(shared) == 4.0


def test_a_second_node_counts_nothing_while_the_first_ticks_and_takes_over_when_it_stops(database: Database) -> None:
    tick(database, 10.0, holder="one", seconds=0)

    assert tick(database, 900.0, holder="two", seconds=1) == 0.0
    assert tick(database, 11.0, holder="one", seconds=1) == 1.0
    assert tick(database, 999.0, holder="two", seconds=100) == 0.0
    assert tick(database, 1000.0, holder="two", seconds=101) == 1.0
    assert tick(database, 12.0, holder="one", seconds=102) == 0.0


def test_a_trickling_study_is_due_at_its_maximum_age(database: Database) -> None:
    """F34: an image every 20 s never lets it get quiet (30 s), but it gets old (600 s)."""
    tick(database, 0.0)
    closed_after_s = None
    for number in range(1, 40):
        take(database, received(number=number), seconds=20 * number)
        for fifth in range(1, 5):
            tick(database, 20 * (number - 1) + 5.0 * fifth, seconds=20 * number)
        if due(database):
            closed_after_s = 20 * number
            break

    assert closed_after_s == 600
    with database.read() as session:
        assert the_study(session).quiet_s == 20.0


def test_only_receiving_studies_are_due(database: Database) -> None:
    take(database, received())
    with database.write() as session:
        queue.count_quiet(session, 31.0)
    assert due(database) == ["1.2.3"]

    with database.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.SETTLE, at=at())
        queue.count_quiet(session, 31.0)

    assert due(database) == []
    with database.read() as session:
        assert (the_study(session).quiet_s, the_study(session).state) == (31.0, StudyState.SETTLED)


def test_an_image_that_arrives_while_its_study_settles_reopens_it(database: Database) -> None:
    """The settler has the row locked; the receiver waits for it and then finds the study settled."""
    take(database, received())
    with database.write() as session:
        queue.count_quiet(session, 31.0)
    receipts: list[object] = []

    def receive() -> None:
        try:
            receipts.append(take(database, received(number=2), seconds=60))
        except DatabaseBusy as error:
            receipts.append(error)

    receiver = threading.Thread(target=receive)
    with database.write() as session:
        (study,) = queue.due_studies(session, settle_after_s=30, maximum_age_s=600)
        receiver.start()
        receiver.join(timeout=0.3)
        assert receiver.is_alive()
        queue.move_study(session, study, StudyEvent.SETTLE, at=at(31))
    receiver.join()

    assert receipts == ["new"]
    with database.read() as session:
        assert (the_study(session).state, the_study(session).revision) == (StudyState.RECEIVING, 2)
