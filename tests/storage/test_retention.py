"""What goes, what stays, and what a start-up finds after a crash, on both databases."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from sqlalchemy import select

from storage import queue, reception, retention, seal
from storage.database import Database
from storage.models import Base, Delivery, Instance, Job, Rejected, Result, Study
from storage.reception import Receipt
from storage.spool import Area, Spool
from storage.states import DeliveryState, InvalidMove, JobState, StudyEvent, StudyState
from tests.storage.rows import add_delivery, add_job, at, digest, kinds, no_pixels, path, received, take, the_study

pytestmark = pytest.mark.feature("O2")
DAY = 86400.0
KEEP_S = 14 * DAY


def settled(database: Database, uid: str = "1.2.3", seconds: float = 100.0) -> None:
    take(database, received(uid))
    with database.write() as session:
        queue.move_study(session, the_study(session, uid), StudyEvent.SETTLE, at=at(seconds))


def answered(database: Database, uid: str = "1.2.3", *, job: JobState = JobState.COMPLETED, delivery: DeliveryState) -> None:
    settled(database, uid)
    with database.write() as session:
        row = add_job(session, the_study(session, uid))
        row.state, row.ended_at = job, (at(200) if job in (JobState.COMPLETED, JobState.FAILED) else None)
        sent = add_delivery(session, row)
        ended = delivery not in (DeliveryState.PENDING, DeliveryState.SENDING)
        sent.state, sent.ended_at = delivery, (at(300) if ended else None)


def expired(database: Database, seconds: float) -> list[str]:
    with database.write() as session:
        return [one.study_instance_uid for one in retention.expired(session, keep_s=KEEP_S, at=at(seconds))]


@pytest.mark.parametrize(
    "delivery", [DeliveryState.STORED, DeliveryState.COMMITTED, DeliveryState.FAILED, DeliveryState.CANCELED]
)
def test_an_answered_study_expires_after_its_last_delivery(database: Database, delivery: DeliveryState) -> None:
    answered(database, delivery=delivery)

    assert expired(database, 299 + KEEP_S) == []
    assert expired(database, 301 + KEEP_S) == ["1.2.3"]


@pytest.mark.parametrize("delivery", [DeliveryState.PENDING, DeliveryState.SENDING])
def test_a_study_with_an_open_delivery_never_expires(database: Database, delivery: DeliveryState) -> None:
    answered(database, delivery=delivery)

    assert expired(database, 1000 * DAY) == []


@pytest.mark.parametrize("job", [JobState.SCHEDULED, JobState.IN_PROGRESS])
def test_a_study_with_an_open_job_never_expires(database: Database, job: JobState) -> None:
    answered(database, job=job, delivery=DeliveryState.STORED)

    assert expired(database, 1000 * DAY) == []


def test_only_settled_studies_expire(database: Database) -> None:
    take(database, received("1.2.1"))
    settled(database, "1.2.2")
    take(database, received("1.2.2", 2, patient_id="P9"))
    settled(database, "1.2.3")

    assert expired(database, 1000 * DAY) == ["1.2.3"]


def test_purge_tells_every_file_once_and_keeps_every_row(database: Database) -> None:
    answered(database, delivery=DeliveryState.STORED)
    pictures = [{"name": "a.png", "caption": "", "path": path("a", area="pictures")}]
    with database.write() as session:
        session.scalars(select(Job)).one().summary = {"study_score": 0.5, "pictures": pictures}
        results = [one for one in session.scalars(select(Result.path)) if one]

    with database.write() as session:
        (study,) = retention.expired(session, keep_s=KEEP_S, at=at(100 * DAY))
        paths = retention.purge(session, study, at=at(100 * DAY))

    assert sorted(paths) == sorted([received().path, *results, path("a", area="pictures")])
    with database.read() as session:
        assert the_study(session).state == StudyState.PURGED
        assert [one.path for one in session.scalars(select(Instance))] == [None]
        assert {one.path for one in session.scalars(select(Result))} == {None}
        assert session.scalars(select(Job)).one().summary == {"study_score": 0.5, "pictures": []}
        assert session.scalars(select(Delivery.state)).one() == DeliveryState.STORED
    assert kinds(database)[-1] == "study purged"
    assert expired(database, 1000 * DAY) == []


def test_a_receiving_study_cannot_be_purged(database: Database) -> None:
    take(database, received())

    with pytest.raises(InvalidMove), database.write() as session:
        retention.purge(session, the_study(session), at=at())

    with database.read() as session:
        assert session.scalars(select(Instance.path)).one() == received().path


def test_passive_object_in_a_purged_study_expires_too(database: Database) -> None:
    settled(database)
    with database.write() as session:
        retention.purge(session, the_study(session), at=at(20 * DAY))
    sr = received(number=9, passive=True, pixel_digest=None)
    take(database, sr, seconds=21 * DAY)

    assert expired(database, 34 * DAY) == []
    assert expired(database, 36 * DAY) == ["1.2.3"]
    with database.write() as session:
        assert retention.purge(session, the_study(session), at=at(36 * DAY)) == [sr.path]
    assert expired(database, 100 * DAY) == []


def test_purged_study_comes_back_with_a_late_image_and_the_chain_holds(database: Database) -> None:
    settled(database)
    with database.write() as session:
        retention.purge(session, the_study(session), at=at(20 * DAY))

    assert take(database, received(number=2), seconds=21 * DAY) is Receipt.NEW

    with database.write() as session:
        assert (the_study(session).state, the_study(session).revision) == (StudyState.RECEIVING, 2)
        seal.seal(session, at=at(21 * DAY))
    with database.read() as session:
        assert seal.verify(session) == []
    assert kinds(database) == ["study settled", "study purged", "study reopened"]


# Start-up after a crash (F26)


def keep(spool: Spool, key: str, area: Area = Area.INSTANCES) -> str:
    return spool.write(area, key, b"bytes of " + key.encode())


def grow_old(spool: Spool, relative: str, seconds: float = 120.0) -> None:
    file = spool.path(relative)
    then = file.stat().st_mtime - seconds
    os.utime(file, (then, then))


def test_file_without_a_row_is_removed_and_the_others_stay(database: Database, spool: Spool) -> None:
    named = {area: keep(spool, f"named {area}", area) for area in Area}
    orphans = [keep(spool, f"orphan {area}", area) for area in Area]
    take(database, received(path=named[Area.INSTANCES]))
    other = received(digest=digest("o"), pixel_digest=digest("op"), path=named[Area.REJECTED])
    take(database, other)
    with database.write() as session:
        job = add_job(session, the_study(session))
        job.summary = {"pictures": [{"name": "a", "caption": "", "path": named[Area.PICTURES]}]}
        add_delivery(session, job, objects=1)
        session.scalars(select(Result)).one().path = named[Area.RESULTS]

    with database.read() as session:
        found = reception.reconcile(session, spool, grace_s=0)

    assert found == reception.Reconciled(removed=len(orphans), lost=())
    assert {one for area in Area for one in spool.files(area)} == set(named.values())


def test_fresh_file_may_be_another_process_s_and_stays(database: Database, spool: Spool) -> None:
    fresh, old = keep(spool, "fresh"), keep(spool, "old")
    grow_old(spool, old)

    with database.read() as session:
        assert reception.reconcile(session, spool).removed == 1

    assert list(spool.files(Area.INSTANCES)) == [fresh]


def test_row_whose_file_is_gone_is_told_and_not_changed(database: Database, spool: Spool) -> None:
    kept = keep(spool, "1")
    take(database, received(number=1, path=kept))
    take(database, received(number=2))

    with database.read() as session:
        found = reception.reconcile(session, spool)

    assert found.lost == (received(number=2).path,)
    with database.read() as session:
        assert session.scalars(select(Instance.path).order_by(Instance.id)).all() == [kept, received(number=2).path]


def test_sender_sends_again_after_a_crash_between_file_and_row(database: Database, spool: Spool) -> None:
    """F26: the first file's row was never committed; in the end there is one row and one file."""
    lost_receipt = keep(spool, "1.2.3.1.1")
    grow_old(spool, lost_receipt)
    second = keep(spool, "1.2.3.1.1")

    receipt = take(database, received(path=second))
    with database.read() as session:
        reception.reconcile(session, spool)

    assert receipt is Receipt.NEW
    assert list(spool.files(Area.INSTANCES)) == [second]


def test_purge_of_real_files_leaves_an_empty_spool(database: Database, spool: Spool) -> None:
    take(database, received(path=keep(spool, "1")))
    with database.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.SETTLE, at=at())
    with database.write() as session:
        paths = retention.purge(session, the_study(session), at=at(20 * DAY))
    for one in paths:
        spool.delete(one)

    assert [file for area in Area for file in spool.files(area)] == []
    with database.read() as session:
        assert reception.reconcile(session, spool, grace_s=0) == reception.Reconciled(0, ())


def test_no_table_keeps_a_path_after_purge() -> None:
    """A new table with a path column must be purged, too: these are the ones that are."""
    assert {table.name for table in Base.metadata.sorted_tables if "path" in table.columns} == {
        Instance.__tablename__,
        Rejected.__tablename__,
        Result.__tablename__,
    }
    assert "path" not in Study.__table__.columns
    assert Path(received().path).parts[0] in set(Area)


def test_newest_rows_of_an_open_association_without_a_whole_file_are_marked_lost(database: Database, spool: Spool) -> None:
    """What a loss of power may leave of an object in flight: its row, and its file missing, short or with other bytes."""
    data = {number: b"meta" + bytes([number]) * 100 for number in range(4)}
    contents = {0: data[0], 1: data[1][:-1], 2: data[1], 3: None}
    with database.write() as session:
        number = reception.open_association(session, calling="PACS", called="FOVEA", address="::1", listener="one", at=at())
        for one, content in contents.items():
            kept = spool.write(Area.INSTANCES, str(one), content) if content is not None else path(f"missing {one}")
            sent = received(number=one, path=kept, size=100, digest=hashlib.sha256(data[one][4:]).hexdigest())
            reception.record(session, number, sent, peer="PACS", at=at(), pixel_digest=no_pixels)

    with database.write() as session:
        assert reception.mark_unfinished(session, spool, "other") == 0
        assert reception.mark_unfinished(session, spool, "one") == 3

    with database.read() as session:
        assert [row.path is not None for row in session.scalars(select(Instance).order_by(Instance.id))] == [True] + [False] * 3
    again = received(number=3, path=path("again"), size=100, digest=hashlib.sha256(data[3][4:]).hexdigest())
    assert take(database, again) is Receipt.NEW
