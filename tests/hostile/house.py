"""A whole node in this process, with its time in the test's hands: listener, rows, runs in real children, a PACS on loopback."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from sqlalchemy import select

from dicom_node import workflow
from dicom_node.engine import Engine, Limits
from dicom_node.scp import Listener
from dicom_node.settings import Destination
from dicom_node.simulator import SimulatedPacs, send_datasets
from dicom_node.workflow import Site, utc_now
from storage.database import Database
from storage.models import Delivery, Event, Job, Study
from storage.spool import Spool
from tests import studies
from tests.hostile.listener import path_setting
from tests.site import site
from tests.studies import Plan

LIMITS = Limits(memory_mb=4096, timeout_s=120, threads=1)
BOOT = "house"
FLAIR = Plan(slices=10, rows=128, columns=128, pixel_spacing_mm=(1.8, 1.8))
REFUSED = replace(FLAIR, kind=studies.T1)
"""Not what the model is for: its report says so, and no network runs."""
MODALITY = "MODALITY"
CHILD = """
import os, sys, time
import dicom_node.run as real
honest = real.run
def faulty(request):
    if request.failure is None and {victim!r} in (request.study_instance_uid, ""):
{fault}
    return honest(request)
real.run = faulty
from dicom_node.child import main
main()
"""


@dataclass(slots=True)
class House:
    """One node and its PACS."""

    where: Site
    port: int
    pacs: SimulatedPacs
    engine: Engine
    clock_s: float = 1000.0

    def send(self, datasets: Sequence[Dataset], calling: str = MODALITY) -> list[str]:
        """Send them over one association; the statuses answered."""
        here = Destination(name="node", ae_title="FOVEA", host="127.0.0.1", port=self.port, timeout_s=30)
        return [one.status for one in send_datasets(here, calling, datasets)]

    def quiet(self, seconds: int = 40, tick_s: int = 1) -> int:
        """Let the node's clock run in ticks of one second, or of up to five; the number of studies settled."""
        settled = 0
        for _ in range(seconds // tick_s):
            self.clock_s += tick_s
            settled += workflow.settle(self.where, holder=BOOT, monotonic_s=self.clock_s, at=utc_now())
        return settled

    def run(self, engine: Engine | None = None, worker: str = "w") -> int:
        """Run every job until none is scheduled; the number of claims."""
        claims = 0
        while self.waiting_jobs():
            claims += workflow.submit(self.where, engine or self.engine, worker=worker)
        return claims

    def deliver(self) -> None:
        """Send everything that is due."""
        while workflow.deliver(self.where, self.pacs.destination(), worker="s"):
            continue

    def answer(self) -> None:
        """Settle what was sent, run it and deliver what comes of it."""
        self.quiet()
        self.run()
        self.deliver()

    def reports(self) -> list[Dataset]:
        """The reports at the PACS, in the order of their coming."""
        return [dcmread(one.path) for one in self.pacs.received() if one.modality == "SR"]

    def rows(self, table: type[Any]) -> list[Any]:
        """Every row of a table."""
        with self.where.database.read() as session:
            found = list(session.scalars(select(table).order_by(table.id)))
            session.expunge_all()
            return found

    def jobs(self) -> list[Job]:
        """Every job."""
        return self.rows(Job)

    def deliveries(self) -> list[Delivery]:
        """Every delivery."""
        return self.rows(Delivery)

    def study(self, plan: Plan) -> Study:
        """The plan's study."""
        return next(one for one in self.rows(Study) if one.study_instance_uid == plan.study_instance_uid)

    def events(self, kind: str) -> list[Event]:
        """Every event of a kind."""
        return [event for event in self.rows(Event) if event.kind == kind]

    def waiting_jobs(self) -> bool:
        """True while a job is scheduled."""
        return any(job.state == "SCHEDULED" for job in self.jobs())


@contextmanager
def living(
    folder: Path, database: Database, spool: Spool, engine: Engine, *, path: str = "stream", **sections: Any
) -> Iterator[House]:
    """A house for the length of the block."""
    values: dict[str, Any] = {
        "storage": {"spool": str(spool.root), "reserve_mb": 0},
        "node": {"port": 0},
        "peers": [{"ae_title": name, "addresses": ["127.0.0.1"]} for name in (MODALITY, "PACS", "ARCHIVE")],
        "receive": path_setting(path),
    }
    where = site(folder, database, **{**values, **sections})
    pacs = SimulatedPacs("PACS", folder=folder / "pacs")
    pacs.start()
    listener = Listener(where.settings, where.database, where.spool)
    port = listener.start()
    try:
        yield House(where, port, pacs, engine)
    finally:
        listener.stop()
        pacs.close()


@contextmanager
def faulty_engine(folder: Path, fault: str, *, victim: str = "", limits: Limits = LIMITS) -> Iterator[Engine]:
    """Children that do `fault` to each run, or only to the victim's study; asked for the report of a failure they are honest."""
    script = folder / "child.py"
    script.write_text(CHILD.format(victim=victim, fault=textwrap.indent(textwrap.dedent(fault), " " * 8)), encoding="utf-8")
    engine = Engine(limits, (sys.executable, str(script)))
    try:
        yield engine
    finally:
        engine.close()


def predecessors(report: Dataset) -> list[str]:
    """SOP Instance UIDs in Predecessor Documents Sequence (PS3.3 C.17.2.3)."""
    return [
        str(reference.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]
