"""Several listeners on one port: each object is served once, whoever accepts it, and a killed listener is replaced."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select

from dicom_node import scu
from dicom_node.listeners import Place, bind
from dicom_node.scp import Listener
from dicom_node.settings import Destination, Node, Peer, Receive, Settings, Storage
from dicom_node.simulator import send_datasets
from storage.database import Database
from storage.models import Association, Instance
from storage.spool import Spool
from tests import studies
from tests.network import CALLED, CALLING, Wire, wait_until
from tests.studies import Plan
from tests.waiting import free_port

pytestmark = pytest.mark.feature("R12")

SENDERS = 6


@contextmanager
def two_listeners(database_url: str, folder: Path, receive: Receive) -> Iterator[tuple[list[Listener], int]]:
    """Two listeners of one port in this process, each with its own database handle and copy of the socket."""
    databases = [Database(database_url), Database(database_url)]
    with bind("127.0.0.1", 0) as bound:
        port = int(bound.getsockname()[1])
        settings = Settings(
            node=Node(ae_title=CALLED, port=port),
            peers=(Peer(ae_title=CALLING, addresses=("127.0.0.1",)),),
            storage=Storage(spool=folder / "spool", database_url=database_url),
            receive=receive,
        )
        listeners = []
        for number, database in enumerate(databases):
            place = Place(number, 2, socket.dup(bound.fileno()))
            listeners.append(Listener(settings, database, Spool(folder / "spool", 0), place=place))
        for listener in listeners:
            assert listener.start() == port
        try:
            yield listeners, port
        finally:
            for listener in listeners:
                listener.stop()
            for database in databases:
                database.dispose()


def destination(port: int) -> Destination:
    return Destination(name="node", ae_title=CALLED, host="127.0.0.1", port=port, timeout_s=20)


@pytest.mark.slow
def test_two_listeners_serve_one_study_without_losing_any_of_it(database_url: str, tmp_path: Path) -> None:
    series = [studies.series(Plan(slices=5, rows=16, columns=16, series=str(number))) for number in range(SENDERS)]

    with two_listeners(database_url, tmp_path, Receive(listeners=2)) as (listeners, port):
        with ThreadPoolExecutor(SENDERS) as pool:
            answers = list(pool.map(lambda images: send_datasets(destination(port), CALLING, images), series))
        wait_until(lambda: all(listener.associations == 0 for listener in listeners))

    assert {sent.status for one in answers for sent in one} == {"0x0000"}
    database = Database(database_url)
    with database.read() as session:
        assert session.scalar(select(func.count(Instance.id))) == 5 * SENDERS
        outcomes = list(session.scalars(select(Association.outcome)))
    database.dispose()
    assert outcomes == ["released"] * SENDERS


@pytest.mark.slow
def test_each_listener_has_its_share_of_the_limits(sqlite_url: str, tmp_path: Path) -> None:
    receive = Receive(listeners=2, maximum_associations=2, acse_timeout_s=10)

    with two_listeners(sqlite_url, tmp_path, receive) as (listeners, port):
        wires = [Wire(port) for _ in range(3)]
        kinds = [wire.associate()[0] for wire in wires]
        open_now = [listener.associations for listener in listeners]
        for wire in wires:
            wire.socket.close()

    assert kinds.count(2) == sum(open_now)
    assert max(open_now) == 1
    assert 3 in kinds


@pytest.mark.parametrize(("limit", "share"), [(1, 1), (2, 1), (3, 2), (32, 16)])
def test_a_share_is_rounded_up(limit: int, share: int) -> None:
    assert Place(1, 2).share(limit) == share


@pytest.mark.slow
def test_killed_listener_is_started_again_while_the_other_serves(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "fovea.toml"
    config.write_text(
        f'node = {{ ae_title = "{CALLED}", port = {port} }}\n'
        f'peers = [{{ ae_title = "{CALLING}", addresses = ["127.0.0.1"] }}]\n'
        f'storage = {{ spool = "{tmp_path / "spool"}", reserve_mb = 1 }}\n'
        "receive = { listeners = 2 }\n"
    )
    command = [sys.executable, "-m", "dicom_node.cli", "listen", "--config", str(config)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            parent = psutil.Process(process.pid)
            wait_until(lambda: len(parent.children()) == 2, 150)
            wait_until(lambda: scu.echo(destination(port), CALLING) is None, 150)
            first = parent.children()[0].pid

            parent.children()[0].kill()

            wait_until(lambda: first not in {one.pid for one in parent.children()} and len(parent.children()) == 2, 150)
            images = studies.series(Plan(slices=3, rows=16, columns=16))
            assert {sent.status for sent in send_datasets(destination(port), CALLING, images)} == {"0x0000"}
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0, (tmp_path / "log").read_text()
