"""F01 to F06: connections that bring silence, noise or broken PDUs. None costs memory, a thread, or another sender's time."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterable
from contextlib import ExitStack

import pytest

from dicom_node.settings import Receive, ReceivePath
from dicom_node.settings_doors import Alerts
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.spool import Spool
from tests.hostile.listener import ARTIM_S, Listening, sent, small
from tests.network import CALLED, CALLING, EXPLICIT, MR, Wire, associate_rq, p_data, store_command
from tests.network import listening as listening_here
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R4", "S1")

ABORT, PROVIDER = 7, 2
UNRECOGNIZED, UNEXPECTED, INVALID = 1, 2, 6
SERVED_WITHIN_S = 2.0
HALF_A_REQUEST = b"\x01\0\0\0\x01\0" + b"\0" * 20


def abort(reason: int) -> tuple[int, bytes]:
    """An A-ABORT of the service provider (PS3.8 9.3.8)."""
    return ABORT, bytes((0, 0, PROVIDER, reason))


def served_in(node: Listening, study: str) -> float:
    """Seconds until a legitimate sender has its Success."""
    began = time.monotonic()
    assert sent(node, small(study)[0]) == 0x0000
    return time.monotonic() - began


def test_f01_silence_is_closed_after_artim_and_counted(node: Listening) -> None:
    mark, threads, counted = node.mark(), node.process.num_threads(), silent(node)
    with ExitStack() as stack:
        began = time.monotonic()
        wires = [stack.enter_context(Wire(node.port)) for _ in range(10)]

        assert {wire.receive()[0] for wire in wires} <= {0, ABORT}
        took = time.monotonic() - began

    assert ARTIM_S * 0.9 < took < ARTIM_S * 3
    wait_until("its threads are gone", lambda: node.process.num_threads() <= threads, 10)
    wait_until("they are counted", lambda: silent(node) >= counted + 10, 15)
    alarms = {EventKind.ASSOCIATION_REFUSED, EventKind.SECURITY_ALERT, EventKind.NODE_NOT_AUTHENTICATED}
    told = {event.kind for event in node.events(mark)} & alarms
    assert told == set(), "a probe that says nothing is no event"


@pytest.mark.parametrize(("probes", "alerts"), [((), 1), (("127.0.0.0/8",), 0)], ids=["stranger", "configured probe"])
def test_f01_many_silent_connections_are_an_alert_unless_they_are_a_probe_s(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath, probes: tuple[str, ...], alerts: int
) -> None:
    receive = Receive(acse_timeout_s=0.5, network_timeout_s=20)
    with listening_here(
        sqlite_database, spool, path=receive_path, receive=receive, alerts=Alerts(per_minute=3, probes=probes)
    ) as watched:
        for _ in range(5):
            with Wire(watched.port):
                continue
        with Wire(watched.port) as last:
            last.receive()
    # the listener has stopped: every row that waited is written

    assert len(watched.events(EventKind.SECURITY_ALERT)) in ((0,) if alerts == 0 else (1, 2))


def silent(node: Listening) -> float:
    return node.metric("fovea_listener_connections_ended_total", reason="silent")


def test_f02_half_a_pdu_is_closed_at_its_deadline_and_starves_nobody(node: Listening) -> None:
    threads = node.process.num_threads()
    with ExitStack() as stack:
        began = time.monotonic()
        wires = [stack.enter_context(Wire(node.port)) for _ in range(50)]
        for wire in wires:
            wire.send(HALF_A_REQUEST)

        took = served_in(node, f"F02 {node.receive_path}")
        assert {wire.receive()[0] for wire in wires} <= {0, ABORT}
        closed = time.monotonic() - began

    assert took < SERVED_WITHIN_S
    assert closed < ARTIM_S * 3
    pool = 8  # threads that sync files stay, once an image came
    wait_until("their threads are gone", lambda: node.process.num_threads() <= threads + pool, 45)


def test_f02_a_pdu_that_trickles_has_no_more_time_than_one_that_stops(node: Listening) -> None:
    request = associate_rq([(MR, (EXPLICIT,))], calling=CALLING, called=CALLED)
    with Wire(node.port, timeout_s=0.2) as wire:
        began = time.monotonic()

        assert closed_while_sending(wire, request)

    assert time.monotonic() - began < ARTIM_S * 3


def closed_while_sending(wire: Wire, data: Iterable[int]) -> bool:
    """Send byte by byte, five a second, until the other side closes; False where it let everything pass."""
    for byte in data:
        try:
            wire.send(bytes((byte,)))
            if wire.socket.recv(1) in (b"", bytes((ABORT,))):
                return True
        except TimeoutError:
            continue  # still open: one more byte
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize("state", ["before an association", "in an association"])
def test_f03_pdu_above_the_cap_is_aborted_unread(node: Listening, state: str) -> None:
    refused = []
    before = node.resident_mb()
    for _ in range(10):
        with Wire(node.port) as wire:
            if state == "in an association":
                assert wire.associate()[0] == 2
            wire.send(struct.pack(">BxI", 1 if state == "before an association" else 4, 600 * 1024 * 1024) + bytes(1000))
            refused.append(wire.receive())

    assert refused == [abort(INVALID)] * 10
    assert node.resident_mb() - before < 1.0


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
        b"\0" * 64,
        b"\xff" * 64,
        b"\x08\0\0\0\0\x04abcd",
        random.Random(4).randbytes(4000),
    ],
    ids=["http", "tls hello", "zeros", "ones", "type 8", "random"],
)
def test_f04_noise_is_aborted_as_unrecognized(node: Listening, noise: bytes) -> None:
    with Wire(node.port) as wire:
        wire.send(noise)

        assert wire.receive() == abort(UNRECOGNIZED)

    assert served_in(node, f"F04 {node.receive_path}") < SERVED_WITHIN_S


def test_f04_noise_again_and_again_is_a_security_alert(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath
) -> None:
    with listening_here(sqlite_database, spool, path=receive_path, alerts=Alerts(per_minute=3)) as watched:
        for _ in range(6):
            with Wire(watched.port) as wire:
                wire.send(b"GET / HTTP/1.1\r\n\r\n")
                wire.receive()
        wait_until("the alert is written", lambda: watched.events(EventKind.SECURITY_ALERT), 10)
        (alert,) = watched.events(EventKind.SECURITY_ALERT)

    assert (alert.address, alert.outcome) == ("127.0.0.1", EventOutcome.SERIOUS_FAILURE)


def test_f05_pdu_out_of_sequence_is_aborted_as_unexpected(node: Listening) -> None:
    with Wire(node.port) as wire:
        assert wire.associate()[0] == 2
        second = wire.associate()
    with Wire(node.port) as wire:
        wire.send(p_data(1, 3, store_command("1.2.3")))
        early = wire.receive()
    with Wire(node.port) as wire:
        wire.send(struct.pack(">BxIxxxx", 5, 4))
        release = wire.receive()

    assert second == early == release == abort(UNEXPECTED)
    assert node.log.count("Traceback") == 0


def items(kind: int, length: int, count: int) -> bytes:
    return (struct.pack(">BxH", kind, length) + bytes((1, 0, 0, 0))[:length]) * count


@pytest.mark.parametrize(
    "content",
    [
        items(0x20, 4, 5000),
        items(0x50, 0, 5000),
        items(0x20, 0, 5000),
        struct.pack(">BxH", 0x50, 40_000) + items(0x51, 0, 10_000),
        struct.pack(">BxH", 0x50, 60_000) + (struct.pack(">BxHH", 0x54, 4, 0) + b"\1\1") * 7500,
        random.Random(3).randbytes(20_000),
    ],
    ids=["contexts", "user items", "empty contexts", "empty sub-items", "role selections", "random"],
)
def test_f06_swollen_association_request_is_answered_in_bounded_time(node: Listening, content: bytes) -> None:
    request = associate_rq([(MR, (EXPLICIT,))], calling=CALLING, called=CALLED)[6:] + content
    with Wire(node.port) as wire:
        began = time.monotonic()
        wire.send(struct.pack(">BxI", 1, len(request)) + request)

        kind, answer = wire.receive()
        took = time.monotonic() - began

    assert took < 5.0
    assert (kind, answer) == abort(INVALID) or (kind == 3 and answer[1:] == bytes((1, 2, 1)))
    assert served_in(node, f"F06 {node.receive_path}") < SERVED_WITHIN_S
