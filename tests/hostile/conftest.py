"""One listener for each receive path, for all rows that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from dicom_node.engine import Engine
from dicom_node.settings import ReceivePath
from storage.database import Database
from storage.spool import Spool
from tests.hostile.house import LIMITS, House, living
from tests.hostile.listener import GROWTH_MB, Listening, listening


@pytest.fixture(params=get_args(ReceivePath), scope="session")
def receive_path(request: pytest.FixtureRequest) -> ReceivePath:
    """Each of the two ways in which objects are received; each listener lives as long as its rows."""
    path: ReceivePath = request.param
    return path


@pytest.fixture(scope="session")
def node(receive_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A `fovea listen` of its own process; after the last row it still answers, and never grew beyond what it may."""
    with listening(tmp_path_factory.mktemp(f"listener-{receive_path}"), receive_path) as started:
        idle_mb = started.resident_mb()
        yield started
        started.node.await_echo(30)
        assert started.highest_mb() - idle_mb < GROWTH_MB


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Honest children, the next one always warm."""
    made = Engine(LIMITS)
    yield made
    made.close()


@pytest.fixture(scope="session")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """One for all listeners in this process: its folders take longer to make than a test, and rows are its own."""
    return Spool(tmp_path_factory.mktemp("shared") / "spool", 0)


@pytest.fixture
def house(tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine) -> Iterator[House]:
    """A node in this process and its PACS."""
    with living(tmp_path, sqlite_database, spool, engine) as made:
        yield made
