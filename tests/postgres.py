"""A real PostgreSQL server for the tests: started as an unprivileged user, on loopback, in a temporary folder, stopped by pid."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.waiting import free_port

_TEMPLATE = "fovea_template"


def _newest_binaries() -> Path | None:
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda path: int(path.parent.name), default=None)


def peer_missing(reason: str) -> None:
    """Fail where peers are required (FOVEA_REQUIRE_PEERS=1), else skip with the reason."""
    if os.environ.get("FOVEA_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _unprivileged() -> tuple[int, int] | None:
    """User and group to run as: initdb refuses root. None: as we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return None


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server; every database is a fresh copy of a template in which the schema is upgraded already."""

    port: int
    process_id: int

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://fovea@127.0.0.1:{self.port}/{name}"

    def make_database(self, template: str | None = None) -> str:
        """A new database; its name. Empty, or a copy of `template`."""
        name = f"t{uuid.uuid4().hex[:16]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'} STRATEGY FILE_COPY")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database with whatever is still connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run one statement outside a transaction."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="fovea", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]  # our own text, not a literal


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server for the length of the block. Fails or skips where PostgreSQL is not installed."""
    binaries = _newest_binaries()
    if binaries is None:
        peer_missing("PostgreSQL's server is not installed (looked for /usr/lib/postgresql/*/bin/initdb)")
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="fovea-pg-"))
    ids = _unprivileged()
    if ids is not None:
        os.chown(folder, *ids)
    try:
        with _server(binaries, folder, ids) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _server(binaries: Path, folder: Path, ids: tuple[int, int] | None) -> Iterator[PostgresServer]:
    who = {} if ids is None else {"user": ids[0], "group": ids[1], "extra_groups": []}
    cluster = folder / "data"
    initdb = [binaries / "initdb", "-D", cluster, "-U", "fovea", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **who)  # type: ignore[call-overload]
    port = free_port()
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
    where = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(folder),
        "max_connections": "100",
        "autovacuum": "off",
    }
    settings = [part for key, value in {**quick, **where}.items() for part in ("-c", f"{key}={value}")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", cluster, *settings],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,  # an interrupted test run stops it here, in order
            **who,  # type: ignore[arg-type]
        )
    try:
        _wait_until_ready(binaries, port, process, folder / "server.log")
        yield PostgresServer(port, process.pid)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)


def _wait_until_ready(binaries: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        ready = subprocess.run([binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "1"])
        if ready.returncode == 0:
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError(f"PostgreSQL ended with {process.returncode}: {log.read_text()[-2000:]}")
    raise RuntimeError(f"PostgreSQL did not get ready: {log.read_text()[-2000:]}")
