"""What a stranger may cost: long PDUs, slow PDUs, silence, noise. And that the guard really stands in the way."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from dicom_node import scp
from dicom_node.dimse import StoreDimse
from dicom_node.guard import GuardedSocket
from dicom_node.settings import Destination, Receive, ReceivePath
from dicom_node.simulator import send_datasets
from dicom_node.upper_layer import StreamDul
from storage.database import Database
from storage.spool import Spool
from tests import studies
from tests.network import (
    CALLED,
    CALLING,
    RELEASE_RQ,
    Running,
    Wire,
    listening,
    p_data,
    store_command,
    wait_until,
)
from tests.studies import Plan

pytestmark = pytest.mark.feature("R4")

DEADLINE_S = 2.0
ABORT, PROVIDER = 7, 2


@pytest.fixture
def running(sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> Iterator[Running]:
    receive = Receive(acse_timeout_s=DEADLINE_S, network_timeout_s=20)
    with listening(sqlite_database, spool, path=receive_path, receive=receive) as node:
        yield node


def send_one(node: Running, number: int = 1) -> None:
    destination = Destination(name="node", ae_title=CALLED, host="127.0.0.1", port=node.port, timeout_s=10)
    image = studies.series(Plan(slices=1, rows=16, columns=16, series=str(number)))
    send_datasets(destination, CALLING, image)


def threads_of(node: Running) -> list[object]:
    return list(node.listener._server.active_associations)


@pytest.mark.slow
def test_guard_and_our_dimse_provider_serve_every_association(running: Running, receive_path: ReceivePath) -> None:
    """Fails loudly where pynetdicom renames what the guard replaces: then connections would be served unguarded."""
    dimse = StoreDimse if receive_path == "stream" else DIMSEServiceProvider
    with Wire(running.port) as wire:
        assert wire.associate()[0] == 2
        (association,) = threads_of(running)

        assert type(association.dul.socket) is GuardedSocket  # type: ignore[attr-defined]
        assert type(association.dimse) is dimse  # type: ignore[attr-defined]
        assert association.dul.socket.has_association  # type: ignore[attr-defined]


def test_stream_path_takes_its_own_way_and_the_library_rests(running: Running, receive_path: ReceivePath) -> None:
    """Fails loudly where pynetdicom moves what `upper_layer` overrides: then objects would go the slow way, or nothing would."""
    for name in ("_is_transport_event", "_read_pdu_data", "kill_dul", "run_reactor", "idle_timer_expired"):
        assert callable(getattr(DULServiceProvider, name))
    image = studies.series(Plan(slices=1, rows=16, columns=16))[0]
    with Wire(running.port) as wire:
        assert wire.associate()[0] == 2
        wire.store(store_command(str(image.SOPInstanceUID)), studies.encoded(image))
        assert wire.status() == 0
        (association,) = threads_of(running)

        is_stream = receive_path == "stream"
        assert (type(association.dul) is StreamDul) == is_stream  # type: ignore[attr-defined]
        assert association._reactor_checkpoint.is_set() != is_stream  # type: ignore[attr-defined]
        wire.send(RELEASE_RQ)
        assert wire.receive()[0] == 6


@pytest.mark.parametrize("name", ["recv", "send", "ready", "close", "socket"])
def test_what_the_guard_overrides_is_still_called_so(name: str) -> None:
    made = AssociationSocket.__init__.__code__.co_names
    assert hasattr(AssociationSocket, name) or name in made


def test_announced_pdu_length_is_taken_and_a_longer_one_is_not(running: Running) -> None:
    longest = running.settings.receive.maximum_pdu_bytes
    with Wire(running.port) as wire:
        wire.associate()
        wire.send(p_data(1, 3, store_command("1.2.3")))
        wire.send(p_data(1, 0, bytes(longest - 6)))
        wire.send(p_data(1, 0, bytes(longest + scp.PDU_MARGIN_BYTES)))

        assert wire.receive() == (ABORT, bytes((0, 0, PROVIDER, 6)))


@pytest.mark.slow
def test_oldest_silent_connection_makes_room_for_a_newcomer(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath
) -> None:
    receive = Receive(acse_timeout_s=30)
    with listening(sqlite_database, spool, path=receive_path, receive=receive) as node, ExitStack() as stack:
        oldest = stack.enter_context(Wire(node.port))
        wait_until(lambda: len(threads_of(node)) == 1)
        for _ in range(scp.PENDING_CONNECTIONS):
            stack.enter_context(Wire(node.port))

        assert oldest.receive()[0] == 0
        send_one(node)


@pytest.mark.parametrize(
    "command",
    [b"", b"\0" * 7, struct.pack("<HHI", 8, 0, 0), struct.pack("<HHI", 0, 2, 0xFFFFFFFF), bytes(70_000)],
    ids=["empty", "scrap", "other group", "length beyond end", "too long"],
)
def test_unreadable_command_set_ends_the_association_only(running: Running, command: bytes) -> None:
    with Wire(running.port) as wire:
        wire.associate()
        wire.send(p_data(1, 3, command))

        assert wire.receive()[0] in (0, ABORT)
    send_one(running)


def test_data_fragment_out_of_place_ends_the_association_only(running: Running) -> None:
    with Wire(running.port) as wire:
        wire.associate()
        wire.send(p_data(1, 3, store_command("1.2.3")) + p_data(1, 3, store_command("1.2.4")))

        assert wire.receive()[0] == ABORT
    send_one(running)


@pytest.mark.slow
def test_memory_stays_bounded_over_many_large_objects(running: Running, receive_path: ReceivePath) -> None:
    data = bytes(20 * 1024 * 1024)
    bound = 48 if receive_path == "stream" else 48 + 2 * 20  # pynetdicom holds the object, and its handler a copy
    process = psutil.Process(os.getpid())
    with Wire(running.port, timeout_s=30) as wire:
        wire.associate()
        wire.store(store_command("1.2.3"), data, chunk=120_000)
        wire.status()
        before = process.memory_info().rss
        for _ in range(3):
            wire.store(store_command("1.2.3"), data, chunk=120_000)
            wire.status()

    assert process.memory_info().rss - before < bound * 1024 * 1024
    assert not running.instances()
