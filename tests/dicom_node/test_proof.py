"""Proof of arrival on both databases: storage commitment on every kind of association, and queries where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dicom_node import acting, commitment, proof, workflow
from dicom_node.scp import Listener
from dicom_node.settings import Destination
from dicom_node.simulator import send_datasets
from dicom_node.workflow import Site, utc_now
from storage import queue
from storage.database import Database
from storage.models import Commitment, Delivery, Study
from storage.states import DeliveryState
from tests.archive import Archive, running
from tests.parcels import kinds, requests, results, state, until_idle, waiting
from tests.peers import Orthanc, running_orthanc
from tests.site import site
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("V2")

FAST = {"retry_after_s": 0.001, "report_wait_s": 30.0}
ON_LOOPBACK = [{"ae_title": name, "addresses": ["127.0.0.1"]} for name in ("ARCHIVE", "ORTHANC")]


@pytest.fixture
def archive() -> Iterator[Archive]:
    with running(Archive()) as started:
        yield started


def made(tmp_path: Path, database: Database, **delivering: object) -> Site:
    return site(tmp_path, database, delivering={**FAST, **delivering}, peers=ON_LOOPBACK, node={"port": 0})


@contextmanager
def listening(where: Site) -> Iterator[int]:
    listener = Listener(where.settings, where.database, where.spool)
    port = listener.start()
    try:
        yield port
    finally:
        listener.stop()


def let_time_pass(where: Site, seconds: float) -> None:
    """Make every open request older, as if the node had waited."""
    with where.database.write() as session:
        for row in requests(where):
            gone = timedelta(seconds=seconds)
            values = {"deadline": row.deadline - gone, "not_before": row.not_before - gone}
            session.execute(update(Commitment).where(Commitment.id == row.id).values(**values))


# ------------------------------------------------------------------------------------------------- commitment


def test_a_report_on_the_same_association_commits(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())

    until_idle(where, archive.destination(proof="commitment"))

    assert state(where, number) == (DeliveryState.COMMITTED, None)
    wait_until("the report is answered", lambda: archive.answers == [0x0000], 20)
    [request] = archive.requests
    assert request.TransactionUID == requests(where)[0].transaction_uid
    assert len(request.ReferencedSOPSequence) == 2
    assert "commitment reported" in kinds(where)


@pytest.mark.slow
def test_a_report_with_the_roles_reversed_commits(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = made(tmp_path, database, report_wait_s=0.0)
    number = waiting(where, results())
    with listening(where) as port:
        archive.reports, archive.report_to = "reversed", ("FOVEA", port)

        until_idle(where, archive.destination(proof="commitment"))
        wait_until("the report is taken", lambda: state(where, number)[0] == DeliveryState.COMMITTED, 20)
        wait_until("the report is answered", lambda: archive.answers == [0x0000], 20)


@pytest.mark.slow
def test_a_late_report_after_a_restart_commits_and_a_second_one_changes_nothing(
    tmp_path: Path, database_url: str, archive: Archive
) -> None:
    archive.reports = "never"
    first = Database(database_url)
    where = made(tmp_path, first, report_wait_s=0.0)
    number = waiting(where, results())
    until_idle(where, archive.destination(proof="commitment"))
    assert state(where, number)[0] == DeliveryState.STORED
    first.dispose()

    again = Database(database_url)
    where = replace(where, database=again)
    [request] = archive.requests
    uids = {str(one.ReferencedSOPInstanceUID): str(one.ReferencedSOPClassUID) for one in request.ReferencedSOPSequence}
    with listening(where) as port:
        archive.report_to = ("FOVEA", port)
        answers = [archive.report(str(request.TransactionUID), uids) for _ in range(2)]

    assert answers == [0x0000, 0x0000]
    assert state(where, number)[0] == DeliveryState.COMMITTED
    assert kinds(where).count("commitment reported") == 1
    again.dispose()


@pytest.mark.slow
@pytest.mark.feature("S1")
def test_a_report_on_an_unknown_transaction_is_refused(tmp_path: Path, database: Database, archive: Archive) -> None:
    """F41."""
    where = made(tmp_path, database)
    with listening(where) as port:
        archive.report_to = ("FOVEA", port)

        assert archive.report("2.25.1", {"1.2.3": "1.2.840.10008.5.1.4.1.1.4"}) == 0x0115


def test_what_the_archive_could_not_commit_is_sent_again(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = made(tmp_path, database)
    objects = results()
    number = waiting(where, objects)
    lost = str(objects[1].SOPInstanceUID)
    archive.failing = {lost: 0x0112}
    here = archive.destination(proof="commitment")

    assert workflow.deliver(where, here, worker="s")
    assert proof.prove(where, here)
    assert state(where, number) == (DeliveryState.PENDING, "commitment-failed")
    archive.failing = {}
    wait_until("the second sending is due", lambda: workflow.deliver(where, here, worker="s"), 10)
    until_idle(where, here)

    assert state(where, number)[0] == DeliveryState.COMMITTED
    assert archive.stored == 3, "only what was not committed goes out again"
    assert [one.state for one in requests(where)] == ["FAILED", "CONFIRMED"]


def test_a_report_that_does_not_mention_an_object_has_not_committed_it(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database)
    objects = results()
    number = waiting(where, objects)
    with running(Archive(reports="never")) as archive:
        where = replace(
            where,
            settings=where.settings.model_copy(
                update={"delivering": where.settings.delivering.model_copy(update={"report_wait_s": 0.0})}
            ),
        )
        until_idle(where, archive.destination(proof="commitment"))
    [row] = requests(where)

    partial = commitment.Report(row.transaction_uid, frozenset({str(objects[0].SOPInstanceUID)}))
    status = commitment.take_report(where.database, where.settings.delivering, partial, peer="ARCHIVE", at=utc_now())

    assert status == 0x0000
    assert state(where, number) == (DeliveryState.PENDING, "commitment-failed")


def test_a_report_on_an_earlier_sending_moves_nothing(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database, report_wait_s=0.0)
    objects = results()
    number = waiting(where, objects)
    with running(Archive(reports="never")) as archive:
        until_idle(where, archive.destination(proof="commitment"))
    [row] = requests(where)
    with where.database.write() as session:
        queue.reopen_delivery(session, session.get_one(Delivery, number), at=utc_now())

    everything = commitment.Report(row.transaction_uid, frozenset(str(one.SOPInstanceUID) for one in objects))
    status = commitment.take_report(where.database, where.settings.delivering, everything, peer="ARCHIVE", at=utc_now())

    assert status == 0x0000
    assert state(where, number)[0] == DeliveryState.PENDING
    assert requests(where)[0].state == "SUPERSEDED"


def test_without_a_report_in_time_the_archive_is_queried(tmp_path: Path, database: Database, archive: Archive) -> None:
    archive.reports = "never"
    where = made(tmp_path, database, report_wait_s=0.0)
    number = waiting(where, results())
    here = archive.destination(proof="commitment")
    until_idle(where, here)
    assert state(where, number)[0] == DeliveryState.STORED

    let_time_pass(where, here.proof_timeout_s)
    until_idle(where, here)

    assert state(where, number)[0] == DeliveryState.COMMITTED
    [row] = requests(where)
    assert (row.kind, row.state) == ("query", "CONFIRMED")


def test_without_storage_commitment_the_archive_is_queried(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())
    with running(Archive(commits=False)) as archive:
        until_idle(where, archive.destination(proof="commitment"))

    assert state(where, number)[0] == DeliveryState.COMMITTED
    assert "retrieved and compared" in (requests(where)[0].detail or "")


def test_an_archive_that_does_not_commit_the_class_is_queried(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = made(tmp_path, database)
    objects = results()
    number = waiting(where, objects)
    archive.failing = {str(objects[1].SOPInstanceUID): 0x0122}

    until_idle(where, archive.destination(proof="commitment"))

    assert state(where, number)[0] == DeliveryState.COMMITTED
    assert archive.stored == 2


# ------------------------------------------------------------------------------------------------- query


def test_an_archive_without_retrieval_is_believed_as_far_as_it_lists(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())
    with running(Archive(gives=False)) as archive:
        until_idle(where, archive.destination(proof="query"))

    assert state(where, number)[0] == DeliveryState.COMMITTED
    assert "listed by C-FIND and compared: SOPClassUID, StudyInstanceUID" in (requests(where)[0].detail or "")


def test_an_archive_that_can_not_be_asked_leaves_it_stored(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())
    with running(Archive(commits=False, finds=False, gives=False)) as archive:
        until_idle(where, archive.destination(proof="commitment"))

    assert state(where, number)[0] == DeliveryState.STORED
    assert requests(where)[0].state == "UNPROVABLE"


def test_an_archive_that_keeps_another_object_is_found_out_and_ends_as_a_dead_letter(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database, give_up_after_failed_proofs=2)
    objects = results()
    number = waiting(where, objects)
    old = deepcopy(objects[0])
    old.ContentSequence[0].TextValue = "Something else"
    with running(Archive(kept={str(old.SOPInstanceUID): old})) as archive:
        here = archive.destination(proof="query")

        wait_until("it is a dead letter", lambda: until_idle(where, here) or state(where, number)[0] == "FAILED", 20)

        assert state(where, number) == (DeliveryState.FAILED, "content-differs")
        assert archive.stored == 3, "the one that was kept is not sent again"
        del archive.kept[str(old.SOPInstanceUID)]
        with where.database.write() as session:
            acting.resubmit(session, user="somebody", job_id=None, delivery_id=number, study="")
        until_idle(where, here)

    assert state(where, number)[0] == DeliveryState.COMMITTED


def test_an_archive_that_forgets_is_asked_until_the_deadline_and_sent_to_again(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())
    with running(Archive(forgets=True)) as archive:
        here = archive.destination(proof="query")
        assert workflow.deliver(where, here, worker="s")
        assert proof.prove(where, here)
        assert state(where, number)[0] == DeliveryState.STORED

        let_time_pass(where, here.proof_timeout_s)
        assert proof.prove(where, here)
        assert state(where, number) == (DeliveryState.PENDING, "not-found")
        archive.forgets = False
        wait_until("it is committed", lambda: until_idle(where, here) or state(where, number)[0] == "COMMITTED", 20)


def test_an_archive_that_is_down_is_asked_again_later(tmp_path: Path, database: Database, archive: Archive) -> None:
    where = made(tmp_path, database)
    number = waiting(where, results())
    here = archive.destination(proof="query")
    assert workflow.deliver(where, here, worker="s")
    archive.stop()

    assert proof.prove(where, here)
    let_time_pass(where, here.proof_timeout_s)
    assert proof.prove(where, here)

    assert state(where, number)[0] == DeliveryState.STORED, "what cannot be asked is not missing"
    archive.start()
    wait_until("it is committed", lambda: until_idle(where, here) or state(where, number)[0] == "COMMITTED", 20)


def test_files_of_an_unproven_delivery_are_not_purged(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database, report_wait_s=0.0)
    waiting(where, results())
    with where.database.write() as session:
        session.execute(update(Study).values(state="SETTLED", settled_at=utc_now()))
    later = utc_now() + timedelta(days=30)
    with running(Archive(reports="never")) as archive:
        until_idle(where, archive.destination(proof="commitment"))
    assert workflow.purge(where, at=later) == 0

    [row] = requests(where)
    uids = frozenset(str(one.SOPInstanceUID) for one in results())
    commitment.take_report(
        where.database, where.settings.delivering, commitment.Report(row.transaction_uid, uids), peer="", at=utc_now()
    )

    assert workflow.purge(where, at=later) == 1


# ------------------------------------------------------------------------------------------------- Orthanc


def to_orthanc(orthanc: Orthanc, **changes: object) -> Destination:
    values = {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port, "timeout_s": 10, **changes}
    return Destination.model_validate(values)


@pytest.mark.peer
def test_orthanc_commits_on_an_association_of_its_own(tmp_path: Path, database: Database) -> None:
    where = made(tmp_path, database, report_wait_s=0.0)
    number = waiting(where, results())
    with listening(where) as port, running_orthanc(Orthanc(tmp_path / "orthanc", knows=("FOVEA", port))) as orthanc:
        until_idle(where, to_orthanc(orthanc, proof="commitment"))
        wait_until("Orthanc has reported", lambda: state(where, number)[0] == DeliveryState.COMMITTED, 30)

    assert requests(where)[0].detail == "commitment"


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_orthanc_is_queried_and_its_old_object_found_out(tmp_path: Path, sqlite_database: Database, kind: str) -> None:
    where = made(tmp_path, sqlite_database, give_up_after_failed_proofs=1)
    good, bad = results(1), results(2)
    old = deepcopy(bad[0])
    old.ContentSequence[0].TextValue = "Something else"
    with running_orthanc(Orthanc(tmp_path / "orthanc", knows=("FOVEA", 1))) as orthanc:
        here = to_orthanc(orthanc, proof="query")
        if kind == "stow":
            here = Destination(name="pacs", kind="stow", url=orthanc.dicomweb, proof="query")
        first = waiting(where, good)
        wait_until("it is committed", lambda: until_idle(where, here) or state(where, first)[0] == "COMMITTED", 30)
        send_datasets(to_orthanc(orthanc), "FOVEA", [old])
        second = waiting(where, bad)
        wait_until("it is a dead letter", lambda: until_idle(where, here) or state(where, second)[0] == "FAILED", 30)

    assert "retrieved and compared" in (requests(where)[0].detail or "")
    assert state(where, second) == (DeliveryState.FAILED, "content-differs")
    assert str(old.SOPInstanceUID) in (requests(where)[1].detail or "")
