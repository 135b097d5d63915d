"""STOW-RS in: over a real server, with httpx as a client of any manners and Orthanc's DICOMweb client as a real peer."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.settings import Receive, Settings, Storage, Web
from dicom_node.settings_doors import Stow, StowClient
from dicom_node.web import web_server
from storage.database import Database
from storage.events import EventKind
from storage.models import Association, Instance
from storage.spool import Spool
from tests import studies
from tests.authority import Pair
from tests.network import Running, wait_until
from tests.peers import Orthanc, running_orthanc
from tests.studies import Plan

pytestmark = pytest.mark.feature("R9")
TOKEN = "the-token-of-the-vendor-neutral-archive-0001"
MR = "1.2.840.10008.5.1.4.1.1.4"
KIND = 'multipart/related; type="application/dicom"; boundary=fovea-test'


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """One for all: its folders take longer to remove than a test to run, and each test has rows of its own."""
    return Spool(tmp_path_factory.mktemp("node") / "spool", 0)


@dataclass(frozen=True)
class Door:
    """The web server as a process would run it, in a thread, and what it works on."""

    node: Running
    url: str

    def post(self, body: Any, study: str = "", *, token: str = TOKEN, **headers: str) -> httpx.Response:
        """One request."""
        sent = {"Content-Type": KIND, "Accept": "application/dicom+json"}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        return httpx.post(f"{self.url}/studies{study}", content=body, headers=sent, timeout=60, trust_env=False)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])


@contextmanager
def door(
    database: Database, spool: Spool, folder: Path, *, addresses: tuple[str, ...] = ("127.0.0.1",), stow: Stow | None = None,
    maximum_object_mb: float = 100.0, pair: Pair | None = None,
) -> Iterator[Door]:  # fmt: skip
    token = folder / "vna.token"
    token.write_text(TOKEN + "\n", encoding="ascii")
    token.chmod(0o600)
    settings = Settings(
        storage=Storage(spool=spool.root, reserve_mb=0),
        receive=Receive(maximum_object_mb=maximum_object_mb),
        web=Web(port=0) if pair is None else Web(port=0, certificate_file=pair.certificate, key_file=pair.key),
        stow=stow or Stow(),
        stow_clients=(StowClient(name="VNA", token_file=token, addresses=addresses),),
    )
    server, listener = web_server(settings, database, spool, "r" * 40)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Door(Running(None, settings, database, spool, port), f"{settings.web.scheme}://127.0.0.1:{port}/dicom-web")  # type: ignore[arg-type]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def images(slices: int = 3, **changes: Any) -> list[Dataset]:
    return studies.series(Plan(slices=slices, rows=16, columns=16, **changes))


def body_of(files: Sequence[bytes], *, closed: bool = True) -> bytes:
    parts = b"".join(b"--fovea-test\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in files)
    return parts + (b"--fovea-test--\r\n" if closed else b"")


def body(datasets: Sequence[Dataset]) -> bytes:
    return body_of([studies.part10(one) for one in datasets])


def uids(answer: httpx.Response, tag: str) -> list[str]:
    return [one["00081155"]["Value"][0] for one in answer.json().get(tag, {}).get("Value", [])]


def reasons(answer: httpx.Response, tag: str = "00081198") -> list[int]:
    return [one["00081197"]["Value"][0] for one in answer.json().get(tag, {}).get("Value", [])]


class TestStoring:
    def test_every_object_is_kept_and_named(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        sent = images()
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(body(sent))

            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/dicom+json"
            assert uids(answer, "00081199") == [str(one.SOPInstanceUID) for one in sent]
            assert "00081198" not in answer.json()
            rows = {one.sop_instance_uid: one for one in open_door.node.instances()}
            for one in sent:
                kept = spool.path(rows[str(one.SOPInstanceUID)].path or "").read_bytes()
                assert kept.endswith(studies.encoded(one))
            association = open_door.node.rows(Association)[0]
            assert (association.calling_ae_title, association.outcome) == ("VNA", "released")
            assert open_door.node.studies()[0].received_from == "VNA"
            received = open_door.node.events(EventKind.INSTANCES_RECEIVED)[0]
            assert (received.peer, received.detail["instances"]) == ("VNA", 3)

    @pytest.mark.parametrize("size", [1, 1000])
    def test_the_body_may_come_in_any_pieces(self, sqlite_database: Database, spool: Spool, tmp_path: Path, size: int) -> None:
        whole = body(images(1))
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(iter([whole[start : start + size] for start in range(0, len(whole), size)]))

            assert answer.status_code == 200

    def test_the_same_again_is_stored_once(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        whole = body(images(2))
        with door(sqlite_database, spool, tmp_path) as open_door:
            assert [open_door.post(whole).status_code for _ in range(2)] == [200, 200]
            assert len(open_door.node.instances()) == 2

    def test_another_study_than_the_resource_is_refused(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        mine, other = images(1)[0], images(1)[0]
        other.StudyInstanceUID = generate_uid()
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(body([mine, other]), f"/{mine.StudyInstanceUID}")

            assert answer.status_code == 202
            assert uids(answer, "00081199") == [str(mine.SOPInstanceUID)]
            assert (uids(answer, "00081198"), reasons(answer)) == ([str(other.SOPInstanceUID)], [0xA900])
            assert len(open_door.node.instances()) == 1

    def test_each_failure_has_its_reason(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        good, lying, cut = images(3)
        true = str(lying.SOPInstanceUID)
        untrue = true[:-1] + ("2" if true.endswith("1") else "1")
        liar = studies.part10(lying).replace(true.encode(), untrue.encode(), 1)
        odd = studies.part10(images(1)[0]).replace(MR.encode() + b"\0", b"1.2.840.10008.5.1.4.1.1.9.", 1)
        files = [studies.part10(good), liar, studies.part10(cut)[:-100], odd, b"no DICOM at all", b""]
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(body_of(files))

            assert answer.status_code == 202
            assert uids(answer, "00081199") == [str(good.SOPInstanceUID)]
            assert reasons(answer) == [0xA900, 0xC000, 0x0122]
            assert reasons(answer, "0008119A") == [0xC000, 0xC000]

    def test_a_transfer_syntax_that_cannot_be_decoded_is_not_taken(
        self, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        image = images(1)[0]
        file = studies.part10(image).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1)
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(body_of([file]))

            assert (answer.status_code, reasons(answer)) == (409, [0xC122])
            assert open_door.node.instances() == []

    def test_a_body_without_its_end_keeps_what_was_complete(
        self, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        first, second = images(2)
        whole = body([first, second])
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(whole[: -len(studies.part10(second)) // 2])

            assert answer.status_code == 202
            assert uids(answer, "00081199") == [str(first.SOPInstanceUID)]
            assert reasons(answer) == [0xC000]
            assert len(open_door.node.instances()) == 1

    @pytest.mark.slow
    def test_a_large_object_is_never_in_memory(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        image = studies.series(Plan(slices=1, rows=4096, columns=4096))[0]
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        file = studies.part10(image)
        assert len(file) > 32_000_000
        process = psutil.Process()
        with door(sqlite_database, spool, tmp_path) as open_door:
            assert open_door.post(body(images(1))).status_code == 200
            before = process.memory_info().rss
            peak = before

            def pieces() -> Iterator[bytes]:
                nonlocal peak
                yield b"--fovea-test\r\nContent-Type: application/dicom\r\n\r\n"
                for start in range(0, len(file), 65536):
                    yield file[start : start + 65536]
                    peak = max(peak, process.memory_info().rss)
                yield b"\r\n--fovea-test--"

            assert open_door.post(pieces()).status_code == 200
            assert peak - before < 16_000_000  # half of the object; 4 MB are held before it goes to the disk


class TestRefusing:
    @pytest.mark.parametrize("token", ["", "x" * 44])
    def test_without_the_token_nobody_stores(self, sqlite_database: Database, spool: Spool, tmp_path: Path, token: str) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            answer = open_door.post(body(images(1)), token=token)

            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert open_door.node.rows(Instance) == []
            wait_until(lambda: len(open_door.node.events(EventKind.NODE_NOT_AUTHENTICATED)) == 1)

    def test_nor_with_it_from_elsewhere(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path, addresses=("10.1.2.3",)) as open_door:
            assert open_door.post(body(images(1))).status_code == 401
            told = open_door.node.events(EventKind.NODE_NOT_AUTHENTICATED)[0]
            assert (told.peer, told.detail["reason"]) == ("VNA", "address is not the client's")

    def test_nor_where_the_token_file_is_open_to_others(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            (tmp_path / "vna.token").chmod(0o644)
            assert open_door.post(body(images(1))).status_code == 401

    def test_the_reader_of_the_page_may_not_store(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            assert open_door.post(body(images(1)), token="r" * 40).status_code == 401

    def test_and_a_client_may_not_read(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            for path in ("/dicom-web/studies", "/studies"):
                answer = httpx.get(
                    f"http://127.0.0.1:{open_door.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False
                )
                assert answer.status_code == 401

    def test_by_default_there_is_no_such_door(self, sqlite_database: Database, spool: Spool) -> None:
        settings = Settings(storage=Storage(spool=spool.root), web=Web(port=0))
        assert settings.stow_clients == ()

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Content_Type": "application/dicom"}, 415),
            ({"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
            ({"Accept": "application/dicom+xml"}, 406),
            ({"Content_Type": 'multipart/related; type="application/dicom"; boundary=other'}, 400),
        ],
    )
    def test_what_is_no_store_request(
        self, sqlite_database: Database, spool: Spool, tmp_path: Path, headers: dict[str, str], status: int
    ) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            assert open_door.post(body(images(1)), **headers).status_code == status
            assert open_door.node.instances() == []

    @pytest.mark.parametrize("announced", [True, False])
    def test_a_request_above_its_limit_is_not_read_to_its_end(
        self, sqlite_database: Database, spool: Spool, tmp_path: Path, announced: bool
    ) -> None:
        whole = body(images(3)) + b" " * 100_000
        with door(sqlite_database, spool, tmp_path, stow=Stow(maximum_request_mb=0.05)) as open_door:
            answer = open_door.post(whole if announced else iter([whole[:60_000], whole[60_000:]]))

            assert answer.status_code == 413

    def test_an_object_above_its_limit_is_refused_for_good(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path, maximum_object_mb=0.001) as open_door:
            answer = open_door.post(body(images(1)))

            assert (answer.status_code, reasons(answer)) == (409, [0xA700])

    def test_too_many_objects(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path, stow=Stow(maximum_parts=2)) as open_door:
            assert open_door.post(body(images(3))).status_code == 400

    @pytest.mark.slow
    def test_a_client_that_falls_silent_is_let_go(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        """F02 for HTTP: half a body, then nothing; another client is served meanwhile."""
        with door(sqlite_database, spool, tmp_path, stow=Stow(idle_timeout_s=3, minimum_rate_kb_s=0)) as open_door:
            with half_a_request(open_door.port) as silent:
                assert open_door.post(body(images(2))).status_code == 200

                assert silent.recv(4096).startswith(b"HTTP/1.1 408")
            wait_until(lambda: {one.outcome for one in open_door.node.rows(Association)} == {"released", "aborted"})

    def test_one_that_trickles_as_well(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path, stow=Stow(idle_timeout_s=0.5, minimum_rate_kb_s=100)) as open_door:
            with half_a_request(open_door.port) as slow:
                slow.settimeout(0.1)
                answered = b""

                def trickled() -> bool:
                    nonlocal answered
                    try:
                        with suppress(ConnectionError):
                            slow.sendall(b"x")
                        answered += slow.recv(4096)
                    except TimeoutError:
                        return False
                    return bool(answered)

                wait_until(trickled)
                assert answered.startswith(b"HTTP/1.1 408")

    def test_a_client_that_goes_away_leaves_nothing_half(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path) as open_door:
            with half_a_request(open_door.port):
                wait_until(lambda: len(open_door.node.rows(Association)) == 1)
            wait_until(lambda: [one.outcome for one in open_door.node.rows(Association)] == ["aborted"])
            assert open_door.node.instances() == []
            assert list((spool.root / "temporary").iterdir()) == []

    def test_no_more_requests_at_once_than_allowed(self, sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
        with door(sqlite_database, spool, tmp_path, stow=Stow(requests_at_once=1)) as open_door:
            with half_a_request(open_door.port):
                wait_until(lambda: len(open_door.node.rows(Association)) == 1)
                answer = open_door.post(body(images(1)))

                assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
            wait_until(lambda: open_door.post(body(images(1))).status_code == 200)


@contextmanager
def half_a_request(port: int) -> Iterator[socket.socket]:
    """A connection on which half a body has been sent."""
    half = body(images(1))[:2000]
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {KIND}\r\nContent-Length: 4000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode() + half)
        yield connection


@pytest.mark.peer
def test_orthanc_stores_over_stow(sqlite_database: Database, spool: Spool, tmp_path: Path) -> None:
    sent = images(4)
    with door(sqlite_database, spool, tmp_path) as open_door:
        servers = {"fovea": {"Url": open_door.url, "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}}
        orthanc = Orthanc(tmp_path / "orthanc", more={"DicomWeb": {"Enable": True, "Servers": servers}})
        with running_orthanc(orthanc):
            known = [orthanc.post("/instances", studies.part10(one))["ID"] for one in sent]
            told = orthanc.post_json("/dicom-web/servers/fovea/stow", {"Resources": known, "Synchronous": True})

        assert int(told["InstancesCount"]) == 4
        assert {one.sop_instance_uid for one in open_door.node.instances()} == {str(one.SOPInstanceUID) for one in sent}
        assert re.fullmatch(r"127\.0\.0\.1", open_door.node.rows(Association)[0].address)
