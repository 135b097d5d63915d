"""F40 to F42 and F44: archives that are down, moody, forgetful or hostile, and an audit that cannot be written outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import Dataset
from sqlalchemy import select, update

from dicom_node import proof, sealing, workflow
from dicom_node.settings import Audit
from dicom_node.simulator import Behaviour, SimulatedPacs
from dicom_node.workflow import Site, utc_now
from storage.anchor import read_anchors
from storage.database import Database
from storage.events import EventKind, append
from storage.models import Commitment, Delivery, DeliveryItem
from storage.spool import Spool
from storage.states import DeliveryState
from tests import parcels
from tests.archive import Archive, running
from tests.hostile.house import House
from tests.parcels import requests, state, until_idle, waiting
from tests.site import site

pytestmark = pytest.mark.feature("V1", "S1")

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"
PENDING, STORED, COMMITTED, FAILED = (
    DeliveryState.PENDING,
    DeliveryState.STORED,
    DeliveryState.COMMITTED,
    DeliveryState.FAILED,
)


def stored_flags(where: Site) -> list[bool]:
    """For each object on its way, whether it is marked stored."""
    with where.database.read() as session:
        items = session.scalars(select(DeliveryItem).order_by(DeliveryItem.id))
        return [item.stored_at is not None for item in items]


# ------------------------------------------------------------------------------------------------ F40


MOODS: dict[str, tuple[Behaviour, str, str]] = {
    "rejects": (Behaviour(reject_associations=True), PENDING, "association-rejected"),
    "aborts in the middle": (Behaviour(abort_after=1), PENDING, "association-aborted"),
    "0xA700": (Behaviour(statuses={SR: 0xA700, SEG: 0xA700}), PENDING, "busy"),
    "0x0124": (Behaviour(statuses={SR: 0x0124, SEG: 0x0124}), PENDING, "busy"),
    "0x0111": (Behaviour(statuses={SR: 0x0111, SEG: 0x0111}), STORED, ""),
    "0xB000": (Behaviour(statuses={SR: 0xB000, SEG: 0xB000}), STORED, ""),
    "0xA900": (Behaviour(statuses={SR: 0xA900, SEG: 0xA900}), FAILED, "refused"),
    "0xC123": (Behaviour(statuses={SR: 0xC123, SEG: 0xC123}), FAILED, "refused"),
    "one of two is refused": (Behaviour(statuses={SEG: 0xA900}), FAILED, "refused"),
    "one of two is put off": (Behaviour(statuses={SEG: 0xA700}), PENDING, "busy"),
}


@pytest.mark.parametrize("mood", MOODS)
def test_f40_each_answer_of_the_archive_has_its_consequence(
    tmp_path: Path, sqlite_database: Database, spool: Spool, mood: str
) -> None:
    behaviour, expected, reason = MOODS[mood]
    where = site(tmp_path, sqlite_database, storage={"spool": str(spool.root), "reserve_mb": 0})
    number = waiting(where, parcels.results())
    pacs = SimulatedPacs("PACS", folder=tmp_path / "pacs")
    pacs.start()
    try:
        pacs.behaviour = behaviour
        workflow.deliver(where, pacs.destination(), worker="s")
        first = state(where, number)
        marked = stored_flags(where)
        accepted = {one.sop_instance_uid for one in pacs.received()}
        pacs.behaviour = Behaviour()
        make_due(where)
        while workflow.deliver(where, pacs.destination(), worker="s"):
            continue
        last = state(where, number)
    finally:
        pacs.close()

    assert first == (expected, reason or None)
    if expected == PENDING:
        assert sum(marked) == len(accepted), "nothing is marked stored before its own answer"
        assert last[0] == STORED, "it is sent once the archive is itself again"
    else:
        assert last == first


def make_due(where: Site) -> None:
    """As if the wait before the next attempt were over."""
    with where.database.write() as session:
        session.execute(update(Delivery).where(Delivery.state == PENDING).values(not_before=utc_now()))


def test_f40_archive_that_is_down_gets_everything_when_it_is_back(
    tmp_path: Path, sqlite_database: Database, spool: Spool
) -> None:
    where = site(tmp_path, sqlite_database, storage={"spool": str(spool.root), "reserve_mb": 0})
    number = waiting(where, parcels.results())
    pacs = SimulatedPacs("PACS", folder=tmp_path / "pacs")
    pacs.start()
    pacs.stop()

    assert workflow.deliver(where, pacs.destination(), worker="s")
    down = state(where, number)
    pacs.start()
    make_due(where)
    while workflow.deliver(where, pacs.destination(), worker="s"):
        continue
    back = state(where, number)
    pacs.close()

    assert down == (PENDING, "connection-failed")
    assert back == (STORED, None)
    assert len(pacs.received()) == 2


# ------------------------------------------------------------------------------------------------ F41


def asking(house: House, archive: Archive) -> tuple[int, str, dict[str, str]]:
    """A delivery that is stored and has asked for commitment without a report; its id, transaction and objects."""
    archive.reports, archive.report_to = "never", ("FOVEA", house.port)
    number = waiting(house.where, parcels.results())
    until_idle(house.where, archive.destination(proof="commitment"))
    (request,) = archive.requests
    objects = {str(one.ReferencedSOPInstanceUID): str(one.ReferencedSOPClassUID) for one in request.ReferencedSOPSequence}
    assert state(house.where, number)[0] == STORED
    return number, str(request.TransactionUID), objects


@pytest.mark.feature("V2")
def test_f41_report_that_is_late_doubled_or_of_nobody_is_taken_once(house: House) -> None:
    with running(Archive()) as archive:
        number, transaction, objects = asking(house, archive)

        unknown = archive.report("2.25.1", objects)
        answers = [archive.report(transaction, objects) for _ in range(2)]

    assert unknown == 0x0115
    assert answers == [0x0000, 0x0000]
    assert state(house.where, number)[0] == COMMITTED
    assert len(house.events(EventKind.COMMITMENT_REPORTED)) == 1


@pytest.mark.feature("V2")
def test_f41_object_that_the_report_calls_failed_is_sent_again(house: House) -> None:
    with running(Archive()) as archive:
        number, transaction, objects = asking(house, archive)
        lost = next(iter(objects))

        assert archive.report(transaction, objects, {lost: 0x0112}) == 0x0000
        again = state(house.where, number)
        make_due(house.where)
        workflow.deliver(house.where, archive.destination(proof="commitment"), worker="s")

    assert again == (PENDING, "commitment-failed")
    assert archive.stored == 3, "two, and the lost one again"


@pytest.mark.feature("V2")
def test_f41_without_any_report_the_archive_is_asked_what_it_has(house: House) -> None:
    with running(Archive()) as archive:
        number, _, _ = asking(house, archive)
        (request,) = requests(house.where)
        gone = timedelta(hours=2)
        with house.where.database.write() as session:
            late = {"deadline": request.deadline - gone, "not_before": request.not_before - gone}
            session.execute(update(Commitment).values(**late))

        until_idle(house.where, archive.destination(proof="commitment"))

    assert state(house.where, number)[0] == COMMITTED


# ------------------------------------------------------------------------------------------------ F42


class HostileArchive(Archive):
    """Lists what it was sent, and gives back something else."""

    ways = "another study"
    given = 0

    def _on_get(self, event: Any) -> Iterator[Any]:
        found = self.kept[str(event.identifier.SOPInstanceUID)]
        lie = deepcopy(found)
        if self.ways == "another study":
            lie.StudyInstanceUID, lie.PatientID = "1.2.3.4", "SOMEBODY-ELSE"
        elif self.ways == "endless":
            lie.add_new(0x00420011, "OB", bytes(8 * 1024 * 1024))
        times = 1 if self.ways != "endless" else 1000
        yield times
        for _ in range(times):
            self.given += 1
            yield 0xFF00, lie

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        (answer,) = (found for _, found in super()._on_find(event))
        for _ in range(1_000_000 if self.ways == "endless list" else 1):
            self.given += 1
            yield 0xFF00, answer


@pytest.mark.feature("V3")
@pytest.mark.parametrize(
    ("ways", "verdict"),
    [("another study", (PENDING, "content-differs")), ("endless", (STORED, None)), ("endless list", (STORED, None))],
)
def test_f42_hostile_archive_proves_nothing_and_costs_little(house: House, ways: str, verdict: tuple[str, str | None]) -> None:
    process = psutil.Process()
    archive = HostileArchive()
    archive.ways = ways
    with running(archive):
        number = waiting(house.where, parcels.results())
        here = archive.destination(proof="query")
        workflow.deliver(house.where, here, worker="s")
        before, began = process.memory_info().rss, time.monotonic()

        assert proof.prove(house.where, here)
        took = time.monotonic() - began

    assert state(house.where, number) == verdict
    assert took < 60
    assert archive.given < 100_000, "it was hung up on"
    assert process.memory_info().rss - before < 512 * 1024 * 1024


# ------------------------------------------------------------------------------------------------ F44


@pytest.mark.feature("A2")
def test_f44_anchor_that_cannot_be_written_breaks_no_chain_and_is_made_up_for(tmp_path: Path, sqlite_database: Database) -> None:
    key = tmp_path / "anchor.key"
    key.write_bytes(b"k" * 48)
    full = Audit(anchor_file=Path("/dev/full"), anchor_key_file=key)
    works = full.model_copy(update={"anchor_file": tmp_path / "anchors"})

    def happen(count: int) -> None:
        with sqlite_database.write() as session:
            for number in range(count):
                append(session, EventKind.ACCESS_GRANTED, at=utc_now(), detail={"number": number})

    happen(5)
    sealing.seal(sqlite_database, at=utc_now())
    with pytest.raises(OSError, match="No space left"):
        sealing.anchor(sqlite_database, full, at=utc_now())
    happen(5)
    sealing.seal(sqlite_database, at=utc_now())
    made = sealing.anchor(sqlite_database, works, at=utc_now())

    assert made is not None
    assert made.sequence == 10, "one anchor holds everything before it"
    assert read_anchors(tmp_path / "anchors") == [made]
    assert sealing.verify(sqlite_database, works) == []
