"""How fast the node receives, beside Orthanc and DCMTK's storescp, in one run: `python -m tests.benchmarks.bench_receive`.

Everybody gets the same objects over loopback. Fovea answers when the object is scanned and file, folder and row are synced;
Orthanc syncs each file but not its folder; storescp syncs nothing. Nagle's algorithm in DCMTK and Orthanc is a matter of the
environment variable TCP_NODELAY, so they are measured as shipped and with it. Take ratios: the machine's load is everybody's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import mkdtemp

import psutil

from dicom_node import scu
from dicom_node.ae import storage_classes
from dicom_node.settings import Destination
from tests import studies
from tests.network import CALLED, EXPLICIT, IMPLICIT, MR, RELEASE_RQ, Wire, store_command
from tests.peers import program
from tests.studies import Plan
from tests.waiting import free_port

ORTHANC = {"StorageCompression": False, "DicomCheckCalledAet": False, "HttpServerEnabled": False, "RemoteAccessAllowed": False}
ASSOCIATIONS = (1, 4, 8)
MEGABYTE = 2**20
FOVEA, PLAIN, SHIPPED, NODELAY, STORESCP = "fovea", "fovea, plain path", "orthanc as shipped", "orthanc", "storescp"


@dataclass(frozen=True)
class Receiver:
    """One program to measure."""

    name: str
    start: Callable[[Path, int], list[str]]
    nodelay: bool
    """TCP_NODELAY=1 in the environment of receiver and DCMTK's senders."""
    listeners: int = 1
    """Processes that serve associations; storescp has one for each association whatever this says."""


@dataclass(frozen=True)
class Measured:
    """One cell of the table."""

    rate: float
    """Instances per second."""
    cpu_ms: float
    """CPU time of the receiver for each instance."""
    peak_mb: float
    """Most resident memory at any time."""


def fovea(folder: Path, port: int) -> list[str]:
    """A listener of this product alone."""
    return [sys.executable, "-m", "tests.benchmarks.serve_listener", str(folder), str(port)]


def fovea_plain(folder: Path, port: int) -> list[str]:
    """The same, through pynetdicom's own handler."""
    return [*fovea(folder, port), "--path", "plain"]


def fovea_listeners(folder: Path, port: int, *, count: int) -> list[str]:
    """`fovea listen` with several listener processes on the one port."""
    config = folder / "fovea.toml"
    config.write_text(
        f'node = {{ ae_title = "{CALLED}", port = {port} }}\n'
        'peers = [{ ae_title = "BENCH", addresses = ["127.0.0.1"] }]\n'
        f'storage = {{ spool = "{folder / "spool"}", reserve_mb = 1 }}\n'
        f"receive = {{ listeners = {count} }}\n"
    )
    return [sys.executable, "-m", "dicom_node.cli", "listen", "--config", str(config)]


def several(count: int, *, nodelay: bool = True) -> Receiver:
    """Fovea with so many listener processes."""
    return Receiver(f"fovea, {count} listeners", partial(fovea_listeners, count=count), nodelay, count)


def orthanc(folder: Path, port: int) -> list[str]:
    """An Orthanc with its defaults, alone in a folder."""
    settings = {**ORTHANC, "DicomPort": port, "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAet": CALLED}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return [program("Orthanc"), str(folder / "orthanc.json")]


def storescp(folder: Path, port: int) -> list[str]:
    """DCMTK's receiver, with a process for each association."""
    return [program("storescp"), "--fork", "-od", str(folder), str(port)]


RECEIVERS = (
    Receiver(FOVEA, fovea, nodelay=True),
    Receiver(PLAIN, fovea_plain, nodelay=True),
    Receiver(NODELAY, orthanc, nodelay=True),
    Receiver(STORESCP, storescp, nodelay=True),
)
WITH_NAGLE = (Receiver(FOVEA, fovea, nodelay=False), Receiver(SHIPPED, orthanc, nodelay=False))


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
            deadline = time.monotonic() + 120
            while subprocess.run(echo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{receiver.name} did not start: {(folder / 'log').read_text()[-2000:]}")
            while receiver.listeners > 1 and (folder / "log").read_text().count("listening as") < receiver.listeners:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{receiver.name}: not every process started: {(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.1)
            yield port, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def dcmtk(tool: str, nodelay: bool) -> Callable[[int, Sequence[Sequence[Path]]], None]:
    """A sender: DCMTK's storescu or dcmsend, one process for each association."""

    def send(port: int, sets: Sequence[Sequence[Path]]) -> None:
        command = [program(tool), "-aet", "BENCH", "-aec", CALLED, "127.0.0.1", str(port)]
        senders = [subprocess.Popen([*command, *map(str, files)], env=environment(nodelay)) for files in sets]
        codes = [sender.wait() for sender in senders]
        if any(codes):
            raise SystemExit(f"{tool} failed: {codes}")

    return send


def own_sender(port: int, sets: Sequence[Sequence[Path]]) -> None:
    """A sender: the one that results leave by, one thread for each association."""
    node = Destination(name="node", ae_title=CALLED, host="127.0.0.1", port=port, timeout_s=60)

    def send(files: Sequence[Path]) -> None:
        error = scu.send(node, "BENCH", scu.outgoing(files)[0], lambda _sent: None)
        if error is not None:
            raise SystemExit(f"own sender failed: {error}")

    threads = [threading.Thread(target=send, args=(files,)) for files in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measured(process: psutil.Process, count: int, send: Callable[[], None]) -> Measured:
    """What the receiver took for what is sent meanwhile."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], resident_mb(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, began = cpu_seconds(process), time.perf_counter()
    try:
        send()
        seconds = time.perf_counter() - began
    finally:
        done.set()
        watcher.join()
    return Measured(count / seconds, (cpu_seconds(process) - cpu) / count * 1000, peak[0])


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of the process and its children so far."""
    own = process.cpu_times()
    ended = own.children_user + own.children_system
    children = [one.cpu_times() for one in process.children(recursive=True)]
    return ended + sum(one.user + one.system for one in (own, *children))


def resident_mb(process: psutil.Process) -> float:
    """Resident memory of the process and its children."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MEGABYTE


@dataclass(frozen=True)
class Load:
    """What is sent: one set of files for each association of each cell, none of them twice."""

    name: str
    sets: dict[int, list[list[Path]]]


def images(name: str, plan: Plan, counts: dict[int, int], folder: Path) -> Load:
    """Series of images, so many on each association."""
    sets: dict[int, list[list[Path]]] = {}
    for parallel, count in counts.items():
        sets[parallel] = []
        for one in range(parallel):
            series = studies.series(replace(plan, slices=count, study=f"{name} {parallel} {one}"))
            sets[parallel].append(studies.save(series, folder / f"{parallel}-{one}"))
    return Load(name, sets)


def multiframes(megabytes: int, folder: Path) -> Load:
    """One large multiframe object on each association."""
    rows = 512
    plan = Plan(slices=1, rows=rows, columns=rows)
    image = studies.series(plan)[0]
    image.NumberOfFrames = megabytes * MEGABYTE // (rows * rows * 2)
    image.PixelData = bytes(image.NumberOfFrames * rows * rows * 2)
    sets: dict[int, list[list[Path]]] = {}
    for parallel in ASSOCIATIONS:
        sets[parallel] = []
        for one in range(parallel):
            image.SOPInstanceUID = f"1.2.826.0.1.3680043.10.1.{parallel}.{one}"
            image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
            sets[parallel].append(studies.save([image], folder / f"{parallel}-{one}"))
    return Load(f"multiframe {megabytes} MB", sets)


def table(load: Load, receivers: Sequence[Receiver], work: Path, rounds: int) -> dict[str, dict[int, Measured]]:
    """Each receiver with each number of associations; DCMTK's storescu sends. Of several rounds each cell's median.

    Where they are many, files stay until the end: ext4 avoids the inodes of deleted ones for minutes, at the cost of whoever
    makes files next.
    """
    cells: dict[str, dict[int, list[Measured]]] = {one.name: {parallel: [] for parallel in load.sets} for one in receivers}
    for _, receiver in product(range(rounds), receivers):
        folder, few = Path(mkdtemp(dir=work)), False
        with running(receiver, folder) as (port, process):
            for parallel, sets in load.sets.items():
                count = sum(len(files) for files in sets)
                send = partial(dcmtk("storescu", receiver.nodelay), port, sets)
                cells[receiver.name][parallel].append(measured(process, count, send))
                few = count <= max(ASSOCIATIONS)
        if few:
            shutil.rmtree(folder)
    return {name: {parallel: median(found) for parallel, found in one.items()} for name, one in cells.items()}


def median(found: Sequence[Measured]) -> Measured:
    """Each figure's median."""
    values = zip(*((one.rate, one.cpu_ms, one.peak_mb) for one in found), strict=True)
    return Measured(*map(statistics.median, values))


def show(title: str, found: dict[str, dict[int, Measured]]) -> None:
    """One table, and what Fovea is against the others."""
    print(f"\n{title}\n{'instances/s (CPU ms each; peak MB)':40}" + "".join(f"{n:>16} assoc." for n in ASSOCIATIONS))
    for name, cells in found.items():
        print(f"{name:40}" + "".join(f"{one.rate:8.1f} ({one.cpu_ms:5.1f}; {one.peak_mb:4.0f})" for one in cells.values()))
    for name, cells in found.items():
        for own in (own for own in found if own.startswith(FOVEA) and own != PLAIN):
            if not name.startswith(FOVEA) or (own == FOVEA and name == PLAIN):
                ratios = [found[own][parallel].rate / one.rate for parallel, one in cells.items()]
                print(f"{own + ' / ' + name:40}" + "".join(f"{ratio:11.2f} x      " for ratio in ratios))
    sys.stdout.flush()


def senders(work: Path, count: int) -> None:
    """Fovea with other senders, one association."""
    ways = {
        "storescu": dcmtk("storescu", True),
        "storescu, Nagle on": dcmtk("storescu", False),
        "dcmsend": dcmtk("dcmsend", True),
        "dcmsend, Nagle on": dcmtk("dcmsend", False),
        "own sender": own_sender,
    }
    print(f"\nMR to fovea on one association, by sender\n{'instances/s (CPU ms each)':28}")
    with running(RECEIVERS[0], work) as (port, process):
        for number, (name, send) in enumerate(ways.items()):
            files = studies.save(studies.series(Plan(slices=count, study=f"sender {number}")), work / f"sender{number}")
            found = measured(process, count, partial(send, port, [files]))
            print(f"{name:28}{found.rate:8.1f} ({found.cpu_ms:5.1f})", flush=True)


def associations(work: Path, count: int) -> None:
    """How long an association takes with 128 contexts proposed, and what one association per instance comes to."""
    classes = sorted(storage_classes())[:128]
    contexts = [(uid, (EXPLICIT, IMPLICIT)) for uid in classes]
    datasets = studies.series(Plan(slices=count, study="one by one"))
    objects = [(str(one.SOPInstanceUID), studies.encoded(one)) for one in datasets]
    print(f"\n{'':28}{f'set-up, {len(contexts)} contexts':>24}{'one association each':>24}")
    for receiver in (RECEIVERS[0], RECEIVERS[2], RECEIVERS[3]):
        with running(receiver, work) as (port, _):
            waits = [associated(port, contexts) for _ in range(20)]
            began = time.perf_counter()
            for uid, data in objects:
                with Wire(port, 60) as wire:
                    assert wire.associate(calling="BENCH")[0] == 2
                    wire.store(store_command(uid, MR), data, chunk=16000)
                    assert wire.status() == 0
                    wire.send(RELEASE_RQ)
                    wire.receive()
            rate = len(objects) / (time.perf_counter() - began)
        print(f"{receiver.name:28}{statistics.median(waits) * 1000:21.1f} ms{rate:22.1f}/s", flush=True)


def associated(port: int, contexts: Sequence[tuple[str, Sequence[str]]]) -> float:
    """Seconds from A-ASSOCIATE-RQ to A-ASSOCIATE-AC."""
    with Wire(port, 60) as wire:
        began = time.perf_counter()
        assert wire.associate(contexts, calling="BENCH")[0] == 2
        waited = time.perf_counter() - began
        wire.send(RELEASE_RQ)
        wire.receive()
    return waited


def idle(work: Path) -> str:
    """What an idle listener costs, and whether torch is in it."""
    folder = Path(mkdtemp(dir=work))
    with running(RECEIVERS[0], folder) as (_, process):
        log = next(folder.glob("*/log")).read_text()
        loaded = next(line for line in log.splitlines() if line.startswith("heavy modules"))
        is_clean = not any("torch" in mapped.path for mapped in process.memory_maps())
        memory = process.memory_info().rss / MEGABYTE
    if not is_clean:
        raise SystemExit("the listener has mapped torch")
    return f"idle listener: {memory:.0f} MB resident; {loaded}; no torch library mapped"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=600, help="MR images for each cell, shared among its associations")
    parser.add_argument("--rounds", type=int, default=3, help="how often each cell is measured; the median is shown")
    parser.add_argument("--quick", action="store_true", help="a quarter of the images, multiframes of 25 MB, one round")
    parser.add_argument("--work", type=Path, default=None, help="folder on the disk to measure; default: the temporary folder")
    parser.add_argument("--listeners", type=int, default=2, help="listener processes of the second row of Fovea; 1: no such row")
    given = parser.parse_args()
    receivers, with_nagle = RECEIVERS, WITH_NAGLE
    if given.listeners > 1:
        receivers = (RECEIVERS[0], several(given.listeners), *RECEIVERS[1:])
        with_nagle = (WITH_NAGLE[0], several(given.listeners, nodelay=False), *WITH_NAGLE[1:])
    total, rounds = (given.images // 4, 1) if given.quick else (given.images, given.rounds)
    work = Path(mkdtemp(prefix="bench-", dir=given.work))
    counts = {parallel: max(5, total // parallel) for parallel in ASSOCIATIONS}
    fewer = {parallel: max(3, count // 3) for parallel, count in counts.items()}
    try:
        print(f"processes: fovea 1 unless its row says more, orthanc 1, storescp 1 for each association; {os.cpu_count()} cores")
        print(idle(work), flush=True)
        mr = images("MR", Plan(), counts, work / "mr")
        show("MR 136 kB, TCP_NODELAY=1", table(mr, receivers, work, rounds))
        show("MR 136 kB, DCMTK's sender and receiver with Nagle on", table(mr, with_nagle, work, 1))
        ct = images("CT", Plan(rows=512, columns=512), fewer, work / "ct")
        show("512 x 512 (530 kB, as CT), TCP_NODELAY=1", table(ct, receivers, work, rounds))
        large = multiframes(25 if given.quick else 100, work / "large")
        show(f"{large.name}, TCP_NODELAY=1", table(large, receivers, work, 1))
        senders(work, counts[1])
        associations(work, counts[4])
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
