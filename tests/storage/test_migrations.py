"""The schema: revisions and models agree, upgrades keep every row, and the audit tables refuse to be changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from storage import circuits, commitments, pledges, queue, reception, repository, seal
from storage.commitments import CommitmentKind
from storage.database import Database, _alembic
from storage.models import Base, Event
from tests.postgres import PostgresServer
from tests.storage.rows import add_delivery, add_job, at, no_pixels, received, take, the_study

pytestmark = pytest.mark.feature("O6")
ROOT = Path(__file__).parents[2]


def fill(database: Database) -> dict[str, int]:
    """At least one row in every table, through the functions that write them; the counts."""
    with database.write() as session:
        number = reception.open_association(session, calling="PACS", called="FOVEA", address="::1", listener="a", at=at())
        reception.record(session, number, received(), peer="PACS", at=at(), pixel_digest=no_pixels)
    take(database, received(digest="0" * 64, pixel_digest="1" * 64))
    with database.write() as session:
        job = add_job(session, the_study(session))
        delivery = add_delivery(session, job)
        commitments.request_proof(
            session, delivery, kind=CommitmentKind.COMMITMENT, transaction_uid=f"2.25.{delivery.id}", timeout_s=60, at=at()
        )
        pledges.request(session, peer="PACS", address="::1", transaction_uid="2.25.9", items={"1.2": "1.3"}, hold_s=1, at=at())
        circuits.note_failure(session, "PACS", reason="no-answer", opens_after=1, every_s=30, at=at())
        queue.claim_job(session, worker="w", lease_s=60, at=at())
        repository.note_taken(session, 1, at=at())
        queue.tick_clock(session, holder="boot", monotonic_s=1.0, at=at(), cap_s=5)
    with database.write() as session:
        seal.seal(session, at=at(1))
    return row_counts(database)


def row_counts(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in Base.metadata.sorted_tables}


def test_models_and_revisions_describe_the_same_schema(database: Database) -> None:
    with database._engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), Base.metadata)

    assert difference == []
    assert database.revision() == database.head_revision()


def test_upgrading_a_filled_database_again_keeps_every_row(database: Database) -> None:
    counts = fill(database)
    assert 0 not in counts.values(), counts

    database.upgrade()

    assert row_counts(database) == counts
    with database.read() as session:
        assert seal.verify(session) == []


def test_every_revision_can_be_reached_from_the_one_before_and_left_again(database: Database) -> None:
    """O6, rollback: down to nothing and up again, revision by revision."""
    script = ScriptDirectory.from_config(_alembic(None))
    revisions = [one.revision for one in script.walk_revisions()]
    fill(database)

    for target in [*revisions[1:], "base"]:
        with database._write.begin() as connection:
            command.downgrade(_alembic(connection), target)
    with database._write.connect() as connection:
        left = set(inspect(connection).get_table_names()) - {"alembic_version"}
    assert left == set()
    for revision in reversed(revisions):
        with database._write.begin() as connection:
            command.upgrade(_alembic(connection), revision)

    fill(database)


def test_a_filled_database_of_the_first_revision_keeps_every_row_when_it_is_upgraded(database: Database) -> None:
    """O6: the tables of later revisions come empty, everything else stays, and the audit chain holds."""
    counts = fill(database)
    with database._write.begin() as connection:
        command.downgrade(_alembic(connection), "0001")
    assert database.revision() == "0001"

    database.upgrade()

    assert row_counts(database) == {**counts, "commitment": 0, "circuit": 0, "pledge": 0, "repository": 0}
    with database.read() as session:
        assert seal.verify(session) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer)])
def test_several_processes_upgrade_an_empty_database_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'new' / 'fovea.sqlite'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url(server.make_database())
    script = "import sys; from storage.database import Database; sys.stdin.read(); Database(sys.argv[1]).upgrade()"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()

    errors = [(process.stderr.read() if process.stderr else b"", process.wait()) for process in processes]
    for process in processes:
        assert process.stderr is not None
        process.stderr.close()

    assert errors == [(b"", 0)] * 4
    opened = Database(url)
    assert opened.revision() == opened.head_revision()
    opened.dispose()


@pytest.mark.parametrize("table", ["event", "seal"])
@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "UPDATE {0} SET {2} = 'x'"])
def test_audit_rows_cannot_be_changed_or_deleted(database: Database, table: str, statement: str) -> None:
    """A2: the database itself refuses, whoever asks through it."""
    fill(database)
    before = row_counts(database)
    id_column, text_column = ("id", "kind") if table == "event" else ("sequence", "digest")

    with pytest.raises(DBAPIError, match="never changed or deleted"), database.write() as session:
        session.execute(text(statement.format(table, id_column, text_column)))

    assert row_counts(database) == before
    with database.read() as session:
        assert seal.verify(session) == []


def test_sqlite_replace_is_refused_too(sqlite_database: Database) -> None:
    fill(sqlite_database)

    with pytest.raises(DBAPIError, match="never changed or deleted"), sqlite_database.write() as session:  # noqa: PT012  # the block is one transaction
        columns = ", ".join(column.name for column in Event.__table__.columns)
        session.execute(text(f"REPLACE INTO event SELECT {columns.replace('user', chr(34) + 'user' + chr(34))} FROM event"))


@pytest.mark.peer
def test_postgresql_truncate_is_refused_too(postgres_url: str) -> None:
    opened = Database(postgres_url)
    fill(opened)

    with pytest.raises(DBAPIError, match="never changed or deleted"), opened.write() as session:
        session.execute(text("TRUNCATE event"))

    assert row_counts(opened)["event"] > 0
    opened.dispose()


def test_a_failed_upgrade_leaves_the_old_schema(tmp_path: Path) -> None:
    """One transaction: a table that stands in the way lets nothing of the upgrade through."""
    url = f"sqlite:///{tmp_path / 'fovea.sqlite'}"
    opened = Database(url)
    with opened._write.begin() as connection:
        connection.execute(text("CREATE TABLE seal (x INTEGER)"))

    with pytest.raises(Exception, match="already exists"):
        opened.upgrade()

    with opened._read.connect() as connection:
        assert inspect(connection).get_table_names() == ["seal"]
    assert opened.revision() is None
    opened.dispose()
