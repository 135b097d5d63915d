"""Transactions, durability settings and what happens when the database is busy or gone, on both databases."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from storage import events
from storage.database import Database, DatabaseBusy
from storage.events import EventKind
from storage.models import Clock, Event, Study
from tests.postgres import PostgresServer, running_server
from tests.storage.rows import NOON, at, received, take

pytestmark = pytest.mark.feature("C6")
ROOT = Path(__file__).parents[2]


def add_event(opened: Database, seconds: float = 0.0) -> None:
    with opened.write() as session:
        events.append(session, EventKind.NODE_STARTED, at=at(seconds), detail={"role": "listen"})


def count(opened: Database) -> int:
    with opened.read() as session:
        return session.scalar(select(func.count(Event.id))) or 0


def test_write_commits_and_read_sees_it_in_utc(database: Database) -> None:
    add_event(database, 5)

    with database.read() as session:
        event = session.scalars(select(Event)).one()
        assert (event.kind, event.at, event.detail) == ("node started", at(5), {"role": "listen"})
        assert event.at.utcoffset() == NOON.utcoffset()


def test_write_rolls_back_on_any_exception(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as session:  # noqa: PT012  # the block is one transaction
        events.append(session, EventKind.NODE_STARTED, at=at())
        session.flush()
        raise KeyError("a bug")

    assert count(database) == 0


def test_read_refuses_to_write(database: Database) -> None:
    with pytest.raises((DBAPIError, DatabaseBusy)), database.read() as session:  # noqa: PT012  # the block is one transaction
        session.execute(insert(Clock).values(name="settle", holder="a", monotonic_s=0.0, beat_at=at()))
        session.commit()

    with database.write() as session:
        assert session.scalars(select(Clock)).all() == []


def test_read_sees_one_moment(database: Database) -> None:
    add_event(database)
    with database.read() as session:
        before = session.scalar(select(func.count(Event.id)))
        add_event(database)
        after = session.scalar(select(func.count(Event.id)))

    assert (before, after, count(database)) == (1, 1, 2)


def test_sqlite_commits_are_on_disk_and_the_file_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "new" / "fovea.sqlite"
    opened = Database(f"sqlite:///{path}")
    opened.upgrade()
    with opened.write() as session:
        pragmas = {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")}
        on = {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in ("foreign_keys", "recursive_triggers")}
        files = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    opened.dispose()

    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    assert on == {"foreign_keys": 1, "recursive_triggers": 1}
    assert set(files.values()) == {0o600}
    assert "fovea.sqlite-wal" in files
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_sqlite_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        Database("sqlite://")


@pytest.mark.slow
def test_a_locked_database_is_busy_and_recovers_by_itself(database: Database) -> None:
    """F27: the second writer waits its ten seconds, then is told to come again."""
    take(database, received())
    with database.write() as holder:
        holder.execute(update(Study).values(reason="first"))

        with pytest.raises(DatabaseBusy), database.write() as session:
            session.execute(update(Study).values(reason="second"))

    with database.write() as session:
        session.execute(update(Study).values(reason="third"))
    with database.read() as session:
        assert session.scalars(select(Study.reason)).one() == "third"


@pytest.mark.peer
def test_a_database_that_went_away_is_busy() -> None:
    """F27, with a server that is stopped under an open pool."""
    with running_server() as server:
        opened = Database(server.url(server.make_database()))
        opened.upgrade()
        add_event(opened)

    with pytest.raises(DatabaseBusy):
        add_event(opened)
    with pytest.raises(DatabaseBusy):
        opened.revision()
    opened.dispose()


def test_connections_cut_by_the_server_are_replaced(postgres_server: PostgresServer, postgres_url: str) -> None:
    opened = Database(postgres_url)
    add_event(opened)
    name = postgres_url.rpartition("/")[2]

    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    add_event(opened)

    assert count(opened) == 2
    opened.dispose()


def test_no_patient_in_a_database_error(database: Database) -> None:
    take(database, received(patient_name="Secret^Name"))

    with pytest.raises(IntegrityError) as caught, database.write() as session:  # noqa: PT012  # the block is one transaction
        values = {"study_instance_uid": "1.2.3", "state": "RECEIVING", "patient_name": "Secret^Name"}
        session.execute(insert(Study).values(**values, first_received_at=at(), last_received_at=at()))

    assert "Secret" not in str(caught.value)


def test_what_was_committed_survives_a_killed_process(database: Database, database_url: str) -> None:
    """R6: the process is gone the moment after `write` returned."""
    script = """
import os, sys
from tests.storage.rows import received, take
from storage.database import Database
take(Database(sys.argv[1]), received())
os.kill(os.getpid(), 9)
"""
    ran = subprocess.run([sys.executable, "-c", script, database_url], cwd=ROOT)

    assert ran.returncode == -signal.SIGKILL
    with database.read() as session:
        assert session.scalars(select(Study.study_instance_uid)).all() == ["1.2.3"]


def test_eight_threads_write_without_losing_one(database: Database) -> None:
    together = threading.Barrier(8)

    def write() -> None:
        together.wait()
        for _ in range(20):
            add_event(database)

    run_together(*[write] * 8)

    assert count(database) == 160


def run_together(*targets: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_backup_of_a_live_sqlite_database_is_whole(sqlite_database: Database, tmp_path: Path) -> None:
    """O6: `VACUUM INTO` while another session is open gives a file that opens and holds every committed row."""
    add_event(sqlite_database)
    copy = tmp_path / "backup.sqlite"
    with sqlite_database._engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute("PRAGMA query_only = OFF")
        driver.execute("VACUUM INTO ?", (str(copy),))

    restored = Database(f"sqlite:///{copy}")
    assert (count(restored), restored.revision()) == (1, restored.head_revision())
    restored.dispose()


def test_backup_and_restore_of_postgresql(postgres_server: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """O6: `pg_dump` and `psql` give back rows, chain and the triggers that guard them."""
    opened = Database(postgres_url)
    add_event(opened)
    opened.dispose()
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    name, fresh = postgres_url.rpartition("/")[2], postgres_server.make_database()
    where = ["-h", "127.0.0.1", "-p", str(postgres_server.port), "-U", "fovea"]
    dump = subprocess.run([binaries / "pg_dump", *where, name], check=True, capture_output=True)
    restore = [shutil.which("psql") or binaries / "psql", *where, "-q", "-v", "ON_ERROR_STOP=1", fresh]
    subprocess.run(restore, input=dump.stdout, check=True, capture_output=True)

    restored = Database(postgres_server.url(fresh))
    assert (count(restored), restored.revision()) == (1, restored.head_revision())
    with pytest.raises(DBAPIError), restored.write() as session:
        session.execute(update(Event).values(kind="x"))
    restored.dispose()
    postgres_server.drop_database(fresh)


def test_transaction_waits_for_another_writer_and_uses_its_connection_again(sqlite_database: Database) -> None:
    done = threading.Event()

    def touch() -> None:
        with sqlite_database.transaction() as transaction:
            events.append(transaction.session, EventKind.NODE_STARTED, at=at())
        done.set()

    thread = threading.Thread(target=touch)
    with sqlite_database.write() as session:
        events.append(session, EventKind.NODE_STARTED, at=at())
        session.flush()
        thread.start()
        assert not done.wait(0.05)

    assert done.wait(20)
    thread.join()
    touch()
    assert count(sqlite_database) == 3


def test_transaction_goes_on_with_another_connection_after_a_failure(database: Database) -> None:
    with pytest.raises(KeyError), database.transaction() as transaction:  # noqa: PT012  # the block is one transaction
        transaction.cursor.execute("INSERT INTO clock (name, holder, monotonic_s, beat_at) VALUES ('a', 'b', 0, '2026-03-01')")
        raise KeyError("a bug")

    with database.transaction() as transaction:
        events.append(transaction.session, EventKind.NODE_STARTED, at=at())

    assert count(database) == 1
    with database.read() as session:
        assert not session.scalars(select(Clock)).all()
