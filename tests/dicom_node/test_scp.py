"""The listener over real connections: who is heard, what Success means, what each refusal looks like on the wire."""

from __future__ import annotations

import struct
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from sqlalchemy import select

from dicom_node import store
from dicom_node.intake import Status
from dicom_node.scp import Listener
from dicom_node.settings import Destination, Receive, ReceivePath
from dicom_node.simulator import send_datasets
from storage.database import Database
from storage.events import EventKind
from storage.models import Association, Instance
from storage.reception import open_association
from storage.spool import Spool
from storage.states import StudyState
from tests import studies
from tests.network import (
    CALLED,
    CALLING,
    EXPLICIT,
    IMPLICIT,
    MR,
    RELEASE_RQ,
    Running,
    Wire,
    listening,
    p_data,
    run_storescu,
    store_command,
    storescu,
    wait_until,
)
from tests.peers import program
from tests.studies import Plan

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
        assert len(running.kept()) == 60


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

    def test_command_without_data_set(self, running: Running) -> None:
        uid, _ = one_image()
        with Wire(running.port) as wire:
            wire.associate()
            wire.send(p_data(1, 3, store_command(uid, has_data=False)))

            assert wire.status() == Status.DOES_NOT_MATCH

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

    @pytest.mark.slow
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
        assert len(running.kept()) == 1

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

    @pytest.mark.slow
    def test_no_room_is_out_of_resources_and_leaves_nothing(
        self, sqlite_database: Database, tmp_path: Path, receive_path: ReceivePath
    ) -> None:
        spool = Spool(tmp_path / "spool", 0)
        with listening(sqlite_database, spool, path=receive_path) as node, Wire(node.port) as wire:
            wire.associate()
            uid, data = one_image()
            blocked = spool.root
            moved = blocked.rename(tmp_path / "elsewhere")
            wire.store(store_command(uid), data)

            assert wire.status() == Status.OUT_OF_RESOURCES
            assert not node.instances()

            moved.rename(blocked)
            wire.store(store_command(uid), data)
            assert wire.status() == 0


class TestRepetition:
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_stop_aborts_what_is_open_and_notes_it(
        self, sqlite_database: Database, spool: Spool, receive_path: ReceivePath
    ) -> None:
        with listening(sqlite_database, spool, path=receive_path) as node:
            wire = Wire(node.port)
            assert wire.associate()[0] == 2
        with wire:
            assert wire.receive()[0] in (7, 0)

        assert [row.outcome for row in node.rows(Association)] == ["interrupted"]

    @pytest.mark.slow
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
