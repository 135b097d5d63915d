"""Conversations with a listener that a fuzzer has spoiled: the whole way from the socket to the answer."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from tests import studies
from tests.fuzz.guided import mutated
from tests.hostile.listener import small
from tests.network import CALLED, CALLING, EXPLICIT, MR, RELEASE_RQ, VERIFICATION, Wire, associate_rq, p_data, store_command


def conversations() -> list[bytes]:
    """What honest senders say, whole, as one stream of bytes."""
    one = small("fuzzed")[0]
    request = associate_rq([(MR, (EXPLICIT,)), (VERIFICATION, (EXPLICIT,))], calling=CALLING, called=CALLED)
    command, data = store_command(str(one.SOPInstanceUID)), studies.encoded(one)
    halves = p_data(1, 1, command[:40]) + p_data(1, 3, command[40:]) + p_data(1, 0, data[:500]) + p_data(1, 2, data[500:])
    return [
        request + p_data(1, 3, command) + p_data(1, 2, data) + RELEASE_RQ,
        request + halves + RELEASE_RQ,
        request + RELEASE_RQ,
        associate_rq([(MR, (EXPLICIT,))], calling="STRANGER", called=CALLED) + RELEASE_RQ,
    ]


def spoiled(seed: int) -> Iterator[bytes]:
    """Mutated conversations without end."""
    chance = random.Random(seed)
    honest = conversations()
    while True:
        yield mutated(chance.choice(honest), chance, honest)


def say(port: int, stream: bytes, timeout_s: float) -> float:
    """Say it, hang up for writing, and read to the end; the seconds until the other side had closed. Raises TimeoutError."""
    began = time.monotonic()
    with Wire(port, timeout_s) as wire, suppress(ConnectionError):
        wire.send(stream)
        wire.socket.shutdown(socket.SHUT_WR)
        while wire.socket.recv(65536):
            continue
    return time.monotonic() - began


def say_all(port: int, streams: Sequence[bytes], timeout_s: float) -> float:
    """Say each over a connection of its own; the longest any took."""
    return max(say(port, stream, timeout_s) for stream in streams)
