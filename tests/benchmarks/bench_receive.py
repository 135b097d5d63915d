"""How fast the node receives, beside Orthanc and DCMTK's storescp, in one run: `python -m tests.benchmarks.bench_receive`.

All get the same 136 kB MR images from DCMTK's storescu over loopback. Fovea answers only when bytes and row are synced; Orthanc
syncs each file but not its folder; storescp syncs nothing. Nagle's algorithm in DCMTK (sender and receiver) is a matter of the
environment variable TCP_NODELAY, so peers are measured as shipped and with it. Also prints what an idle listener costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import psutil

from tests import studies
from tests.network import CALLED, free_port
from tests.peers import program
from tests.studies import Plan

ORTHANC = {"StorageCompression": False, "DicomCheckCalledAet": False, "HttpServerEnabled": False, "RemoteAccessAllowed": False}


@dataclass(frozen=True)
class Receiver:
    """One program to measure."""

    name: str
    start: Callable[[Path, int], list[str]]
    nodelay: bool
    """TCP_NODELAY=1 in the environment of receiver and sender."""


def fovea(folder: Path, port: int) -> list[str]:
    """The command of a listener of this product alone."""
    return [sys.executable, "-m", "tests.benchmarks.bench_receive", "--serve", str(folder), "--port", str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """The command of an Orthanc with its defaults, alone in a folder."""
    settings = {**ORTHANC, "DicomPort": port, "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAet": CALLED}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [program("Orthanc"), str(folder / "orthanc.json")]


def storescp(folder: Path, port: int) -> list[str]:
    """The command of DCMTK's receiver, with a process for each association."""
    return [program("storescp"), "--fork", "-od", str(folder), str(port)]


RECEIVERS = (
    Receiver("fovea", fovea, nodelay=True),
    Receiver("fovea, sender with Nagle", fovea, nodelay=False),
    Receiver("orthanc", orthanc, nodelay=True),
    Receiver("orthanc as shipped", orthanc, nodelay=False),
    Receiver("storescp", storescp, nodelay=True),
)


def environment(nodelay: bool) -> dict[str, str]:
    """Ours, with DCMTK's switch on or out."""
    ours = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    return {**ours, "TCP_NODELAY": "1"} if nodelay else ours


@contextmanager
def running(receiver: Receiver, work: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The receiver on a free port, answering C-ECHO."""
    folder = Path(mkdtemp(dir=work))
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(receiver.start(folder, port), stdout=log, stderr=log, env=environment(receiver.nodelay))
        try:
            echo = [program("echoscu"), "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port)]
            deadline = time.monotonic() + 30
            while subprocess.run(echo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{receiver.name} did not start: {(folder / 'log').read_text()[-2000:]}")
            yield port, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            shutil.rmtree(folder)


def rate(port: int, sets: Sequence[Sequence[Path]], nodelay: bool) -> float:
    """Instances per second when each set is sent over its own association, all at once."""
    command = [program("storescu"), "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port)]
    began = time.perf_counter()
    senders = [subprocess.Popen([*command, *map(str, files)], env=environment(nodelay)) for files in sets]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"storescu failed: {codes}")
    return sum(len(files) for files in sets) / (time.perf_counter() - began)


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of the process and its children so far."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times) + process.cpu_times().children_user


def measure(work: Path, images: int, associations: Sequence[int], rounds: int) -> dict[str, dict[int, float]]:
    """The best rate of each receiver for each number of associations; rounds alternate, so that all meet the same machine."""
    best: dict[str, dict[int, float]] = {receiver.name: dict.fromkeys(associations, 0.0) for receiver in RECEIVERS}
    number = 0
    for _ in range(rounds):
        for receiver in RECEIVERS:
            with running(receiver, work) as (port, process):
                before = cpu_seconds(process)
                for parallel in associations:
                    sets = []
                    for _ in range(parallel):
                        number += 1
                        count = images if receiver.nodelay else max(images // 4, 20)
                        plan = replace(Plan(slices=count), study=f"bench {number}")
                        sets.append(studies.save(studies.series(plan), work / f"set{number}"))
                    found = rate(port, sets, receiver.nodelay)
                    best[receiver.name][parallel] = max(best[receiver.name][parallel], found)
                    for files in sets:
                        shutil.rmtree(files[0].parent)
                spent = cpu_seconds(process) - before
                print(f"{receiver.name:28} {spent:6.2f} s CPU, {process.memory_info().rss / 2**20:6.0f} MB resident")
    return best


def serve(folder: Path, port: int) -> None:
    """Be a listener until SIGTERM. Nothing else of the product is loaded."""
    from dicom_node import logs
    from dicom_node.scp import Listener
    from dicom_node.settings import Node, Peer, Settings, Storage
    from storage.database import Database
    from storage.spool import Spool

    logs.configure(json=True)
    settings = Settings(
        node=Node(ae_title=CALLED, port=port),
        peers=(Peer(ae_title="BENCH", addresses=("127.0.0.1",)),),
        storage=Storage(spool=folder / "spool", reserve_mb=1),
    )
    database = Database(settings.storage.url())
    database.upgrade()
    listener = Listener(settings, database, Spool(settings.storage.spool, 0))
    listener.start()
    heavy = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "monai", "highdicom", "scipy"})
    print(f"heavy modules loaded: {heavy or 'none'}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    listener.stop()


def idle(work: Path) -> str:
    """What an idle listener costs, and whether torch is in it."""
    folder = Path(mkdtemp(dir=work))
    with running(RECEIVERS[0], folder) as (_, process):
        log = next(folder.glob("*/log")).read_text()
        loaded = next(line for line in log.splitlines() if line.startswith("heavy modules"))
        is_clean = not any("torch" in mapped.path for mapped in process.memory_maps())
        memory = process.memory_info().rss / 2**20
    if not is_clean:
        raise SystemExit("the listener has mapped torch")
    return f"idle listener: {memory:.0f} MB resident; {loaded}; no torch library mapped"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images on each association")
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=None, help="folder on the disk to measure; default: the temporary folder")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        serve(given.serve, given.port)
        return
    work = Path(mkdtemp(prefix="bench-", dir=given.work))
    try:
        print(idle(work))
        best = measure(work, given.images, given.associations, given.rounds)
    finally:
        shutil.rmtree(work)
    print(f"\n{'instances per second (best of rounds)':38}" + "".join(f"{n:>5} assoc." for n in given.associations))
    for name, rates in best.items():
        print(f"{name:38}" + "".join(f"{rates[n]:12.0f}" for n in given.associations))
    print(f"\n{'fovea divided by':38}")
    for name in list(best)[2:]:
        against = "fovea, sender with Nagle" if name == "orthanc as shipped" else "fovea"
        print(f"{name:38}" + "".join(f"{best[against][n] / best[name][n]:12.2f}" for n in given.associations))


if __name__ == "__main__":
    main()
