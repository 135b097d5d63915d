"""The listener as a process of its own: what a peer does to it is seen in its rows, its log, its metrics and its memory."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from pydicom import Dataset
from sqlalchemy import func, select

from storage.models import Event, Instance, Rejected, Series, Study
from tests import studies
from tests.network import Wire, store_command
from tests.node import Node, running
from tests.studies import Plan
from tests.waiting import wait_until

ARTIM_S = 2.0
LIMIT_MB = 24
"""Largest object: small enough to be exceeded quickly, larger than what is held in memory."""
PEERS = ("MODALITY", "MODALITY2", "ORTHANC")
MEGABYTE = 1024 * 1024
GROWTH_MB = 512
"""What the node may grow by above idle, whatever is sent to it."""
NO_LIMIT_OF_ROWS = "[alerts]\nper_minute = 1000000\nrows_per_minute = 1000000\n"
"""Every row of every test is written; what the limits do is a test of its own."""
SMALL = Plan(slices=3, rows=16, columns=16)


@dataclass(slots=True)
class Listening:
    """One running `fovea listen`."""

    node: Node
    receive_path: str
    process: psutil.Process

    @property
    def port(self) -> int:
        """The DICOM port."""
        return self.node.port

    @property
    def log(self) -> str:
        """Everything it has logged."""
        return (self.node.folder / "node.log").read_text(encoding="utf-8", errors="replace")

    def resident_mb(self) -> float:
        """Resident memory in MB."""
        return float(self.process.memory_info().rss / MEGABYTE)

    def highest_mb(self) -> float:
        """The highest resident memory since its start, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def peak_mb(self, done: Callable[[], bool]) -> float:
        """The highest resident memory in MB until it is done."""
        peak, pause = self.resident_mb(), threading.Event()
        while not done():
            pause.wait(0.02)
            peak = max(peak, self.resident_mb())
        return peak

    def metric(self, name: str, **labels: str) -> float:
        """A counter as it was saved last; 0.0 where it has not counted yet."""
        saved = self.node.spool.parent / "metrics" / "listener.prom"
        if not saved.exists():
            return 0.0
        families = text_string_to_metric_families(saved.read_text(encoding="utf-8"))
        samples = (sample for family in families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def mark(self) -> int:
        """The number of the newest event: what is asked `since` it happened later."""
        with self.node.database() as database, database.read() as session:
            return session.scalar(select(func.max(Event.id))) or 0

    def events(self, since: int, kind: str | None = None) -> list[Event]:
        """The events after the mark, of one kind or of all."""
        chosen = select(Event).where(Event.id > since).order_by(Event.id)
        return self._rows(chosen if kind is None else chosen.where(Event.kind == kind))

    def await_event(self, since: int, kind: str) -> Event:
        """The first event of the kind after the mark."""
        found: list[Event] = wait_until(f"event {kind}", lambda: self.events(since, kind), 15)
        return found[0]

    def study(self, uid: str) -> Study | None:
        """The study's row."""
        found: list[Study] = self._rows(select(Study).where(Study.study_instance_uid == uid))
        return found[0] if found else None

    def instances(self, study_instance_uid: str) -> list[Instance]:
        """The rows of the study's instances."""
        of_study = select(Instance).join(Series).join(Study).where(Study.study_instance_uid == study_instance_uid)
        return self._rows(of_study.order_by(Instance.id))

    def rejected(self, sop_instance_uid: str) -> list[Rejected]:
        """The rows of what was kept aside under this UID."""
        return self._rows(select(Rejected).where(Rejected.sop_instance_uid == sop_instance_uid).order_by(Rejected.id))

    def file(self, path: str | None) -> bytes:
        """A kept file's bytes."""
        assert path is not None
        return (self.node.spool / path).read_bytes()

    def temporaries(self) -> list[Path]:
        """Files that are being written."""
        return list((self.node.spool / "temporary").iterdir())

    def files(self) -> set[Path]:
        """Everything kept as an instance."""
        found = (path for path in (self.node.spool / "instances").rglob("*") if path.is_file())
        return {path for path in found if path.stat().st_size}

    def _rows(self, statement: Any) -> list[Any]:
        with self.node.database() as database, database.read() as session:
            found = list(session.scalars(statement))
            session.expunge_all()
            return found


@contextmanager
def listening(
    folder: Path, receive_path: str, receive: Mapping[str, object] | None = None, **changes: Any
) -> Iterator[Listening]:
    """A `fovea listen` that answers, for the length of the block."""
    limits: dict[str, object] = {"acse_timeout_s": ARTIM_S, "network_timeout_s": 20.0, "maximum_object_mb": float(LIMIT_MB)}
    node = Node(
        folder,
        targets=(),
        rules=(),
        peers=PEERS,
        command="listen",
        more=NO_LIMIT_OF_ROWS,
        receive={**limits, **path_setting(receive_path), **(receive or {})},
        **changes,
    )
    with running(node):
        yield Listening(node, receive_path, node.role("listen"))


def path_setting(receive_path: str) -> dict[str, object]:
    """The setting that chooses the receive path."""
    return {"path": receive_path}


def sent(node: Listening, dataset: Dataset, **changes: Any) -> int:
    """Send one object over an association of its own; the status answered."""
    with Wire(node.port, timeout_s=30) as wire:
        return send_over(wire, dataset, **changes)


def send_over(wire: Wire, dataset: Dataset, *, data: bytes | None = None, calling: str = PEERS[0]) -> int:
    """Associate for the object's class and syntax and send it (or other bytes in its name); the status answered."""
    kind, _ = wire.associate([(str(dataset.SOPClassUID), (str(dataset.file_meta.TransferSyntaxUID),))], calling=calling)
    assert kind == 2, f"PDU type {kind} instead of A-ASSOCIATE-AC"
    command = store_command(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID))
    wire.store(command, studies.encoded(dataset) if data is None else data)
    return wire.status()


def exchange(node: Listening, command: bytes, data: bytes, **changes: Any) -> dict[int, bytes]:
    """One C-STORE over an association of its own; the elements of the response."""
    with Wire(node.port, timeout_s=30) as wire:
        assert wire.associate(**changes)[0] == 2
        wire.store(command, data, chunk=120_000)
        return wire.response()


def status_of(response: Mapping[int, bytes]) -> int:
    """The status in a response."""
    return int(struct.unpack("<H", response[0x0900])[0])


def offending(response: Mapping[int, bytes]) -> tuple[int, int] | None:
    """Group and element of Offending Element (0000,0901)."""
    value = response.get(0x0901)
    return None if value is None else struct.unpack("<HH", value)  # type: ignore[return-value]


def small(study: str, **changes: Any) -> list[Dataset]:
    """Three tiny images of a study of this name."""
    return studies.series(replace(SMALL, study=study, **changes))


def uids(datasets: Sequence[Dataset]) -> set[str]:
    """Their SOP Instance UIDs."""
    return {str(one.SOPInstanceUID) for one in datasets}
