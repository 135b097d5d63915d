"""The database: engine, transactions, and the upgrade to the newest schema.

SQLite for one machine (WAL, `synchronous=FULL`: a commit is on disk when it returns), PostgreSQL by another URL. Both give the
same two kinds of transaction: `read`, which refuses every write and sees one consistent moment, and `write`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Dialect, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

BUSY_TIMEOUT_S = 10
"""How long one statement waits for another transaction's lock before it fails as busy."""
BUSY_RETRY_S = 0.0005
"""How often the listeners' writers ask for the lock: a commit takes them a millisecond or two."""
UPGRADE_TIMEOUT_S = 300
"""How long a process waits for another one that is upgrading the schema."""
_UPGRADE_LOCK = 0x466F7665
"""Key of PostgreSQL's advisory lock around an upgrade: "Fove" in ASCII."""
_BEGIN = "fovea_begin"


class DatabaseBusy(Exception):
    """Raised when the database is locked, full or unreachable: nothing was written, try again later."""


class CommitUnknown(DatabaseBusy):
    """Raised when the connection failed during COMMIT: the rows may or may not be there; keep the files, `reconcile` decides."""


class Transaction:
    """One write transaction: the driver's cursor for prepared statements, a connection and a session for all else."""

    def __init__(self, connection: Connection) -> None:
        """The connection's transaction has begun as far as the driver knows."""
        self._connection = connection
        self._session: Session | None = None
        self.dialect = connection.dialect
        self.cursor: Any = connection.connection.cursor()
        """The driver's own; it raises the driver's own errors."""

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's connection, told of the transaction when first asked for: the telling costs as much as a row."""
        if not self._connection.in_transaction():
            self._connection.begin()
        return self._connection

    @property
    def session(self) -> Session:
        """A session on the same connection, made when first asked for."""
        if self._session is None:
            self._session = Session(self.connection, expire_on_commit=False, join_transaction_mode="rollback_only")
        return self._session

    @property
    def has_session(self) -> bool:
        """True where somebody asked for the session."""
        return self._session is not None

    def close(self) -> None:
        """Let cursor and session go; the transaction itself is ended by `Database.transaction`."""
        self.cursor.close()
        if self._session is not None:
            self._session.close()


class Database:
    """One database, shared by threads; each process makes its own."""

    def __init__(self, url: str) -> None:
        """`url` as SQLAlchemy spells it. SQLite's file and folder are made here, readable by their owner only."""
        self._url = make_url(url)
        self._kept: deque[Connection] = deque()
        """Connections of `transaction` that are free; taking one costs nothing."""
        if self._url.get_backend_name() == "sqlite":
            _make_sqlite_file(_sqlite_path(self._url))
            self._engine = _sqlite_engine(self._url)
            self._read = self._engine.execution_options(**{_BEGIN: "BEGIN"})
            self._write = self._engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
            self._keeps_connections = True
        else:
            self._engine = _postgresql_engine(self._url)
            self._read = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._write = self._engine.execution_options(isolation_level="READ COMMITTED")
            self._keeps_connections = False  # a server may be started again meanwhile: the pool asks each time

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one moment of the database and can change nothing. Raises DatabaseBusy."""
        with _busy_as_our_own(), Session(self._read, autoflush=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits at the end and rolls back on any exception. Raises DatabaseBusy, CommitUnknown.

        On SQLite there is one writer at a time: keep it short, and do no other waiting inside.
        """
        with _busy_as_our_own(), Session(self._write, expire_on_commit=False) as session:
            yield session
            session.flush()
            try:
                session.commit()
            except (OperationalError, InterfaceError) as error:
                raise CommitUnknown(_first_line(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """As `write`, for the caller that runs prepared statements and seldom needs a session."""
        with _busy_as_our_own(*_driver_errors(self._engine.dialect)):
            connection = self._writing()
            try:
                transaction = Transaction(connection)
                try:
                    yield transaction
                    if transaction.has_session:
                        transaction.session.flush()
                finally:
                    transaction.close()
                _commit(connection)
            except BaseException:
                self._undo(connection)
                raise
            if self._keeps_connections:
                self._kept.append(connection)
            else:
                connection.close()

    def _writing(self) -> Connection:
        """A connection in a write transaction that only the driver knows of as yet."""
        if not self._keeps_connections:
            return self._write.connect()
        try:
            connection = self._kept.pop()
        except IndexError:
            connection = self._write.connect()
            _ask_often(connection)
        try:
            _begin_immediate(connection)
        except BaseException:
            self._undo(connection)
            raise
        return connection

    def _undo(self, connection: Connection) -> None:
        """Roll back and forget the connection."""
        connection.invalidate()
        connection.close()

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; several processes may do so at once. Raises DatabaseBusy.

        The whole upgrade is one transaction: it happens entirely or not at all.
        """
        with _busy_as_our_own():
            if self._url.get_backend_name() == "sqlite":
                with _file_lock(_sqlite_path(self._url)), self._write.connect() as connection:
                    _upgrade_sqlite(connection)
            else:
                with self._write.begin() as connection:
                    connection.execute(text(f"SET LOCAL lock_timeout = '{UPGRADE_TIMEOUT_S}s'"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
                    command.upgrade(_alembic(connection), "head")

    def revision(self) -> str | None:
        """The schema revision the database has; None before the first upgrade. Raises DatabaseBusy."""
        with _busy_as_our_own(), self._read.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def head_revision(self) -> str | None:
        """The schema revision this program needs."""
        return ScriptDirectory.from_config(_alembic(None)).get_current_head()

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        while self._kept:
            self._undo(self._kept.pop())
        self._engine.dispose()


@contextmanager
def _busy_as_our_own(*also: type[Exception]) -> Iterator[None]:
    busy: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeoutError, *also)
    try:
        yield
    except busy as error:
        raise DatabaseBusy(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """The driver's first line: later ones may quote a row."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=8,
        max_overflow=56,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=8,
        max_overflow=56,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"connect_timeout": BUSY_TIMEOUT_S, "options": f"-c lock_timeout={BUSY_TIMEOUT_S}s -c timezone=UTC"},
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by us, see _begin_sqlite
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_S * 1000}",
        "synchronous = FULL",
        "foreign_keys = ON",
        "recursive_triggers = ON",  # so that REPLACE, too, meets the triggers that refuse a deletion
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """SQLite's own BEGIN: IMMEDIATE takes the write lock at once, so that a transaction never fails half-way for it."""
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction:  # begun by `_begin_immediate`
        return
    begin: str = connection.get_execution_options().get(_BEGIN, "BEGIN")
    connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if begin == 'BEGIN' else 'OFF'}")
    connection.exec_driver_sql(begin)


def _ask_often(connection: Connection) -> None:
    """Make a connection one that only writes, and that tells of a lock at once."""
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA query_only = OFF")
    driver.execute("PRAGMA busy_timeout = 0")


def _begin_immediate(connection: Connection) -> None:
    """SQLite's BEGIN IMMEDIATE, asked for often: SQLite's own waiting soon sleeps for longer than a commit takes."""
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(BUSY_RETRY_S)
        else:
            return


def _driver_errors(dialect: Dialect) -> tuple[type[Exception], type[Exception]]:
    """What the driver raises where the database is locked, full or unreachable (PEP 249)."""
    driver: Any = dialect.loaded_dbapi
    return driver.OperationalError, driver.InterfaceError


def _commit(connection: Connection) -> None:
    """Commit by whichever began it. Raises CommitUnknown."""
    try:
        if connection.in_transaction():
            connection.commit()
        else:
            connection.connection.commit()
    except (OperationalError, InterfaceError, *_driver_errors(connection.dialect)) as error:
        raise CommitUnknown(_first_line(error)) from error


def _sqlite_path(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise ValueError("SQLite needs a file: sqlite:///folder/fovea.sqlite")
    return Path(url.database)


def _make_sqlite_file(path: Path) -> None:
    """An empty database in WAL mode, mode 0600; several processes may come here at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _file_lock(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})
        with _busy_as_our_own():
            connection = engine.raw_connection()
            try:
                cursor = connection.cursor()
                if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                    cursor.execute("PRAGMA journal_mode = WAL")
                cursor.close()
            finally:
                connection.close()
        engine.dispose()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file beside the SQLite file; the system lets go of it when the process dies."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _upgrade_sqlite(connection: Connection) -> None:
    """Foreign keys rest meanwhile: SQLite changes a column by rebuilding its table."""
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            command.upgrade(_alembic(connection), "head")
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise RuntimeError(f"the upgrade left a row of table {broken[0]} without the row it refers to")
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _alembic(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
