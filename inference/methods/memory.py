"""How much memory a piece of work took: the peak of the process' resident set, as the kernel keeps it (proc(5), clear_refs)."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import math
from pathlib import Path
from types import TracebackType
from typing import Self

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


class PeakMemory:
    """Entered around some work, says by how many MB (2^20 bytes) the resident set rose above what it was before, at most.

    Memory that was freed but not returned is returned first, so that it cannot be used again unseen. NaN off Linux.
    """

    def __init__(self) -> None:
        self.mb = math.nan
        self._before = math.nan

    def __enter__(self) -> Self:
        gc.collect()
        _return_freed()
        try:
            _CLEAR.write_text(_RESET_PEAK)
            self._before = _megabytes("VmRSS")
        except OSError:
            self._before = math.nan
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if math.isfinite(self._before):
            self.mb = max(0.0, _megabytes("VmHWM") - self._before)


def _megabytes(field: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return math.nan


def _return_freed() -> None:
    """Hands freed memory back to the system, where the C library is one that can be asked (glibc)."""
    name = ctypes.util.find_library("c")
    trim = None if name is None else getattr(ctypes.CDLL(name), "malloc_trim", None)
    if trim is not None:
        trim(0)
