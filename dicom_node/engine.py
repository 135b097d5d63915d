"""Where a run happens: a child process with a memory and a time limit that this process can kill.

One child waits warm, its libraries imported, so that a run does not pay for the import. Each child serves one run and
ends; whatever a poisonous input does to it, it does to that child alone.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from dicom_node.frames import LENGTH, decode_outcome, write_frame
from dicom_node.outcome import RunOutcome, RunRequest, request_to_json

START_TIMEOUT_S = 120.0
KEEP_ALIVE_EVERY_S = 2.0
DIED = "died"
"""The process that had the input ended without an answer, as opposed to one that could still tell what went wrong."""
FAILURES = (DIED, "crashed", "timed out", "out of memory", "error")


class RunFailed(Exception):
    """Raised when a run gave no outcome; `kind` is a word of `FAILURES`, or `lost` where the job is another worker's now."""

    def __init__(self, kind: str, detail: str, peak_memory_mb: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.peak_memory_mb = peak_memory_mb

    @property
    def worth_retrying(self) -> bool:
        """True unless the program itself stumbled over the input, which it would do again."""
        return self.kind != "error"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may cost."""

    memory_mb: float
    timeout_s: float
    threads: int


class Engine:
    """Runs requests one at a time, each in a child process of its own.

    `program` is what a child executes, given memory limit and threads as arguments; it speaks `dicom_node.frames`.
    """

    def __init__(self, limits: Limits, program: Sequence[str] = (sys.executable, "-m", "dicom_node.child")) -> None:
        self._limits = limits
        self._program = program
        self._warm: subprocess.Popen[bytes] | None = None

    def warm_up(self) -> None:
        """Start the next child, so that it imports its libraries while nobody waits."""
        if self._warm is not None and self._warm.poll() is not None:
            self.close()
        if self._warm is None:
            self._warm = self._start()

    def close(self) -> None:
        """End the waiting child."""
        if self._warm is not None:
            _end(self._warm)
            self._warm = None

    def run(self, request: RunRequest, keep_alive: Callable[[], bool] = lambda: True) -> tuple[RunOutcome, float]:
        """The outcome and the child's peak memory in MB. Raises RunFailed when there is none.

        `keep_alive` is called every few seconds; when it returns False the job is no longer ours and the child is killed.
        """
        self.warm_up()
        child = self._warm
        self._warm = None
        if child is None:
            raise RunFailed("crashed", "no child process could be started")
        try:
            return self._converse(child, request, keep_alive)
        finally:
            _end(child)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*self._program, str(self._limits.memory_mb), str(self._limits.threads)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def _converse(
        self, child: subprocess.Popen[bytes], request: RunRequest, keep_alive: Callable[[], bool]
    ) -> tuple[RunOutcome, float]:
        peak = _Peak(child.pid)
        try:
            started = _frames(child, time.monotonic() + START_TIMEOUT_S, keep_alive, peak)
            if next(started, b"") != b"ready":
                raise RunFailed("crashed", f"no run was begun: {_end_of(child)}")
            _send(child, request_to_json(request))
            frames = _frames(child, time.monotonic() + self._limits.timeout_s, keep_alive, peak)
            kind = next(frames)
            head = json.loads(next(frames))
            if kind == b"error":
                raise RunFailed(head["kind"], head["detail"], peak.memory_mb)
            blobs = [next(frames) for _ in range(len(head["objects"]) + len(head["pictures"]))]
        except StopIteration:
            raise RunFailed(DIED, _end_of(child), peak.memory_mb) from None
        return decode_outcome(head, blobs), peak.memory_mb


class _Peak:
    """The child's highest resident memory seen so far."""

    def __init__(self, pid: int) -> None:
        self._status = f"/proc/{pid}/status"
        self.memory_mb = 0.0

    def look(self) -> None:
        try:
            with open(self._status, encoding="ascii") as status:  # noqa: PTH123
                for line in status:
                    if line.startswith("VmHWM:"):
                        self.memory_mb = max(self.memory_mb, int(line.split()[1]) / 1024)
        except OSError:
            return


def _send(child: subprocess.Popen[bytes], data: bytes) -> None:
    stream = _pipe(child.stdin)
    try:
        write_frame(stream, data)
        stream.flush()
    except BrokenPipeError:
        raise StopIteration from None


def _frames(child: subprocess.Popen[bytes], deadline: float, keep_alive: Callable[[], bool], peak: _Peak) -> Iterator[bytes]:
    """The child's frames as they come; ends with its output. Raises RunFailed at the deadline or when the job is lost."""
    stream = _pipe(child.stdout)
    descriptor = stream.fileno()
    buffer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            while len(buffer) >= LENGTH.size and len(buffer) >= LENGTH.size + LENGTH.unpack(buffer[: LENGTH.size])[0]:
                end = LENGTH.size + LENGTH.unpack(buffer[: LENGTH.size])[0]
                frame = bytes(buffer[LENGTH.size : end])
                del buffer[:end]
                yield frame
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise RunFailed("timed out", "the run took longer than its limit", peak.memory_mb)
            if not selector.select(min(remaining, KEEP_ALIVE_EVERY_S)):
                peak.look()
                if not keep_alive():
                    raise RunFailed("lost", "the job was taken from this worker", peak.memory_mb)
                continue
            peak.look()
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                return
            buffer += chunk


def _end_of(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "the child closed its output without an answer"
    if code == -9:
        return "the child was killed (signal 9), most often for want of memory"
    return f"the child ended with status {code} and no answer"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and reap it."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                continue


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RunFailed("crashed", "the child has no pipe")
    return stream
