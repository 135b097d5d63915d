"""The hash chain: every way to change history that we could think of is found, on both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

from storage import events, seal
from storage.anchor import (
    Anchor,
    AnchorError,
    Head,
    anchor_line,
    append_anchor,
    is_authentic,
    make_anchor,
    read_anchors,
    write_anchor,
)
from storage.database import Database
from storage.events import EventKind
from storage.models import Event, Seal
from storage.seal import Fault
from tests.storage.rows import at, received, take, the_study

pytestmark = pytest.mark.feature("A2")
KEY = b"0123456789abcdef0123456789abcdef"


def add_events(database: Database, count: int) -> None:
    with database.write() as session:
        for number in range(count):
            detail = {"number": number, "seconds": 0.1 + number, "name": "ü\u0000", "nested": {"b": [1, None], "a": True}}
            events.append(session, EventKind.STUDY_VIEWED, at=at(number + 0.000001), user="ada", job_id=number, detail=detail)


def seal_all(database: Database, seconds: float = 0.0) -> Head:
    with database.write() as session:
        while seal.seal(session, at=at(seconds), limit=4):
            pass
        head = seal.head(session)
    assert head is not None
    return head


def faults(database: Database, *anchors: Anchor, key: bytes | None = KEY) -> list[str]:
    with database.read() as session:
        return [fault.text for fault in seal.verify(session, anchors, key)]


def without_guards(database: Database, change: Callable[[Session], object]) -> None:
    """What somebody does who owns the database: take the triggers away, change rows, put them back."""
    with database.write() as session:
        if session.get_bind().dialect.name == "sqlite":
            guards = session.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
            for name, _ in guards:
                session.execute(text(f"DROP TRIGGER {name}"))
            change(session)
            session.flush()
            for _, statement in guards:
                session.connection().exec_driver_sql(statement)
        else:
            for table in ("event", "seal"):
                session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            change(session)
            session.flush()
            for table in ("event", "seal"):
                session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


@pytest.fixture
def sealed(database: Database) -> Database:
    add_events(database, 10)
    seal_all(database)
    return database


def test_untouched_history_has_no_fault(sealed: Database) -> None:
    head = seal_all(sealed)

    assert head.sequence == 10
    assert faults(sealed, make_anchor(KEY, head, at())) == []


def test_chain_is_what_the_page_says(database: Database) -> None:
    """Computed here again by hand, from the module's own description."""
    import hashlib
    import json

    add_events(database, 2)
    head = seal_all(database)

    digest = "0" * 64
    with database.read() as session:
        for event in session.scalars(select(Event).order_by(Event.id)):
            values = {column.name: getattr(event, column.name) for column in Event.__table__.columns}
            values["at"] = event.at.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
            written = json.dumps(values, sort_keys=True, separators=(",", ":"))
            digest = hashlib.sha256((digest + written).encode()).hexdigest()
    assert head == Head(2, digest)


def test_both_databases_give_the_same_chain(sqlite_url: str, postgres_url: str) -> None:
    heads = []
    for url in (sqlite_url, postgres_url):
        opened = Database(url)
        add_events(opened, 6)
        heads.append(seal_all(opened))
        opened.dispose()

    assert heads[0] == heads[1]


def test_events_are_sealed_once_and_in_order(database: Database) -> None:
    add_events(database, 3)
    with database.write() as session:
        assert [seal.seal(session, at=at()) for _ in range(2)] == [3, 0]
    add_events(database, 2)
    with database.write() as session:
        assert seal.seal(session, at=at(), limit=1) == 1
        assert seal.seal(session, at=at()) == 1

    with database.read() as session:
        assert [tuple(row) for row in session.execute(select(Seal.sequence, Seal.event_id).order_by(Seal.sequence))] == [
            (n, n) for n in range(1, 6)
        ]


CHANGES = {
    "kind": {"kind": "study purged"},
    "time": {"at": at(5.5)},
    "outcome": {"outcome": "serious failure"},
    "patient": {"patient_id": "P2"},
    "user": {"user": None},
    "job": {"job_id": 99},
    "detail": {"detail": {"number": 5}},
}


@pytest.mark.parametrize("values", CHANGES.values(), ids=CHANGES.keys())
def test_changed_event_is_found(sealed: Database, values: dict[str, object]) -> None:
    without_guards(sealed, lambda session: session.execute(update(Event).where(Event.id == 6).values(**values)))

    kind = values.get("kind", "study viewed")
    assert faults(sealed) == [f"event 6 ({kind}) was changed"]


def test_missing_event_is_found(sealed: Database) -> None:
    without_guards(sealed, lambda session: session.execute(delete(Event).where(Event.id == 6)))

    assert faults(sealed) == ["event 6 is missing"]


def test_missing_link_is_found(sealed: Database) -> None:
    without_guards(sealed, lambda session: session.execute(delete(Seal).where(Seal.sequence.in_([4, 7, 8]))))

    assert faults(sealed) == ["sequence 4 is missing", "sequences 7 to 8 are missing"]


def test_event_with_its_link_missing_is_found(sealed: Database) -> None:
    def remove(session: Session) -> None:
        session.execute(delete(Seal).where(Seal.sequence == 6))
        session.execute(delete(Event).where(Event.id == 6))

    without_guards(sealed, remove)

    assert faults(sealed) == ["sequence 6 is missing"]


def test_closed_up_chain_is_found(sealed: Database) -> None:
    """An event cut out and the numbers behind it moved up: the next link does not follow any more."""

    def close_up(session: Session) -> None:
        session.execute(delete(Seal).where(Seal.sequence == 6))
        session.execute(delete(Event).where(Event.id == 6))
        for sequence in range(7, 11):
            session.execute(update(Seal).where(Seal.sequence == sequence).values(sequence=sequence - 1))

    without_guards(sealed, close_up)

    assert faults(sealed) == ["event 7 (study viewed) was changed"]


def test_reordered_events_are_found(sealed: Database) -> None:
    def swap(session: Session) -> None:
        session.execute(update(Seal).where(Seal.sequence == 4).values(event_id=1000))
        session.execute(update(Seal).where(Seal.sequence == 5).values(event_id=4))
        session.execute(update(Seal).where(Seal.sequence == 4).values(event_id=5))

    without_guards(sealed, swap)

    assert faults(sealed) == [
        "sequence 4: reordered, event 4 belongs here",
        "sequence 5: reordered, event 5 belongs here",
    ]


def test_event_put_in_with_an_old_number_is_found(database: Database) -> None:
    add_events(database, 2)
    with database.write() as session:
        session.execute(insert(Event).values(id=seal.WINDOW + 50, at=at(), kind="x", outcome="success", detail={}))
    seal_all(database)

    with database.write() as session:
        session.execute(insert(Event).values(id=7, at=at(), kind="study viewed", outcome="success", detail={}))

    assert faults(database) == ["event 7 (study viewed) was never sealed"]


def test_event_that_was_committed_late_is_sealed_behind_the_others(database: Database) -> None:
    """PostgreSQL gives numbers out before the commit: 11 may be there before 10."""
    add_events(database, 9)
    with database.write() as session:
        session.execute(insert(Event).values(id=11, at=at(), kind="x", outcome="success", detail={}))
    seal_all(database)
    with database.write() as session:
        session.execute(insert(Event).values(id=10, at=at(), kind="y", outcome="success", detail={}))
    seal_all(database)

    assert faults(database) == []
    with database.read() as session:
        assert session.scalars(select(Seal.event_id).order_by(Seal.sequence)).all() == [*range(1, 10), 11, 10]


def test_cut_tail_is_found_with_an_anchor(sealed: Database) -> None:
    anchor = make_anchor(KEY, seal_all(sealed), at())

    def cut(session: Session) -> None:
        session.execute(delete(Seal).where(Seal.sequence > 7))
        session.execute(delete(Event).where(Event.id > 7))

    without_guards(sealed, cut)

    assert faults(sealed) == []
    assert faults(sealed, anchor) == ["anchor 10: chain ends at 7"]


def test_chain_computed_anew_is_found_with_an_anchor(sealed: Database) -> None:
    anchors = [make_anchor(KEY, Head(4, digest_at(sealed, 4)), at()), make_anchor(KEY, seal_all(sealed), at(1))]

    def forge(session: Session) -> None:
        session.execute(update(Event).where(Event.id == 6).values(kind="study purged"))
        session.execute(delete(Seal))
        while seal.seal(session, at=at()):
            pass

    without_guards(sealed, forge)

    assert faults(sealed) == []
    assert faults(sealed, *anchors) == ["anchor 10: the chain has another digest there, it was computed anew"]


def test_chain_that_begins_anew_is_found_with_an_anchor(sealed: Database) -> None:
    anchor = make_anchor(KEY, seal_all(sealed), at())

    without_guards(sealed, lambda session: (session.execute(delete(Seal)), session.execute(delete(Event))))

    assert faults(sealed, anchor) == ["anchor 10: chain ends at 0"]


def test_forged_anchor_is_found(sealed: Database) -> None:
    head = seal_all(sealed)
    forged = make_anchor(b"another key of thirty-two bytes!", head, at())
    moved = replace(make_anchor(KEY, head, at()), at=at(60))

    assert faults(sealed, forged, moved) == ["anchor 10: its MAC does not match"] * 2
    assert faults(sealed, forged, key=None) == []


def digest_at(database: Database, sequence: int) -> str:
    with database.read() as session:
        return session.get_one(Seal, sequence).digest


def test_fault_says_where(sealed: Database) -> None:
    without_guards(sealed, lambda session: session.execute(update(Event).where(Event.id == 6).values(kind="x")))

    with sealed.read() as session:
        assert seal.verify(session) == [Fault("event 6 (x) was changed", sequence=6, event_id=6)]


def test_two_sealers_at_once_make_one_chain(database: Database) -> None:
    add_events(database, 200)
    sealed_counts: list[int] = []
    failures: list[BaseException] = []
    together = threading.Barrier(3)

    def work() -> None:
        try:
            together.wait()
            for _ in range(5):
                with database.write() as session:
                    sealed_counts.append(seal.seal(session, at=at(), limit=20))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert sum(sealed_counts) == 200
    assert faults(database) == []


def test_sealing_goes_on_while_events_are_written(database: Database) -> None:
    """Four writers whose transactions overlap, one sealer: in the end every event is in the chain once."""
    failures: list[BaseException] = []
    finished = threading.Event()

    def write() -> None:
        try:
            for number in range(25):
                with database.write() as session:
                    events.append(session, EventKind.STUDY_VIEWED, at=at(number))
        except BaseException as error:
            failures.append(error)

    def keep_sealing() -> None:
        try:
            while not finished.wait(0.01):
                with database.write() as session:
                    seal.seal(session, at=at())
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    sealer = threading.Thread(target=keep_sealing)
    for thread in (*writers, sealer):
        thread.start()
    for thread in writers:
        thread.join()
    finished.set()
    sealer.join()
    head = seal_all(database)

    assert failures == []
    assert head.sequence == 100
    assert faults(database) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(["kind", "outcome", "user", "peer", "address"]),
    row=st.integers(1, 10),
    value=st.text("abc", min_size=1, max_size=16),  # the shortest column holds 16
)
def test_any_other_text_anywhere_is_found(sealed: Database, column: str, row: int, value: str) -> None:
    with sealed.read() as session:
        before = getattr(session.get_one(Event, row), column)
    without_guards(sealed, lambda session: session.execute(update(Event).where(Event.id == row).values({column: value})))

    found = faults(sealed)

    without_guards(sealed, lambda session: session.execute(update(Event).where(Event.id == row).values({column: before})))
    assert len(found) == (1 if value != before else 0)
    assert faults(sealed) == []


@pytest.mark.slow
def test_a_hundred_thousand_events_are_verified_in_seconds(database: Database) -> None:
    """Bound with room for a shared two-core machine; measured figures are in the report of the benchmark."""
    rows = [
        {"at": at(n), "kind": "study viewed", "outcome": "success", "user": "ada", "detail": {"number": n, "series": [1, 2, 3]}}
        for n in range(100_000)
    ]
    with database.write() as session:
        session.execute(insert(Event), rows)
    while True:
        with database.write() as session:
            if seal.seal(session, at=at()) == 0:
                break

    began = time.process_time()
    found = faults(database)
    took_s = time.process_time() - began

    assert found == []
    assert took_s < 60


def test_study_fills_the_columns_an_audit_asks_for(database: Database) -> None:
    take(database, received())
    with database.write() as session:
        study = the_study(session)
        events.append(session, EventKind.STUDY_VIEWED, at=at(), study=study, user="ada", address="127.0.0.1")
        events.append(session, EventKind.STUDY_QUARANTINED, at=at(), study=study, patient_id="P9")

    with database.read() as session:
        rows = session.execute(select(Event.study_instance_uid, Event.patient_id, Event.accession_number).order_by(Event.id))
        assert [tuple(row) for row in rows] == [("1.2.3", "P1", "A1"), ("1.2.3", "P9", "A1")]


@pytest.mark.parametrize("detail", [{"pixels": b"\x00"}, {"score": float("nan")}, {"at": at()}], ids=["bytes", "nan", "time"])
def test_event_details_are_plain_json(database: Database, detail: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)), database.write() as session:
        events.append(session, EventKind.STUDY_VIEWED, at=at(), detail=detail)

    assert faults(database) == []


# Anchors


def test_anchors_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "anchors"
    written = [write_anchor(path, KEY, Head(n, f"{n:064x}"), at(n + 0.25)) for n in (5, 9)]

    assert read_anchors(path) == written
    assert all(is_authentic(one, KEY) for one in written)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_cut_short_by_a_stop_spoils_neither_the_others_nor_the_next(tmp_path: Path) -> None:
    path = tmp_path / "anchors"
    first = write_anchor(path, KEY, Head(5, "5" * 64), at(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:70])

    second = write_anchor(path, KEY, Head(9, "9" * 64), at(2))

    assert read_anchors(path) == [first, second]


@pytest.mark.parametrize(
    "line",
    [
        "yesterday sequence=1 digest={0} mac={0}",
        "2026-03-01T12:00:00 sequence=1 digest={0} mac={0}",
        "2026-03-01T12:00:00Z sequence=x digest={0} mac={0}",
        "2026-03-01T12:00:00Z sequence=1 digest=12 mac={0}",
    ],
    ids=["no time", "no zone", "no number", "short digest"],
)
def test_a_line_that_is_no_anchor_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "anchors"
    write_anchor(path, KEY, Head(5, "5" * 64), at(1))
    with path.open("a") as file:
        file.write(line.format("a" * 64) + "\n")

    with pytest.raises(AnchorError, match="line 2"):
        read_anchors(path)


def test_syslog_line_holds_the_whole_anchor(tmp_path: Path) -> None:
    anchor = make_anchor(KEY, Head(5, "5" * 64), at(1.5))
    path = tmp_path / "anchors"
    append_anchor(path, anchor)

    line = anchor_line(anchor)

    assert line == f"2026-03-01T12:00:01.500000Z - fovea - anchor - {path.read_text().strip()}"
