"""The listener over real connections: who is heard, what Success means, what each refusal looks like on the wire."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from sqlalchemy import select

from dicom_node import scu, store
from dicom_node.intake import Status
from dicom_node.scp import Listener
from dicom_node.settings import Destination, Peer, Receive, ReceivePath
from dicom_node.simulator import send_datasets
from storage.database import Database
from storage.events import EventKind
from storage.models import Association, Instance
from storage.reception import open_association
from storage.spool import Area, Spool
from storage.states import StudyState
from tests import studies
from tests.network import (
    CALLED,
    CALLING,
    EXPLICIT,
    IMPLICIT,
    MR,
    RELEASE_RQ,
    VERIFICATION,
    Running,
    Wire,
    free_port,
    listening,
    p_data,
    run_storescu,
    store_command,
    storescu,
    wait_until,
)
from tests.peers import program
from tests.studies import Patient, Plan

SMALL = Plan(slices=3, rows=16, columns=16)


@pytest.fixture
def running(sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> Iterator[Running]:
    with listening(sqlite_database, spool, path=receive_path) as node:
        yield node


def destination(node: Running) -> Destination:
    return Destination(name="node", ae_title=CALLED, host="127.0.0.1", port=node.port, timeout_s=20)


def one_image(**changes: object) -> tuple[str, bytes]:
    """SOP Instance UID and bytes of one small image."""
    dataset = studies.series(replace(SMALL, slices=1))[0]
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return str(dataset.SOPInstanceUID), studies.encoded(dataset)


@pytest.mark.feature("R1")
@pytest.mark.peer
class TestDcmtk:
    def test_echoscu_is_answered(self, running: Running) -> None:
        command = [program("echoscu"), "-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(running.port)]

        done = subprocess.run(command, capture_output=True, text=True, timeout=30)

        assert done.returncode == 0, done.stderr

    def test_what_storescu_sends_is_kept_byte_for_byte(self, running: Running, tmp_path: Path) -> None:
        datasets = studies.series(SMALL)

        output = storescu(running.port, studies.save(datasets, tmp_path / "out"))

        assert output.count("Received Store Response (Success)") == 3
        rows = running.instances()
        assert {row.sop_instance_uid for row in rows} == {one.SOPInstanceUID for one in datasets}
        for row, sent in zip(rows, datasets, strict=True):
            path = running.spool.path(row.path or "")
            kept = dcmread(path)
            assert path.read_bytes().endswith(studies.encoded(sent))
            assert row.size == len(studies.encoded(sent))
            assert kept.file_meta.TransferSyntaxUID == EXPLICIT
            assert kept.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
            assert kept.file_meta.SourceApplicationEntityTitle == CALLING

    @pytest.mark.parametrize(
        ("option", "syntax"),
        [("-xs", "1.2.840.10008.1.2.4.70"), ("-xr", "1.2.840.10008.1.2.5"), ("-xt", "1.2.840.10008.1.2.4.80"),
         ("-xv", "1.2.840.10008.1.2.4.90"), ("-xi", IMPLICIT), ("-xb", ExplicitVRBigEndian),
         ("-xd", DeflatedExplicitVRLittleEndian)],
    )  # fmt: skip
    def test_storescu_may_propose_any_syntax(self, running: Running, tmp_path: Path, option: str, syntax: str) -> None:
        image = studies.series(replace(SMALL, slices=1, rows=64, columns=64))[0]
        if syntax in studies.COMPRESSED_SYNTAXES:
            image = studies.compressed(image, syntax)
        elif syntax != "1.2.840.10008.1.2.4.70":
            image = studies.recoded(image, syntax)

        storescu(running.port, studies.save([image], tmp_path / "out"), option)

        (row,) = running.instances()
        assert dcmread(running.spool.path(row.path or "")).file_meta.TransferSyntaxUID == row.transfer_syntax_uid

    def test_file_passes_dciodvfy(self, running: Running, tmp_path: Path) -> None:
        storescu(running.port, studies.save(studies.series(replace(SMALL, slices=1)), tmp_path / "out"))

        (row,) = running.instances()
        path = str(running.spool.path(row.path or ""))
        done = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")]

    @pytest.mark.feature("R2")
    def test_stranger_is_turned_away(self, running: Running, tmp_path: Path) -> None:
        files = studies.save(studies.series(replace(SMALL, slices=1)), tmp_path / "out")

        done = run_storescu(running.port, files, calling="STRANGER")

        assert done.returncode != 0
        assert "Calling AE Title Not Recognized" in done.stdout

    def test_parallel_senders_lose_nothing(self, running: Running, tmp_path: Path) -> None:
        plans = [replace(SMALL, slices=12, series=str(number), series_number=number) for number in range(1, 6)]
        folders = [studies.save(studies.series(plan), tmp_path / plan.series) for plan in plans]

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda files: storescu(running.port, files), folders))

        assert len(running.instances()) == 60
        (study,) = running.studies()
        assert study.state == StudyState.RECEIVING
        assert len(list(running.spool.files(Area.INSTANCES))) == 60


@pytest.mark.feature("R2")
class TestRejections:
    @pytest.mark.parametrize(
        ("calling", "called", "answer"),
        [("STRANGER", CALLED, (1, 1, 3)), (CALLING, "OTHER", (1, 1, 7)), ("STRANGER", "OTHER", (1, 1, 7))],
    )
    def test_titles_that_are_not_known(self, running: Running, calling: str, called: str, answer: tuple[int, int, int]) -> None:
        with Wire(running.port) as wire:
            kind, content = wire.associate(calling=calling, called=called)

        assert kind == 3
        assert tuple(content[1:4]) == answer
        wait_until(lambda: len(running.events(EventKind.ASSOCIATION_REFUSED)) == 1)
        (event,) = running.events(EventKind.ASSOCIATION_REFUSED)
        assert (event.peer, event.address) == (calling, "127.0.0.1")
        assert not running.rows(Association)

    def test_no_peers_means_nobody(self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> None:
        with listening(sqlite_database, spool, path=receive_path, peers=()) as node, Wire(node.port) as wire:
            assert wire.associate()[1][1:4] == b"\x01\x01\x03"

    def test_known_title_from_another_address(self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> None:
        peers = [Peer(ae_title=CALLING, addresses=("10.1.2.0/24", "192.168.7.7"))]

        with listening(sqlite_database, spool, path=receive_path, peers=peers) as node, Wire(node.port) as wire:
            assert wire.associate()[1][1:4] == b"\x01\x01\x03"
            wait_until(lambda: len(node.events(EventKind.ASSOCIATION_REFUSED)) == 1)

        (event,) = node.events(EventKind.ASSOCIATION_REFUSED)
        assert "address" in event.detail["reason"]

    @pytest.mark.feature("R4")
    @pytest.mark.parametrize("limit", ["maximum_associations", "maximum_associations_per_peer"])
    def test_association_limit(self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath, limit: str) -> None:
        receive = Receive.model_validate({limit: 2, "acse_timeout_s": 3})

        with listening(sqlite_database, spool, path=receive_path, receive=receive) as node:
            with Wire(node.port) as first, Wire(node.port) as second, Wire(node.port) as third:
                assert [first.associate()[0], second.associate()[0]] == [2, 2]
                kind, content = third.associate()
                assert (kind, tuple(content[1:4])) == (3, (2, 3, 2))
                first.send(RELEASE_RQ)
                assert first.receive()[0] == 6
                wait_until(lambda: node.listener.associations == 1)
                with Wire(node.port) as fourth:
                    assert fourth.associate()[0] == 2

    @pytest.mark.feature("R7")
    def test_disk_below_its_reserve(self, sqlite_database: Database, tmp_path: Path, receive_path: ReceivePath) -> None:
        full = Spool(tmp_path / "full", 2**60)

        with listening(sqlite_database, full, path=receive_path) as node, Wire(node.port) as wire:
            kind, content = wire.associate()

        assert (kind, tuple(content[1:4])) == (3, (2, 3, 1))

    def test_context_results_follow_what_is_accepted(self, running: Running) -> None:
        contexts = [
            (MR, (EXPLICIT, IMPLICIT)),
            ("1.2.840.10008.5.1.4.31", (IMPLICIT,)),  # modality worklist: no storage class
            (MR, ("1.2.840.10008.1.2.4.100",)),  # MPEG-2: no decoder here
            (VERIFICATION, (IMPLICIT,)),
        ]
        with Wire(running.port) as wire:
            kind, content = wire.associate(contexts)

        assert kind == 2
        items = {}
        position = 68
        while position < len(content):
            kind, length = struct.unpack_from(">BxH", content, position)
            if kind == 0x21:
                items[content[position + 4]] = content[position + 6]
            position += 4 + length
        assert items == {1: 0, 3: 3, 5: 4, 7: 0}


@pytest.mark.feature("R5")
class TestAnswers:
    def exchange(self, node: Running, command: bytes, data: bytes) -> dict[int, bytes]:
        with Wire(node.port) as wire:
            assert wire.associate()[0] == 2
            wire.store(command, data)
            answer = wire.response()
            wire.send(RELEASE_RQ)
            assert wire.receive()[0] == 6
        return answer

    def status(self, node: Running, command: bytes, data: bytes) -> int:
        return struct.unpack("<H", self.exchange(node, command, data)[0x0900])[0]

    def test_response_names_the_request(self, running: Running) -> None:
        uid, data = one_image()

        answer = self.exchange(running, store_command(uid), data)

        assert answer[0x0100] == struct.pack("<H", 0x8001)
        assert answer[0x0120] == struct.pack("<H", 7)
        assert answer[0x0002].rstrip(b"\0").decode() == MR
        assert answer[0x1000].rstrip(b"\0").decode() == uid
        assert answer[0x0900] == b"\0\0"
        length = sum(8 + len(value) for number, value in answer.items() if number)
        assert answer[0] == struct.pack("<I", length)

    def test_missing_instance_uid_is_answered_at_once(self, running: Running) -> None:
        assert self.status(running, store_command(None), one_image()[1]) == Status.INVALID_SOP_INSTANCE

    @pytest.mark.parametrize("uid", [b"../../../etc/passwd", b"1.2.3\n4", b"1.2\x003.4", b"1" * 80, b"1..2", b"\xff\xfe"])
    def test_illegal_instance_uid_never_becomes_a_path(self, running: Running, uid: bytes) -> None:
        assert self.status(running, store_command(uid), one_image()[1]) == Status.INVALID_SOP_INSTANCE

        assert not running.instances()
        wait_until(lambda: len(running.events(EventKind.INSTANCE_REFUSED)) == 1)
        (event,) = running.events(EventKind.INSTANCE_REFUSED)
        padded = uid + b"\0" if len(uid) % 2 else uid
        assert bytes.fromhex(event.detail["sop instance uid"]).decode()[:4] == padded.decode("latin-1")[:4]

    def test_uid_that_differs_from_the_command(self, running: Running) -> None:
        answer = self.exchange(running, store_command("1.2.3.4"), one_image()[1])

        assert struct.unpack("<H", answer[0x0900])[0] == Status.DOES_NOT_MATCH
        assert struct.unpack("<HH", answer[0x0901]) == (0x0008, 0x0018)
        assert len(answer[0x0902]) <= 64

    def test_class_that_is_not_the_contexts(self, running: Running) -> None:
        uid, data = one_image()

        assert self.status(running, store_command(uid, str(CTImageStorage)), data) == Status.SOP_CLASS_NOT_SUPPORTED

    @pytest.mark.parametrize("size", [0, 1, 200, 5000])
    def test_random_bytes_are_not_understood(self, running: Running, size: int) -> None:
        uid, _ = one_image()
        data = random.Random(size).randbytes(size)

        assert self.status(running, store_command(uid), data) in (Status.CANNOT_UNDERSTAND, Status.DOES_NOT_MATCH)
        assert not running.instances()
        assert not list(running.spool.files(Area.INSTANCES))

    def test_command_without_data_set(self, running: Running) -> None:
        uid, _ = one_image()
        with Wire(running.port) as wire:
            wire.associate()
            wire.send(p_data(1, 3, store_command(uid, has_data=False)))

            assert wire.status() == Status.DOES_NOT_MATCH

    def test_context_that_was_not_accepted_is_aborted(self, running: Running) -> None:
        uid, data = one_image()
        with Wire(running.port) as wire:
            wire.associate()
            wire.store(store_command(uid), data, context_id=9)

            assert wire.receive()[0] in (7, 0)
        assert not running.instances()

    def test_command_in_many_fragments_and_small_response_pdus(self, running: Running) -> None:
        uid, data = one_image()
        command = store_command(uid)
        with Wire(running.port) as wire:
            wire.associate(maximum_pdu=64)
            for start in range(0, len(command), 10):
                wire.send(p_data(1, 3 if start + 10 >= len(command) else 1, command[start : start + 10]))
            for start in range(0, len(data), 100):
                wire.send(p_data(1, 2 if start + 100 >= len(data) else 0, data[start : start + 100]))

            assert wire.status() == 0

        assert len(running.instances()) == 1

    @pytest.mark.feature("R4")
    def test_object_above_the_limit(self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> None:
        uid, _ = one_image()
        with (
            listening(sqlite_database, spool, path=receive_path, receive=Receive(maximum_object_mb=6)) as node,
            Wire(node.port) as wire,
        ):
            wire.associate()
            wire.store(store_command(uid), bytes(7 * 1024 * 1024), chunk=120_000)
            answer = wire.response()

            assert struct.unpack("<H", answer[0x0900])[0] == Status.OUT_OF_RESOURCES
            assert b"exceeds limit" in answer[0x0902]
            assert not list((spool.root / "temporary").iterdir())

            uid, data = one_image()
            wire.store(store_command(uid), data)
            assert wire.status() == 0

    def test_large_object_goes_through_the_disk(self, running: Running) -> None:
        plan = Plan(slices=1, rows=1600, columns=1600)
        image = studies.series(plan)[0]
        data = studies.encoded(image)
        assert len(data) > store.HELD_IN_MEMORY_BYTES

        assert self.status(running, store_command(str(image.SOPInstanceUID)), data) == 0

        (row,) = running.instances()
        assert running.spool.path(row.path or "").read_bytes().endswith(data)
        assert self.status(running, store_command("1.2.3"), data) == Status.DOES_NOT_MATCH
        assert len(list(running.spool.files(Area.INSTANCES))) == 1

    @pytest.mark.parametrize("size", [16, 1600], ids=["in memory", "on disk"])
    def test_object_without_study_uid_is_kept_for_a_person(self, running: Running, size: int) -> None:
        image = studies.series(Plan(slices=1, rows=size, columns=size))[0]
        del image.StudyInstanceUID
        data = studies.encoded(image)

        assert self.status(running, store_command(str(image.SOPInstanceUID)), data) == Status.DOES_NOT_MATCH

        wait_until(lambda: len(running.rejected()) == 1)
        (row,) = running.rejected()
        assert running.spool.path(row.path or "").read_bytes().endswith(data)
        assert row.size == len(data)
        assert not running.instances()

    def test_no_room_is_out_of_resources_and_leaves_nothing(
        self, sqlite_database: Database, tmp_path: Path, receive_path: ReceivePath
    ) -> None:
        spool = Spool(tmp_path / "spool", 0)
        with listening(sqlite_database, spool, path=receive_path) as node, Wire(node.port) as wire:
            wire.associate()
            uid, data = one_image()
            blocked = spool.root / "temporary"
            moved = blocked.rename(spool.root / "elsewhere")
            wire.store(store_command(uid), data)

            assert wire.status() == Status.OUT_OF_RESOURCES
            assert not node.instances()

            moved.rename(blocked)
            wire.store(store_command(uid), data)
            assert wire.status() == 0


class TestRepetition:
    def test_identical_bytes_again_are_a_success_without_a_second_copy(self, running: Running) -> None:
        for _ in range(2):
            send_datasets(destination(running), CALLING, studies.series(SMALL))

        assert len(running.instances()) == 3
        assert len(list(running.spool.files(Area.INSTANCES))) == 3
        wait_until(lambda: len(running.events(EventKind.INSTANCES_RECEIVED)) == 2)
        assert [event.detail["repeated"] for event in running.events(EventKind.INSTANCES_RECEIVED)] == [0, 3]

    def test_other_pixels_under_the_same_uid_are_kept_aside(self, running: Running) -> None:
        image = studies.series(replace(SMALL, slices=1))[0]
        send_datasets(destination(running), CALLING, [image])
        first = studies.encoded(image)
        image.PixelData = bytes(len(image.PixelData))
        with Wire(running.port) as wire:
            wire.associate()
            wire.store(store_command(str(image.SOPInstanceUID)), studies.encoded(image))

            assert wire.status() == Status.DOES_NOT_MATCH

        (row,) = running.instances()
        assert running.spool.path(row.path or "").read_bytes().endswith(first)
        (aside,) = running.rejected()
        assert running.spool.path(aside.path or "").read_bytes().endswith(studies.encoded(image))
        assert running.studies()[0].state == StudyState.QUARANTINED

    def test_other_patient_in_the_same_study_is_stored_and_held(self, running: Running) -> None:
        other = replace(SMALL, series="other", patient=Patient(patient_id="TEST-0002"))

        send_datasets(destination(running), CALLING, studies.series(SMALL))
        send_datasets(destination(running), CALLING, studies.series(other))

        assert sorted(row.held for row in running.instances()) == [False] * 3 + [True] * 3
        assert running.studies()[0].state == StudyState.QUARANTINED

    @pytest.mark.feature("D6")
    def test_objects_that_are_no_images_start_no_study(self, running: Running) -> None:
        captured, report = studies.secondary_capture(), studies.structured_report(manufacturer="Fovea")

        send_datasets(destination(running), CALLING, [captured, report])

        assert [row.own for row in running.instances()] == [False, True]
        assert running.studies()[0].state == StudyState.SETTLED


@pytest.mark.feature("R6")
class TestDurability:
    def test_association_and_its_end_are_rows(self, running: Running) -> None:
        send_datasets(destination(running), CALLING, studies.series(SMALL))

        wait_until(lambda: len(running.events(EventKind.ASSOCIATION_CLOSED)) == 1)
        (association,) = running.rows(Association)
        assert (association.calling_ae_title, association.outcome) == (CALLING, "released")
        (received,) = running.events(EventKind.INSTANCES_RECEIVED)
        assert received.detail["instances"] == 3
        assert received.study_instance_uid == SMALL.study_instance_uid

    def test_what_was_answered_before_an_abort_stays(self, running: Running) -> None:
        uid, data = one_image()
        with Wire(running.port) as wire:
            wire.associate()
            wire.store(store_command(uid), data)
            assert wire.status() == 0
            wire.send(p_data(1, 3, store_command("1.2.3")) + p_data(1, 0, data[:500]))

        wait_until(lambda: len(running.events(EventKind.ASSOCIATION_CLOSED)) == 1)
        assert running.events(EventKind.ASSOCIATION_CLOSED)[0].detail["outcome"] == "aborted"
        assert [row.sop_instance_uid for row in running.instances()] == [uid]
        assert not list((running.spool.root / "temporary").iterdir())

    def test_broken_connection_in_a_large_object_leaves_no_file(self, running: Running, receive_path: ReceivePath) -> None:
        with Wire(running.port) as wire:
            wire.associate()
            wire.send(p_data(1, 3, store_command("1.2.3")))
            for _ in range(60):
                wire.send(p_data(1, 0, bytes(100_000)))
            if receive_path == "stream":  # the plain path holds it in memory until it is whole
                wait_until(lambda: any((running.spool.root / "temporary").iterdir()))

        wait_until(lambda: not any((running.spool.root / "temporary").iterdir()))
        wait_until(lambda: running.listener.associations == 0)

    def test_association_left_open_by_a_killed_listener_is_closed_at_start(
        self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath
    ) -> None:
        with listening(sqlite_database, spool, path=receive_path) as node:
            at = node.listener._now()
        with sqlite_database.write() as session:
            open_association(session, calling=CALLING, called=CALLED, address="127.0.0.1", listener=CALLED, at=at)

        with listening(sqlite_database, spool, path=receive_path) as node:
            outcomes = [row.outcome for row in node.rows(Association)]

        assert outcomes == ["interrupted"]

    def test_locked_database_is_out_of_resources_and_recovers(self, running: Running) -> None:
        uid, data = one_image()
        with Wire(running.port, timeout_s=40) as wire:
            wire.associate()
            path = running.settings.storage.spool.parent / "database" / "fovea.sqlite"
            other = sqlite3.connect(path, isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
                wire.store(store_command(uid), data)
                assert wire.status() == Status.OUT_OF_RESOURCES
            finally:
                other.close()
            assert not list(running.spool.files(Area.INSTANCES))

            wire.store(store_command(uid), data)
            assert wire.status() == 0
        assert len(running.instances()) == 1

    def test_stop_aborts_what_is_open_and_notes_it(
        self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath
    ) -> None:
        with listening(sqlite_database, spool, path=receive_path) as node:
            wire = Wire(node.port)
            assert wire.associate()[0] == 2
        with wire:
            assert wire.receive()[0] in (7, 0)

        assert [row.outcome for row in node.rows(Association)] == ["interrupted"]

    def test_port_is_free_after_stop(self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> None:
        with listening(sqlite_database, spool, path=receive_path) as node:
            port = node.port
            settings = node.settings.model_copy(update={"node": node.settings.node.model_copy(update={"port": port})})

        again = Listener(settings, sqlite_database, spool)
        try:
            assert again.start() == port
        finally:
            again.stop()


@pytest.mark.feature("R6")
class TestRowWriter:
    def test_work_that_fails_takes_no_other_row_with_it(self, running: Running) -> None:
        rows = running.listener.service._rows
        gate, entered = threading.Event(), threading.Event()
        rows.post(lambda _session: (entered.set(), gate.wait(5)))
        assert entered.wait(5)
        at = running.listener._now()

        def opening(number: int) -> int:
            def work(session: object) -> int:
                made = open_association(
                    session,  # type: ignore[arg-type]
                    calling=f"PEER{number}",
                    called=CALLED,
                    address="127.0.0.1",
                    listener="other",
                    at=at,
                )
                if number == 2:
                    raise ZeroDivisionError
                return made

            return rows.call(str(number), work)

        with ThreadPoolExecutor(5) as pool:
            futures = [pool.submit(opening, number) for number in range(5)]
            wait_until(lambda: rows._waiting.qsize() == 5)
            gate.set()
            errors = [type(future.exception()) for future in futures]

        assert errors == [type(None), type(None), ZeroDivisionError, type(None), type(None)]
        titles = {row.calling_ae_title for row in running.rows(Association)}
        assert titles == {"PEER0", "PEER1", "PEER3", "PEER4"}

    def test_rows_are_there_when_success_is_answered(self, running: Running) -> None:
        uid, data = one_image()
        with Wire(running.port) as wire:
            wire.associate()
            wire.store(store_command(uid), data)
            assert wire.status() == 0
            with running.database.read() as session:
                path = session.scalars(select(Instance.path).where(Instance.sop_instance_uid == uid)).one()

        assert path is not None
        assert running.spool.path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.feature("R1")
@pytest.mark.parametrize("syntax", [IMPLICIT, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_modality_may_send_other_encodings(running: Running, syntax: str) -> None:
    image = studies.recoded(studies.series(replace(SMALL, slices=1))[0], syntax)

    (sent,) = send_datasets(destination(running), CALLING, [image])

    assert sent.status == "0x0000"
    assert running.instances()[0].transfer_syntax_uid == syntax


@pytest.mark.feature("R6")
def test_killed_listener_has_everything_it_acknowledged(tmp_path: Path) -> None:
    """F25, F26: kill -9 in the middle of a study; what was answered 0x0000 is there, and a re-send ends with one copy of each."""
    items, _ = scu.outgoing(studies.save(studies.series(replace(SMALL, slices=60)), tmp_path / "out"))
    acknowledged: list[str] = []

    with listener_process(tmp_path) as (process, node):

        def on_each(sent: scu.Sent) -> None:
            acknowledged.append(sent.sop_instance_uid)
            if len(acknowledged) == 20:
                process.kill()

        error = scu.send(node, "BENCH", items, on_each)

    assert error is not None
    assert not error.permanent
    database, spool = Database(f"sqlite:///{tmp_path / 'fovea.sqlite'}"), Spool(tmp_path / "spool", 0)
    kept = digests(database, spool)
    assert set(acknowledged) <= kept.keys()

    with listener_process(tmp_path) as (process, node):
        assert scu.send(node, "BENCH", items, lambda _: None) is None
        process.terminate()
        process.wait(20)

    kept = digests(database, spool)
    assert len(kept) == 60
    assert not list((spool.root / "temporary").iterdir())
    with database.read() as session:
        outcomes = [row.outcome for row in session.scalars(select(Association).order_by(Association.id))]
    assert "interrupted" in outcomes
    assert None not in outcomes
    database.dispose()


@pytest.mark.feature("R6")
@pytest.mark.peer
@pytest.mark.slow
def test_file_folder_and_row_are_synced_before_success_leaves(tmp_path: Path) -> None:
    """F25: a system-call trace of the listener; between two answers each of the three syncs has returned."""
    trace = tmp_path / "trace"
    prefix = [program("strace"), "-f", "-y", "-e", "trace=fsync,fdatasync,sendto", "-o", str(trace)]
    images = studies.series(replace(SMALL, slices=4))

    with listener_process(tmp_path, prefix) as (process, node):
        assert {sent.status for sent in send_datasets(node, "BENCH", images)} == {"0x0000"}
        for traced in psutil.Process(process.pid).children():
            traced.terminate()
        process.wait(60)

    done = list(returned_calls(trace.read_text().splitlines()))
    answers = [index for index, call in enumerate(done) if call.startswith("sendto") and r', "\4\0' in call]
    assert len(answers) >= 4
    start = 0
    for image, end in zip(images, answers[-4:], strict=True):
        name = hashlib.sha256(image.SOPInstanceUID.encode()).hexdigest()
        before = done[start:end]
        folder = f"/instances/{name[:2]}"
        assert any(call.startswith("fsync") and f"{folder}/{name}-" in call for call in before), "the file"
        assert any(call.startswith("fsync") and f"{folder}>" in call for call in before), "its folder"
        assert any("sync" in call and "fovea.sqlite-wal>" in call for call in before), "the row"
        start = end


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
        elif "resumed>" in call and call.endswith("= 0"):
            yield begun.pop(thread)
        elif "resumed>" not in call and ("= 0" in call or call.startswith("sendto")):
            yield call


def digests(database: Database, spool: Spool) -> dict[str, str]:
    """The digest of each instance's file, which must be the row's."""
    with database.read() as session:
        rows = list(session.scalars(select(Instance)))
        found = {}
        for row in rows:
            data = spool.path(row.path or "").read_bytes()[-row.size :]
            assert hashlib.sha256(data).hexdigest() == row.digest
            found[row.sop_instance_uid] = row.digest
    return found


@contextmanager
def listener_process(folder: Path, prefix: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[bytes], Destination]]:
    """A listener in its own process that accepts BENCH, and how to send to it; `prefix` is a program that runs it."""
    port = free_port()
    command = [*prefix, sys.executable, "-m", "tests.benchmarks.serve_listener", str(folder), str(port)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            node = Destination(name="node", ae_title=CALLED, host="127.0.0.1", port=port, timeout_s=10)
            wait_until(lambda: scu.echo(node, "BENCH") is None, 90)
            yield process, node
        finally:
            if process.poll() is None:
                for one in psutil.Process(process.pid).children():
                    one.kill()
            process.kill()
            process.wait(10)
