"""What the listener tells of strangers on the clear port: at first rows, then one alert, and never more than configured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dicom_node.settings import Peer, Receive
from dicom_node.settings_doors import Alerts
from storage.database import Database
from storage.events import EventKind
from storage.spool import Spool
from tests.network import MR, Running, Wire, listening, wait_until

pytestmark = pytest.mark.feature("R4")
HELLO = bytes.fromhex("16030102000100") + bytes(505)
NOISE = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HELLO, bytes(range(200, 256)) * 4]


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """One for all: its folders take longer to remove than a test to run."""
    return Spool(tmp_path_factory.mktemp("node") / "spool", 0)


@pytest.fixture
def running(sqlite_database: Database, spool: Spool) -> Iterator[Running]:
    with listening(sqlite_database, spool, alerts=Alerts(per_minute=5)) as node:
        yield node


def speak(node: Running, words: bytes) -> None:
    """Say something that is no DICOM, and wait until the connection is closed."""
    with Wire(node.port) as wire:
        wire.send(words)
        while wire.receive() != (0, b""):
            continue


def counted(node: Running, what: str) -> float:
    value = node.listener._metrics.registry.get_sample_value("fovea_listener_strangers_total", {"what": what})
    return value or 0.0


@pytest.mark.slow
@pytest.mark.parametrize("words", NOISE, ids=["http", "tls", "random"])
def test_noise_on_the_clear_port_is_an_alert_and_no_row_each(running: Running, words: bytes) -> None:
    """F04."""
    for _ in range(4):
        speak(running, words)
    wait_until(lambda: counted(running, "no DICOM") == 4)
    assert running.events(EventKind.SECURITY_ALERT) == []

    for _ in range(20):
        speak(running, words)

    wait_until(lambda: counted(running, "no DICOM") == 24)
    wait_until(lambda: len(running.events(EventKind.SECURITY_ALERT)) == 1)
    alert = running.events(EventKind.SECURITY_ALERT)[0]
    assert (alert.address, alert.outcome, alert.detail["reason"]) == ("127.0.0.1", "serious failure", "no DICOM")
    assert running.events(EventKind.ASSOCIATION_REFUSED) == []


@pytest.mark.slow
@pytest.mark.feature("R2")
def test_a_flood_of_unknown_titles_cannot_fill_the_disk(running: Running) -> None:
    """F07: each is refused on the wire, but only the first few and the alert are rows."""
    for number in range(40):
        with Wire(running.port) as wire:
            assert wire.associate(calling=f"STRANGER{number}") == (3, bytes([0, 1, 1, 3]))

    wait_until(lambda: counted(running, "association refused") == 40)
    wait_until(lambda: len(running.events(EventKind.SECURITY_ALERT)) == 1)
    wait_until(lambda: len(running.events(EventKind.ASSOCIATION_REFUSED)) == 4)
    running.listener._watch.tell()  # the minute is not over: nothing more to tell
    assert len(running.events(EventKind.SECURITY_ALERT)) == 1


@pytest.mark.slow
@pytest.mark.feature("R2")
def test_another_node_under_a_known_title_is_told_as_not_authenticated(sqlite_database: Database, spool: Spool) -> None:
    """F09."""

    peer = Peer(ae_title="MODALITY", addresses=("10.1.2.3",))
    with listening(sqlite_database, spool, peers=[peer]) as running:
        with Wire(running.port) as wire:
            assert wire.associate() == (3, bytes([0, 1, 1, 3]))

        wait_until(lambda: len(running.events(EventKind.NODE_NOT_AUTHENTICATED)) == 1)
        told = running.events(EventKind.NODE_NOT_AUTHENTICATED)[0]
        assert (told.peer, told.address) == ("MODALITY", "127.0.0.1")
        assert told.detail["reason"] == "AE title is known, but not from this address"


def test_a_silent_connection_is_counted_and_forgotten(running: Running) -> None:
    """F01."""
    with Wire(running.port):
        pass

    wait_until(lambda: counted(running, "nothing said") == 1)
    assert running.listener._pending._pending == {}
    assert [event.kind for event in running.events(EventKind.SECURITY_ALERT)] == []


@pytest.mark.slow
def test_a_probe_is_no_news(sqlite_database: Database, spool: Spool) -> None:
    with listening(sqlite_database, spool, alerts=Alerts(per_minute=2, probes=("127.0.0.0/8",))) as running:
        for _ in range(5):
            with Wire(running.port):
                pass
        with Wire(running.port) as wire:
            assert wire.associate(((MR, ("1.2.840.10008.1.2",)),))[0] == 2  # after them, so that their ends were seen
        wait_until(lambda: running.listener._pending._pending == {})
        assert counted(running, "nothing said") == 0


@pytest.mark.slow
def test_peers_turned_away_for_a_while_raise_no_alert(sqlite_database: Database, spool: Spool) -> None:
    """F10."""

    receive = Receive(maximum_associations=1)
    with listening(sqlite_database, spool, receive=receive, alerts=Alerts(per_minute=3)) as running:
        with Wire(running.port) as first:
            assert first.associate()[0] == 2
            for _ in range(10):
                with Wire(running.port) as wire:
                    assert wire.associate() == (3, bytes([0, 2, 3, 2]))

        wait_until(lambda: len(running.events(EventKind.ASSOCIATION_REFUSED)) == 3)
        assert running.events(EventKind.SECURITY_ALERT) == []
