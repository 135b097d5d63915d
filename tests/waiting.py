"""Waiting for a condition, and ports that nobody listens on: what every test against a running program needs."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.1
_PORTS = itertools.count(12_000 + 3_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 18_000 + os.getpid() % 250 * 10)
"""Below the range that systems take ports of connections from: nobody gets one by chance between looking and listening."""


def wait_until(what: str, condition: Callable[[], T | None], timeout_s: float = 60.0, poll_s: float = POLL_S) -> T:
    """The first true value of the condition. Raises AssertionError with `what` after the time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        pause.wait(poll_s)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")
