"""The child process in which every run happens, and the frames it speaks with its parent.

The parent starts it, it imports the heavy libraries, sets its memory limit, says `ready`, and waits for one request on
standard input. It answers on the descriptor that was standard output; whatever libraries print goes to standard
error. When the parent dies its end of standard input closes and the child ends at once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import traceback
from typing import BinaryIO

from dicom_node.frames import LENGTH, encode_outcome, write_frame
from dicom_node.outcome import request_from_json


def main() -> None:
    """Serve one request and exit. Exit status 0 means that an answer, good or bad, was written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    memory_mb, threads = float(sys.argv[1]), int(sys.argv[2])
    _limit_threads(threads)
    from dicom_node.run import prepare_process, run  # the heavy imports, on purpose after the descriptors are set

    prepare_process(threads)
    _limit_memory(memory_mb)
    try:
        write_frame(answers, b"ready")
        answers.flush()
    except BrokenPipeError:
        os._exit(1)  # the parent died while the libraries were imported
    requests = sys.stdin.buffer
    size = requests.read(LENGTH.size)
    if len(size) < LENGTH.size:
        return
    request = request_from_json(requests.read(LENGTH.unpack(size)[0]))
    threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
    try:
        outcome = run(request)
    except MemoryError as error:
        _answer_error(answers, "out of memory", str(error))
    except RuntimeError as error:
        _answer_error(answers, _kind_of(error), traceback.format_exc(limit=12))
    except Exception:
        _answer_error(answers, "error", traceback.format_exc(limit=12))
    else:
        head, blobs = encode_outcome(outcome)
        write_frame(answers, b"outcome")
        write_frame(answers, head)
        for blob in blobs:
            write_frame(answers, blob)
        answers.flush()
    os._exit(0)  # no thread of a library may hold up the end


def _kind_of(error: RuntimeError) -> str:
    """What a run's own words mean for another try: a device that failed may work in a fresh process, a bug does not go away."""
    said = str(error)
    if "allocate memory" in said or "out of memory" in said:
        return "out of memory"
    return "crashed" if "CUDA error" in said else "error"


def _answer_error(answers: BinaryIO, kind: str, detail: str) -> None:
    write_frame(answers, b"error")
    write_frame(answers, json.dumps({"kind": kind, "detail": detail}).encode())
    answers.flush()


def _limit_threads(threads: int) -> None:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Threads that spin while they wait for one another take three times as long where another program has a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _limit_memory(memory_mb: float) -> None:
    """Allow `memory_mb` of address space beyond what the imported libraries have mapped already."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    limit = mapped + int(memory_mb * 1024 * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent(requests: BinaryIO) -> None:
    requests.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
