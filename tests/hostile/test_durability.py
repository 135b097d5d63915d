"""F24 to F28: what the disk, the database and a kill may do between an object and its Success."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import Dataset

from dicom_node import scu
from dicom_node.settings import Destination
from storage.events import EventKind
from tests import studies
from tests.hostile.listener import SMALL, Listening, listening, send_over, sent, small, uids
from tests.network import RELEASE_RQ, Wire, store_command
from tests.node import Node
from tests.peers import program
from tests.postgres import PostgresServer, peer_missing
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R6", "S1")

SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
DISK_MB = 16
P_DATA = r', "\4\0'
"""How a trace shows the first bytes of a P-DATA-TF PDU that is sent."""
SMALL_DISK = f'mount -t tmpfs -o size={DISK_MB}m,mode=700 none "$0" && exec "$@"'


def large(study: str, megabytes: int) -> Dataset:
    """One image that is streamed to the disk as it comes."""
    rows = 512 * megabytes
    return studies.series(replace(SMALL, study=study, slices=1, rows=rows, columns=1024))[0]


# ------------------------------------------------------------------------------------------------ disk


@contextmanager
def on_a_small_disk(folder: Path, receive_path: str) -> Iterator[Listening]:
    """A listener whose spool and database are on a file system of 16 MB in a mount namespace of its own."""
    disk = folder / "var"
    disk.mkdir(parents=True)
    namespace = ("unshare", "-rm", "sh", "-c", SMALL_DISK, str(disk))
    probe = subprocess.run([*namespace, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        peer_missing(f"a small file system cannot be mounted here: {probe.stderr.strip()}")
    with listening(folder, receive_path, prefix=namespace, reserve_mb=0.0) as outside:
        assert outside.node.process is not None
        inside = Path(f"/proc/{outside.node.process.pid}/root") / folder.relative_to("/")
        seen = Node(inside, targets=(), rules=(), port=outside.node.port, process=outside.node.process)
        yield Listening(seen, receive_path, outside.process)


def fill(disk: Path) -> Path:
    """A file that takes what is left of the disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(65536)):
                continue
        except OSError:
            pass
    return filler


def make_spool_read_only(node: Listening) -> None:
    """A read-only mount over the spool, as an operating system leaves it after an error of the disk."""
    _in_namespace(node, "mount", "--bind", _spool(node), _spool(node))
    _in_namespace(node, "mount", "-o", "remount,bind,ro", _spool(node))


def make_spool_writable(node: Listening) -> None:
    """The mount is taken away again."""
    _in_namespace(node, "umount", _spool(node))


def _spool(node: Listening) -> str:
    return str(node.node.spool).split("/root", 1)[1]


def _in_namespace(node: Listening, *command: str) -> None:
    entered = ["nsenter", "-t", str(node.process.pid), "-U", "-m", *command]
    done = subprocess.run(entered, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_f24_full_disk_and_read_only_disk_are_out_of_resources_and_leave_nothing(receive_path: str, tmp_path: Path) -> None:
    first, *others = (small(f"F24 {number}")[0] for number in range(4))
    too_large = large("F24 large", 20)
    with on_a_small_disk(tmp_path, receive_path) as node:
        assert sent(node, first) == SUCCESS
        kept = node.files()
        answers = {}
        with Wire(node.port, timeout_s=60) as wire:
            answers["fills the disk"] = send_over(wire, too_large)
        with Wire(node.port, timeout_s=60) as waiting:
            assert waiting.associate()[0] == 2
            filler = fill(node.node.spool.parent)
            answers["the disk is full"] = answer_on(waiting, others[0])
            filler.unlink()
            answers["room was made"] = answer_on(waiting, others[0])
            make_spool_read_only(node)
            answers["the disk is read-only"] = answer_on(waiting, others[1])
            make_spool_writable(node)
            answers["it is not any more"] = answer_on(waiting, others[1])

        assert answers == {
            "fills the disk": OUT_OF_RESOURCES,
            "the disk is full": OUT_OF_RESOURCES,
            "room was made": SUCCESS,
            "the disk is read-only": OUT_OF_RESOURCES,
            "it is not any more": SUCCESS,
        }
        assert node.temporaries() == []
        assert len(node.files() - kept) == 2
        rows = with_copied_rows(node, tmp_path / "copy")
        assert [len(rows.instances(str(one.StudyInstanceUID))) for one in (first, *others)] == [1, 1, 1, 0]
        assert rows.instances(str(too_large.StudyInstanceUID)) == []


def with_copied_rows(node: Listening, folder: Path) -> Listening:
    """The same rows in a folder outside: SQLite follows the way into the namespace to the wrong file."""
    outside = Node(folder, targets=(), rules=())
    outside.spool.parent.mkdir(parents=True)
    for name in ("fovea.sqlite", "fovea.sqlite-wal"):
        if (node.node.spool.parent / name).exists():
            shutil.copy(node.node.spool.parent / name, outside.spool.parent / name)
    return Listening(outside, node.receive_path, node.process)


def answer_on(wire: Wire, dataset: Dataset) -> int:
    """Send the object over the association that stands; the status."""
    wire.store(store_command(str(dataset.SOPInstanceUID)), studies.encoded(dataset))
    return wire.status()


def test_f24_write_that_the_system_refuses_is_out_of_resources_and_leaves_nothing(receive_path: str, tmp_path: Path) -> None:
    """The limit on the size of a file stands for any error of a write: it works without rights to mount."""
    with listening(tmp_path, receive_path, prefix=("prlimit", f"--fsize={8 * 1024 * 1024}")) as node:
        one = large("F24 limit", 10)
        with Wire(node.port, timeout_s=60) as wire:
            assert send_over(wire, one) == OUT_OF_RESOURCES

        assert (node.temporaries(), node.files()) == ([], set())
        assert node.instances(str(one.StudyInstanceUID)) == []
        assert sent(node, small("F24 small")[0]) == SUCCESS


# ------------------------------------------------------------------------------------------------ kill


def test_f25_what_was_acknowledged_is_there_after_a_kill(receive_path: str, tmp_path: Path) -> None:
    datasets = studies.series(replace(SMALL, study="F25", slices=60))
    items, _ = scu.outgoing(studies.save(datasets, tmp_path / "out"))
    acknowledged: list[str] = []
    with listening(tmp_path / "node", receive_path) as node:
        here = Destination(name="node", ae_title="FOVEA", host="127.0.0.1", port=node.port, timeout_s=20)

        def on_each(answer: scu.Sent) -> None:
            acknowledged.append(answer.sop_instance_uid)
            if len(acknowledged) == 20:
                node.node.kill_group()

        error = scu.send(here, "MODALITY", items, on_each)
        kept = digests(node, datasets)
        node.node.start()
        node.node.await_echo()
        again = scu.send(here, "MODALITY", items, lambda _: None)

        assert error is not None
        assert not error.permanent
        assert set(acknowledged) <= kept
        assert again is None
        assert digests(node, datasets) == uids(datasets)
        assert node.temporaries() == []
        assert len(node.files()) == len(datasets), "one copy of each"


def digests(node: Listening, datasets: list[Dataset]) -> set[str]:
    """The UIDs of the instances that have a row; the file of each must be what the row says."""
    rows = node.instances(str(datasets[0].StudyInstanceUID))
    for row in rows:
        assert hashlib.sha256(node.file(row.path)[-row.size :]).hexdigest() == row.digest
    return {row.sop_instance_uid for row in rows}


@pytest.mark.peer
@pytest.mark.slow
def test_f25_file_folder_and_row_are_synced_before_success_leaves(receive_path: str, tmp_path: Path) -> None:
    """A system-call trace of the listener: before each answer the file, its name in its folder and the row were synced."""
    trace = tmp_path / "trace"
    traced = (program("strace"), "-f", "-y", "-e", "trace=openat,fsync,fdatasync,sendto", "-o", str(trace))
    datasets = studies.series(replace(SMALL, study="F25 order", slices=4))
    with listening(tmp_path / "node", receive_path, prefix=traced) as node:
        with Wire(node.port, timeout_s=60) as wire:
            assert wire.associate()[0] == 2
            assert [answer_on(wire, one) for one in datasets] == [SUCCESS] * 4
        assert node.node.process is not None
        for child in psutil.Process(node.node.process.pid).children():
            child.terminate()
        node.node.process.wait(60)

        paths = {row.sop_instance_uid: row.path for row in node.instances(str(datasets[0].StudyInstanceUID))}

    done = list(returned_calls(trace.read_text().splitlines()))
    answers = [index for index, call in enumerate(done) if call.startswith("sendto") and P_DATA in call]
    assert len(answers) == 1 + len(datasets), "the C-ECHO that told that it serves, and the objects"
    for one, start, end in zip(datasets, answers, answers[1:], strict=False):
        path, before = f"/{paths[str(one.SOPInstanceUID)]}", done[start:end]
        made = next(index for index, call in enumerate(done) if call.startswith("openat") and path in call)
        folder = f"{path.rpartition('/')[0]}>"
        assert any(call.startswith("fsync") and folder in call for call in done[made:end]), "its name"
        assert any(call.startswith("fsync") and path in call for call in before), "the file"
        assert any("sync" in call and "fovea.sqlite-wal>" in call for call in before), "the row"


def returned_calls(lines: list[str]) -> Iterator[str]:
    """The calls of a trace in the order of their success; a call of several threads at once is told in two lines."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
            if call.startswith("sendto"):
                yield call  # what is sent may arrive before the call returns
        elif "resumed>" in call and (call.endswith("= 0") or "openat resumed>" in call):
            yield begun.pop(thread)
        elif "resumed>" not in call and ("= 0" in call or call.startswith(("sendto", "openat"))):
            yield call


def test_f26_file_that_a_crash_left_without_its_row_is_removed_and_sent_again(receive_path: str, tmp_path: Path) -> None:
    first, second, _ = datasets = small("F26")
    with listening(tmp_path, receive_path) as node:
        assert sent(node, first) == SUCCESS
        node.node.kill_group()
        orphan = orphan_of(node, first, second)
        node.node.start()
        node.node.await_echo()
        wait_until("the orphan is removed", lambda: not orphan.exists(), 30)

        assert [sent(node, one) for one in datasets] == [SUCCESS] * 3
        assert digests(node, datasets) == uids(datasets)
        assert len(node.files()) == 3


def orphan_of(node: Listening, kept: Dataset, lost: Dataset) -> Path:
    """The file of an object that was renamed into place before the crash, two minutes ago."""
    (row,) = node.instances(str(kept.StudyInstanceUID))
    name = hashlib.sha256(str(lost.SOPInstanceUID).encode()).hexdigest()
    orphan = node.node.spool / "instances" / name[:2] / f"{name}-{secrets.token_hex(8)}"
    orphan.parent.mkdir(exist_ok=True)
    shutil.copy(node.node.spool / (row.path or ""), orphan)
    long_ago = time.time() - 120
    os.utime(orphan, (long_ago, long_ago))
    return orphan


# ------------------------------------------------------------------------------------------------ database


def test_f27_locked_database_is_out_of_resources_and_recovers(receive_path: str, tmp_path: Path) -> None:
    """On one association: it counts the peer's silence from the answer on, however long that took."""
    one = small("F27")[0]
    patience = {"network_timeout_s": 5.0}  # shorter than the wait for the lock
    with listening(tmp_path, receive_path, patience) as node, Wire(node.port, timeout_s=60) as wire:
        assert wire.associate()[0] == 2
        other = sqlite3.connect(node.node.spool.parent / "fovea.sqlite", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            locked = answer_on(wire, one)
        finally:
            other.close()

        assert locked == OUT_OF_RESOURCES
        assert node.files() == set()
        assert answer_on(wire, one) == SUCCESS
        assert len(node.instances(str(one.StudyInstanceUID))) == 1


@pytest.mark.peer
def test_f27_database_server_that_is_down_is_never_success_and_recovers(
    receive_path: str, tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    one, other, _ = small("F27")
    name = postgres_url.rsplit("/", 1)[1]
    with listening(tmp_path, receive_path, database_url=postgres_url) as node:
        with Wire(node.port, timeout_s=60) as wire:
            assert wire.associate()[0] == 2
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            established = answer_on(wire, one)
            with Wire(node.port, timeout_s=60) as newcomer:
                rejected = newcomer.associate()
            postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            recovered = answer_on(wire, other)

        assert established == OUT_OF_RESOURCES
        assert (rejected[0], tuple(rejected[1][1:4])) == (3, (2, 3, 1))
        assert recovered == SUCCESS
        assert {row.sop_instance_uid for row in node.instances(str(one.StudyInstanceUID))} == {str(other.SOPInstanceUID)}


# ------------------------------------------------------------------------------------------------ again


def test_f28_identical_bytes_again_are_a_success_without_a_second_copy(node: Listening) -> None:
    one = small(f"F28 {node.receive_path}")[0]
    mark, before = node.mark(), node.files()

    for _ in range(2):
        with Wire(node.port) as wire:
            assert send_over(wire, one) == SUCCESS
            wire.send(RELEASE_RQ)
            assert wire.receive()[0] == 6

    found: list[Any] = wait_until("both are told", lambda: two(node.events(mark, EventKind.INSTANCES_RECEIVED)), 10)
    assert [event.detail["repeated"] for event in found] == [0, 1]
    assert len(node.instances(str(one.StudyInstanceUID))) == 1
    assert len(node.files() - before) == 1


def two(events: list[Any]) -> list[Any]:
    return events if len(events) == 2 else []
