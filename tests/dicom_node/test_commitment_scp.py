"""Storage commitment as SCP: what is committed, what is not and why, and how the report finds its way (PS3.4 J.3)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context, build_role, evt

from dicom_node.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, referenced
from dicom_node.settings import Delivering, Destination, Peer, Receive
from storage.database import Database
from storage.events import EventKind
from storage.models import Pledge
from storage.spool import Spool
from tests import studies
from tests.network import CALLED, CALLING, Running, listening, storescu, wait_until
from tests.peers import Orthanc, running_orthanc, save
from tests.studies import Plan
from tests.waiting import free_port

pytestmark = pytest.mark.feature("R8")
MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
QUICKLY = Delivering(retry_after_s=0.1, retry_at_most_s=0.2)
TIME_TO_RELEASE = Receive(acse_timeout_s=10, network_timeout_s=20, commitment_settle_s=3)
"""The peer's release comes before its report is due, however busy the machine is."""


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """One for all: its folders take longer to remove than a test to run, and each test has rows of its own."""
    return Spool(tmp_path_factory.mktemp("node") / "spool", 0)


@dataclass(slots=True)
class Requestor:
    """A modality that asks for commitment, and listens for reports on a port of its own where it is started."""

    port: int = field(default_factory=free_port)
    calling: str = CALLING
    answers: int = 0x0000
    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    _server: Any = None

    def start(self) -> None:
        """Listen for reports."""
        entity = AE(ae_title=self.calling)
        entity.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()

    def ask(
        self, node_port: int, items: dict[str, str], transaction_uid: str, *, stay: bool = False, action: int = 1,
        instance: str = PUSH_MODEL_INSTANCE,
    ) -> int:  # fmt: skip
        """The status of an N-ACTION; `stay`: keep the association open until a report came over it."""
        came = threading.Event()

        def on_report(event: Any) -> tuple[int, None]:
            answer = self._on_report(event)
            came.set()
            return answer

        entity = AE(ae_title=self.calling)
        association: Any = entity.associate(
            "127.0.0.1", node_port, ae_title=CALLED, contexts=[build_context(PUSH_MODEL)],
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
        )  # fmt: skip
        assert association.is_established
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ReferencedSOPSequence = [referenced(sop_class, uid) for uid, sop_class in items.items()]
        status, _ = association.send_n_action(information, action, PUSH_MODEL, instance)
        if stay:
            assert came.wait(20)
        association.release()
        return int(status.Status)

    def report(self, number: int = 0) -> tuple[int, set[str], dict[str, int]]:
        """Event type, committed UIDs, and failed ones with their reason."""
        event_type, information = self.reports[number]
        done = {str(one.ReferencedSOPInstanceUID) for one in information.get("ReferencedSOPSequence") or []}
        failed = information.get("FailedSOPSequence") or []
        return event_type, done, {str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in failed}

    def _on_report(self, event: Any) -> tuple[int, None]:
        self.reports.append((int(event.request.EventTypeID), event.event_information))
        return self.answers, None


@pytest.fixture
def modality() -> Iterator[Requestor]:
    requestor = Requestor()
    requestor.start()
    yield requestor
    requestor.stop()


@contextmanager
def node(database: Database, spool: Spool, modality: Requestor, **more: Any) -> Iterator[Running]:
    peer = Peer(ae_title=modality.calling, addresses=("127.0.0.1",), port=modality.port)
    with listening(database, spool, peers=[peer], delivering=QUICKLY, **more) as running:
        yield running


def stored(running: Running, folder: Path, slices: int = 3) -> list[str]:
    """SOP Instance UIDs of a series that the node has acknowledged."""
    images = studies.series(Plan(slices=slices, rows=16, columns=16))
    save(images, folder)
    storescu(running.port, sorted(folder.glob("*.dcm")))
    return [str(one.SOPInstanceUID) for one in images]


def transaction() -> str:
    return str(generate_uid(prefix=None))


@pytest.mark.slow
def test_what_is_on_disk_is_committed_on_the_same_association(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    with node(sqlite_database, spool, modality) as running:
        uids = stored(running, tmp_path / "images")
        name = transaction()

        assert modality.ask(running.port, dict.fromkeys(uids, MR), name, stay=True) == 0x0000

        assert modality.report() == (1, set(uids), {})
        assert modality.reports[0][1].TransactionUID == name
        wait_until(lambda: [one.state for one in running.rows(Pledge)] == ["REPORTED"])
        told = running.events(EventKind.PLEDGE_REPORTED)[0]
        assert (told.peer, told.detail["committed"], told.detail["how"]) == (CALLING, 3, "same association")


@pytest.mark.slow
def test_each_failure_has_its_reason(sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path) -> None:
    """A file that is gone, one with a flipped bit, an unknown object, another class; the rows say that all is well."""
    with node(sqlite_database, spool, modality) as running:
        good, gone, flipped, other = stored(running, tmp_path / "images", 4)
        paths = {one.sop_instance_uid: spool.path(one.path or "") for one in running.instances()}
        paths[gone].unlink()
        content = bytearray(paths[flipped].read_bytes())
        content[-5] ^= 1
        paths[flipped].write_bytes(content)

        asked = {good: MR, gone: MR, flipped: MR, other: CT, "1.2.3.4": MR}
        modality.ask(running.port, asked, transaction(), stay=True)

        assert modality.report() == (2, {good}, {gone: 0x0110, flipped: 0x0110, other: 0x0119, "1.2.3.4": 0x0112})


@pytest.mark.slow
def test_a_peer_that_released_is_called_with_the_report(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    with node(sqlite_database, spool, modality, receive=TIME_TO_RELEASE) as running:
        uids = stored(running, tmp_path / "images")

        assert modality.ask(running.port, dict.fromkeys(uids, MR), transaction()) == 0x0000

        wait_until(lambda: [one.state for one in running.rows(Pledge)] == ["REPORTED"])
        assert modality.report() == (1, set(uids), {})
        assert running.events(EventKind.PLEDGE_REPORTED)[0].detail["how"] == "new association"


@pytest.mark.slow
def test_a_destination_of_that_name_is_called_where_the_peer_has_no_port(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    archive = Destination(name="pacs", ae_title=CALLING, host="127.0.0.1", port=modality.port)
    with listening(sqlite_database, spool, delivering=QUICKLY, destinations=(archive,)) as running:
        uids = stored(running, tmp_path / "images")
        modality.ask(running.port, dict.fromkeys(uids, MR), transaction())

        wait_until(lambda: len(modality.reports) == 1)


@pytest.mark.slow
def test_a_report_survives_a_restart_and_a_peer_that_is_away(
    sqlite_database: Database, spool: Spool, tmp_path: Path
) -> None:
    modality = Requestor()
    with node(sqlite_database, spool, modality, receive=TIME_TO_RELEASE) as running:
        uids = stored(running, tmp_path / "images")
        modality.ask(running.port, dict.fromkeys(uids, MR), transaction())
        wait_until(lambda: running.rows(Pledge)[0].attempt >= 2)
        assert "no DICOM answer" in running.rows(Pledge)[0].reason

    modality.start()
    try:
        with node(sqlite_database, spool, modality) as running:
            wait_until(lambda: [one.state for one in running.rows(Pledge)] == ["REPORTED"])
    finally:
        modality.stop()
    assert modality.report() == (1, set(uids), {})


@pytest.mark.slow
def test_a_request_of_the_last_moment_is_reported_right_after_the_next_start(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    """Held for the association it came on when the node stopped; nobody waits until that hold is over."""
    with node(sqlite_database, spool, modality, receive=TIME_TO_RELEASE) as running:
        uids = stored(running, tmp_path / "images")
        modality.ask(running.port, dict.fromkeys(uids, MR), transaction())

    assert modality.reports == []
    with node(sqlite_database, spool, modality) as running:
        wait_until(lambda: [one.state for one in running.rows(Pledge)] == ["REPORTED"])
    assert modality.report() == (1, set(uids), {})


@pytest.mark.slow
def test_a_locked_database_does_not_keep_the_node_from_stopping(
    sqlite_database: Database, sqlite_url: str, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    """With five requests that are held for their associations: one wait for the lock, not one for each; their rows stay."""
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    patient = TIME_TO_RELEASE.model_copy(update={"commitment_settle_s": 8.0})
    with ExitStack() as stack:
        running = stack.enter_context(node(sqlite_database, spool, modality, receive=patient))
        uids = stored(running, tmp_path / "images")
        for _ in range(5):
            modality.ask(running.port, dict.fromkeys(uids, MR), transaction())
        other.execute("BEGIN IMMEDIATE")
        stopping = threading.Thread(target=stack.pop_all().close)
        stopping.start()
        stopping.join(45)
        other.close()

        assert not stopping.is_alive()
    assert [one.state for one in running.rows(Pledge)] == ["OPEN"] * 5


@pytest.mark.slow
def test_a_report_that_is_refused_is_sent_again(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    modality.answers = 0x0110
    with node(sqlite_database, spool, modality) as running:
        uids = stored(running, tmp_path / "images")
        modality.ask(running.port, dict.fromkeys(uids, MR), transaction())
        wait_until(lambda: len(modality.reports) >= 2)

        modality.answers = 0x0000

        wait_until(lambda: [one.state for one in running.rows(Pledge)] == ["REPORTED"])


@pytest.mark.slow
def test_the_same_request_again_is_answered_again(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    """A peer whose answer was lost; its objects are neither fewer nor a duplicate."""
    with node(sqlite_database, spool, modality) as running:
        uids = stored(running, tmp_path / "images")
        name = transaction()
        for _ in range(2):
            assert modality.ask(running.port, dict.fromkeys(uids, MR), name, stay=True) == 0x0000

        assert modality.report(0) == modality.report(1) == (1, set(uids), {})
        assert len(running.rows(Pledge)) == 1


@pytest.mark.slow
def test_a_transaction_used_for_other_objects_is_a_duplicate(
    sqlite_database: Database, spool: Spool, modality: Requestor, tmp_path: Path
) -> None:
    with node(sqlite_database, spool, modality) as running:
        first, second, _ = stored(running, tmp_path / "images")
        name = transaction()
        modality.ask(running.port, {first: MR}, name, stay=True)
        modality.ask(running.port, {second: MR}, name, stay=True)

        assert modality.report(0) == (1, {first}, {})
        assert modality.report(1) == (2, set(), {second: 0x0131})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"action": 2}, 0x0123),
        ({"instance": "1.2.3"}, 0x0112),
        ({"items": {}}, 0x0115),
        ({"items": {"1.2.3": ""}}, 0x0115),
        ({"transaction_uid": ""}, 0x0115),
    ],
    ids=["action type", "instance", "nothing", "no class", "no transaction"],
)
def test_what_is_no_request_is_refused(sqlite_database: Database, spool: Spool, changes: dict[str, Any], status: int) -> None:
    modality = Requestor()
    with node(sqlite_database, spool, modality) as running:
        request = {"items": {"1.2.3": MR}, "transaction_uid": transaction(), **changes}

        assert modality.ask(running.port, **request) == status
        assert running.rows(Pledge) == []


@pytest.mark.slow
def test_a_destination_that_may_only_report_may_not_ask(sqlite_database: Database, spool: Spool) -> None:
    archive = Destination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=104, proof="commitment")
    with listening(sqlite_database, spool, destinations=(archive,)) as running:
        assert Requestor(calling="ARCHIVE").ask(running.port, {"1.2.3": MR}, transaction()) == 0x0124

        entity = AE(ae_title="ARCHIVE")
        association: Any = entity.associate(
            "127.0.0.1", running.port, ae_title=CALLED,
            contexts=[build_context(PUSH_MODEL), build_context(MR)], ext_neg=[build_role(PUSH_MODEL, scp_role=True)],
        )  # fmt: skip
        assert [str(one.abstract_syntax) for one in association.accepted_contexts] == [PUSH_MODEL]
        information = Dataset()
        information.TransactionUID = transaction()
        status, _ = association.send_n_event_report(information, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        association.release()
        assert status.Status == 0x0115  # F41: nobody asked for that


@pytest.mark.peer
def test_orthanc_asks_and_takes_the_report(sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc")
    peers = [
        Peer(ae_title=CALLING, addresses=("127.0.0.1",)),
        Peer(ae_title=orthanc.ae_title, addresses=("127.0.0.1",), port=orthanc.port),
    ]
    with listening(sqlite_database, spool, peers=peers, delivering=QUICKLY) as running:
        uids = stored(running, tmp_path / "images")
        orthanc.knows = (CALLED, running.port)
        with running_orthanc(orthanc):
            asked = [{"SOPClassUID": MR, "SOPInstanceUID": uid} for uid in (*uids, "1.2.3.4")]
            name = orthanc.post_json("/modalities/fovea/storage-commitment", {"DicomInstances": asked})["ID"]

            wait_until(lambda: orthanc.get(f"/storage-commitment/{name}")["Status"] != "Pending", 30)
            told = orthanc.get(f"/storage-commitment/{name}")

    assert told["Status"] == "Failure"
    assert {one["SOPInstanceUID"] for one in told["Success"]} == set(uids)
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [("1.2.3.4", 0x0112)]
