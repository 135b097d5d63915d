"""Fixtures for every test: a database, on SQLite and on a real PostgreSQL, and a spool."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, settings

from dicom_node.settings import ReceivePath
from storage.database import Database
from storage.spool import Spool
from tests.postgres import PostgresServer, running_server

# The same examples everywhere, and no deadline: how long one takes is the machine's affair.
settings.register_profile(
    "fovea", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fovea")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the whole session."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def upgraded_postgres(postgres_server: PostgresServer) -> str:
    """The name of a database that has the newest schema and no rows."""
    name = postgres_server.make_database()
    database = Database(postgres_server.url(name))
    database.upgrade()
    database.dispose()
    return name


@pytest.fixture(scope="session")
def upgraded_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that has the newest schema and no rows."""
    path = tmp_path_factory.mktemp("template") / "fovea.sqlite"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.dispose()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, upgraded_sqlite: Path) -> str:
    """The URL of a fresh SQLite database with the newest schema."""
    path = tmp_path / "database" / "fovea.sqlite"
    path.parent.mkdir(mode=0o700)
    shutil.copy(upgraded_sqlite, path)
    path.chmod(0o600)
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, upgraded_postgres: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database with the newest schema."""
    name = postgres_server.make_database(upgraded_postgres)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh database with the newest schema, once on SQLite and once on PostgreSQL."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database, once on SQLite and once on PostgreSQL."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    """A fresh SQLite database, for tests that are not about the database."""
    opened = Database(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool without a reserve."""
    return Spool(tmp_path / "spool", 0)


@pytest.fixture(params=get_args(ReceivePath))
def receive_path(request: pytest.FixtureRequest) -> ReceivePath:
    """Both ways of taking C-STORE: what a listener does is held on each."""
    found: ReceivePath = request.param
    return found
