"""`make soak`: a sender at work beside fifty half-open PDUs, fifty silent connections and deflate bombs."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.settings import ReceivePath
from tests.hostile.listener import GROWTH_MB, Listening, listening, send_over, sent, small
from tests.hostile.test_connections import HALF_A_REQUEST
from tests.hostile.test_objects import bomb_of
from tests.network import Wire

SECONDS = float(os.environ.get("FOVEA_SOAK_S", "600"))
SERVED_WITHIN_S = 2.0


@pytest.mark.parametrize("receive_path", get_args(ReceivePath))
def test_sender_is_served_for_as_long_as_it_works(tmp_path: Path, receive_path: ReceivePath) -> None:
    with listening(tmp_path, receive_path) as node, ThreadPoolExecutor(3) as pool:
        idle_mb = node.resident_mb()
        stop = threading.Event()
        nuisances = [pool.submit(hang_on, node, stop), pool.submit(say_nothing, node, stop), pool.submit(send_bombs, node, stop)]
        waits = []
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not any(one.done() for one in nuisances):
            one = small(f"soak {len(waits)}")[0]
            began = time.monotonic()
            assert sent(node, one) == 0x0000
            waits.append(time.monotonic() - began)
        stop.set()
        for one in nuisances:
            one.result()
        growth_mb = node.highest_mb() - idle_mb

    waits.sort()
    print(
        f"\n{receive_path}: {len(waits)} objects in {SECONDS:.0f} s beside 50 half-open PDUs, 50 silent connections and bombs: "
        f"median {waits[len(waits) // 2] * 1000:.0f} ms, 99 % {waits[int(len(waits) * 0.99)] * 1000:.0f} ms, "
        f"longest {waits[-1] * 1000:.0f} ms; {growth_mb:.0f} MB above idle"
    )
    assert waits[-1] < SERVED_WITHIN_S
    assert growth_mb < GROWTH_MB


def hang_on(node: Listening, stop: threading.Event) -> None:
    """Fifty half-open PDUs at all times: those that are closed are opened again."""
    _keep(node, stop, HALF_A_REQUEST)


def say_nothing(node: Listening, stop: threading.Event) -> None:
    """Fifty silent connections at all times."""
    _keep(node, stop, b"")


def _keep(node: Listening, stop: threading.Event, words: bytes) -> None:
    while not stop.is_set():
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(node.port, timeout_s=60)) for _ in range(50)]
            for wire in wires:
                wire.send(words)
            for wire in wires:
                wire.receive()


def send_bombs(node: Listening, stop: threading.Event) -> None:
    """Deflate bombs one after the other."""
    one = small("soak bomb")[0]
    bomb = bomb_of(one, 256 * 1024 * 1024)
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    while not stop.is_set():
        with Wire(node.port, timeout_s=120) as wire:
            assert send_over(wire, one, data=bomb) == 0xA700
        stop.wait(5)
