"""A destination that is down: only a probe goes out, everybody can see it, and its return makes everything due."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import select, update

from dicom_node import metrics, status_view, workflow
from dicom_node.settings import Destination
from dicom_node.workflow import Site, utc_now
from storage import circuits
from storage.database import Database
from storage.models import Circuit, Delivery
from storage.states import DeliveryState
from tests.archive import Archive, running
from tests.parcels import kinds, results, state, waiting
from tests.peers import Orthanc, running_orthanc
from tests.site import site
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("V1")

DELIVERING = {"retry_after_s": 0.001, "circuit_opens_after": 3, "probe_every_s": 60.0}


@pytest.fixture
def archive() -> Iterator[Archive]:
    with running(Archive()) as started:
        yield started


def fail_until_open(where: Site, destination: Destination) -> int:
    """Deliver until the circuit is open; the number of attempts."""
    attempts = 0

    def is_open() -> bool:
        nonlocal attempts
        attempts += workflow.deliver(where, destination, worker="s")
        with where.database.read() as session:
            return circuits.is_open(session, destination.name)

    wait_until("the circuit is open", is_open, 20, poll_s=0.002)
    return attempts


def probe_is_due(where: Site) -> None:
    with where.database.write() as session:
        session.execute(update(Circuit).values(next_probe_at=utc_now() - timedelta(seconds=1)))


@pytest.mark.slow
def test_after_some_failures_only_a_probe_goes_out_and_its_success_sends_everything(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database, delivering=DELIVERING)
    numbers = [waiting(where, results(one)) for one in range(2)]
    archive = Archive()
    archive.start()
    here = archive.destination()
    archive.stop()

    assert fail_until_open(where, here) == 3
    with where.database.read() as session:
        attempts = sum(one.attempt for one in session.scalars(select(Delivery)))

    assert not workflow.deliver(where, here, worker="s"), "no probe is due"
    probe_is_due(where)
    assert not workflow.deliver(where, here, worker="s"), "the probe fails"
    assert not workflow.deliver(where, here, worker="s"), "the next one is a minute away"
    with where.database.read() as session:
        assert sum(one.attempt for one in session.scalars(select(Delivery))) == attempts, "a probe costs no delivery an attempt"
        session.execute(select(Delivery))
    with where.database.write() as session:
        session.execute(update(Delivery).values(not_before=utc_now() + timedelta(hours=1)))

    archive.start()
    probe_is_due(where)
    while workflow.deliver(where, here, worker="s"):
        continue
    archive.stop()

    assert [state(where, one)[0] for one in numbers] == [DeliveryState.STORED] * 2, "its return makes everything due at once"
    assert archive.echoes == 1
    told = kinds(where)
    assert (told.count("circuit opened"), told.count("circuit closed")) == (1, 1)


def test_an_open_circuit_survives_a_restart(tmp_path: Path, database_url: str) -> None:
    first = Database(database_url)
    where = site(tmp_path, first, delivering=DELIVERING)
    waiting(where, results())
    nowhere = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, timeout_s=2)
    fail_until_open(where, nowhere)
    first.dispose()

    again = Database(database_url)
    where = site(tmp_path, again, delivering=DELIVERING)

    assert not workflow.deliver(where, nowhere, worker="s")
    again.dispose()


def test_an_object_that_is_refused_does_not_open_the_circuit(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = site(tmp_path, database, delivering={**DELIVERING, "circuit_opens_after": 1})
    objects = results()
    for one in objects:
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    number = waiting(where, objects)

    workflow.deliver(where, archive.destination(), worker="s")

    assert state(where, number) == (DeliveryState.FAILED, "refused")
    with where.database.read() as session:
        assert circuits.list_circuits(session) == []


def test_two_senders_make_one_probe(database: Database) -> None:
    with database.write() as session:
        assert circuits.note_failure(session, "pacs", reason="no-answer", opens_after=1, every_s=30, at=utc_now())
    later = utc_now() + timedelta(seconds=31)

    with database.write() as session:
        claims = [circuits.claim_probe(session, "pacs", every_s=30, at=later) for _ in range(2)]

    assert claims == [True, False]


def test_status_and_metrics_show_it(tmp_path: Path, database: Database) -> None:
    where = site(tmp_path, database, delivering=DELIVERING)
    with database.write() as session:
        circuits.note_failure(session, "pacs", reason="connection-failed", opens_after=1, every_s=30, at=utc_now())
        circuits.note_failure(session, "viewer", reason="no-answer", opens_after=9, every_s=30, at=utc_now())
    screen = Console(file=StringIO(), width=300)

    with database.read() as session:
        overview = status_view.overview(session)
    status_view.print_overview(screen, overview)
    text = metrics.exposition(where.settings, database)[0].decode()

    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "destination pacs is down since" in printed
    assert "destination viewer: 1 connection failures in a row (no-answer)" in printed
    assert 'fovea_destination_down{destination="pacs"} 1.0' in text
    assert 'fovea_destination_down{destination="viewer"} 0.0' in text


@pytest.mark.peer
def test_a_dicomweb_service_that_comes_back_is_found_by_its_probe(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database, delivering=DELIVERING)
    number = waiting(where, results())
    orthanc = Orthanc(tmp_path / "orthanc")
    here = Destination(name="pacs", kind="stow", url=orthanc.dicomweb)
    assert fail_until_open(where, here) == 3

    with running_orthanc(orthanc):
        probe_is_due(where)
        while workflow.deliver(where, here, worker="s"):
            continue

    assert state(where, number)[0] == DeliveryState.STORED
