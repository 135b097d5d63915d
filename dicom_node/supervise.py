"""`fovea serve`: the three roles as processes of their own, started again when one dies; several listeners in the same way.

A fault in one role never stops another: reception goes on while a GPU driver crashes. Each role dies with its
supervisor (PR_SET_PDEATHSIG, Linux), so that killing the supervisor never leaves half a node behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1
SUPERVISOR_VARIABLE = "FOVEA_SUPERVISOR_PID"
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
STEADY_AFTER_S = 60.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Role:
    """One process to keep up: its name in the log, and the arguments of the command line."""

    name: str
    arguments: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    """Sockets that the process inherits."""


@dataclass(slots=True)
class _Running:
    role: Role
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_s: float = FIRST_WAIT_S
    restart_at: float = field(default=0.0)


def serve(roles: Sequence[Role], config: Path | None) -> None:
    """Run the roles until SIGTERM or SIGINT; a role that ends is started again after a growing wait."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    running = [_Running(role) for role in roles]
    while not stopping.wait(0.1):
        for role in running:
            _keep_up(role, config)
    for role in running:
        if role.process is not None and role.process.poll() is None:
            role.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for role in running:
        _await_end(role, deadline)


def die_with_supervisor() -> None:
    """Make this role end when its supervisor does; nothing where it was started by hand."""
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, None)
    if supervisor is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(supervisor):  # it died before the line above
        os._exit(1)


def _keep_up(role: _Running, config: Path | None) -> None:
    now = time.monotonic()
    if role.process is not None:
        status = role.process.poll()
        if status is None:
            return
        if now - role.started > STEADY_AFTER_S:
            role.wait_s = FIRST_WAIT_S
        log.error("role ended, starting it again", role=role.role.name, status=status, wait_s=role.wait_s)
        role.process = None
        role.restart_at = now + role.wait_s
        role.wait_s = min(LONGEST_WAIT_S, role.wait_s * 2)
    if now >= role.restart_at:
        command = [sys.executable, "-m", "dicom_node.cli", *role.role.arguments]
        if config is not None:
            command += ["--config", str(config)]
        environment = {**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}
        role.process = subprocess.Popen(command, env=environment, pass_fds=role.role.descriptors)
        role.started = now


def _await_end(role: _Running, deadline: float) -> None:
    if role.process is None:
        return
    try:
        role.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        log.error("role did not stop in time, killed", role=role.role.name)
        role.process.kill()
        role.process.wait()
