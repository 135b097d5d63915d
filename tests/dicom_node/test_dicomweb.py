"""STOW-RS, QIDO-RS and WADO-RS against a real Orthanc, and against servers that no archive should be."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node import dicomweb, scu
from dicom_node.arrival import Sought, Verdict
from dicom_node.dicomweb import http_meaning
from dicom_node.scu import Meaning, SendError, Sent
from dicom_node.settings import Destination
from tests import studies
from tests.parcels import results
from tests.peers import Orthanc, running_orthanc
from tests.waiting import free_port

pytestmark = pytest.mark.feature("V1")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(Orthanc(tmp_path_factory.mktemp("orthanc"))) as running:
        yield running


def stow(url: str, **changes: object) -> Destination:
    return Destination.model_validate({"name": "web", "kind": "stow", "url": url, "timeout_s": 30, **changes})


def files(folder: Path, number: int = 0) -> list[scu.FileToSend]:
    found, unreadable = scu.outgoing(studies.save(results(number), folder / f"out{number}"))
    assert not unreadable
    return found


def sought(item: scu.FileToSend, dataset: Dataset) -> Sought:
    return Sought(
        1, item.path, str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), item.sop_class_uid, item.sop_instance_uid
    )


def sent_to(destination: Destination, items: list[scu.FileToSend]) -> tuple[list[Sent], SendError | None]:
    answers: list[Sent] = []
    return answers, dicomweb.send(destination, "FOVEA", items, answers.append)


@pytest.mark.peer
def test_everything_arrives_byte_for_byte_in_orthanc(orthanc: Orthanc, tmp_path: Path) -> None:
    items = files(tmp_path)

    answers, error = sent_to(stow(orthanc.dicomweb), items)

    assert error is None
    assert [answer.meaning for answer in answers] == [Meaning.STORED] * 2
    for item in items:
        [identifier] = orthanc.find({"SOPInstanceUID": item.sop_instance_uid})
        assert orthanc.file(identifier) == item.path.read_bytes()


@pytest.mark.peer
@pytest.mark.feature("V2")
def test_what_arrived_is_proven_by_its_content(orthanc: Orthanc, tmp_path: Path) -> None:
    items = files(tmp_path, 1)
    wanted = [sought(item, dataset) for item, dataset in zip(items, results(1), strict=True)]
    here = stow(orthanc.dicomweb)

    before = dicomweb.find(here, wanted)
    sent_to(here, items)
    after = dicomweb.find(here, wanted)

    assert [one.verdict for one in before] == [Verdict.MISSING] * 2
    assert [one.verdict for one in after] == [Verdict.PROVEN] * 2
    assert "retrieved and compared" in after[0].detail


@pytest.mark.peer
@pytest.mark.feature("V2")
def test_an_archive_that_answers_success_and_keeps_the_old_object_is_found_out(orthanc: Orthanc, tmp_path: Path) -> None:
    old = results(2)[0]
    changed = deepcopy(old)
    changed.ContentSequence[0].TextValue = "Something to see"
    [first], _ = scu.outgoing(studies.save([old], tmp_path / "old"))
    [second], _ = scu.outgoing(studies.save([changed], tmp_path / "new"))
    here = stow(orthanc.dicomweb)
    sent_to(here, [first])

    answers, error = sent_to(here, [second])
    [finding] = dicomweb.find(here, [sought(second, changed)])

    assert error is None
    assert answers[0].stored
    assert finding.verdict is Verdict.DIFFERENT
    assert finding.detail == "the archive holds another content: ContentSequence differ"


@pytest.mark.peer
def test_what_is_no_dicom_is_refused_for_good_and_the_others_are_stored(orthanc: Orthanc, tmp_path: Path) -> None:
    items = files(tmp_path, 3)
    items[0].path.write_bytes(b"\0" * 2000)

    answers, error = sent_to(stow(orthanc.dicomweb), items)

    assert [answer.stored for answer in answers] == [False, True]
    assert error is not None
    assert error.code in ("refused", "busy")


@pytest.mark.peer
def test_probe_of_a_service_that_answers_and_of_one_that_is_down(orthanc: Orthanc) -> None:
    assert dicomweb.probe(stow(orthanc.dicomweb)) is None
    error = dicomweb.probe(stow(f"http://127.0.0.1:{free_port()}/dicom-web"))
    assert error is not None
    assert error.code == "connection-failed"


# ------------------------------------------------------------------------------------------------- rude servers

Reply = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Reply], list[dict[str, str]]]]:
    """A server on loopback whose replies a test sets by method, and the headers of what it was asked."""
    replies: dict[str, Reply] = {}
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(dict(self.headers.items()))
            replies["GET"](self)

        def do_POST(self) -> None:
            asked.append(dict(self.headers.items()))
            self.rfile.read(int(self.headers["Content-Length"]))
            replies["POST"](self)

        def log_message(self, *_: object) -> None:
            return

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}/dicom-web", replies, asked
    made.shutdown()
    thread.join()
    made.server_close()


Server = tuple[str, dict[str, Reply], list[dict[str, str]]]


def replying(status: int, body: bytes = b"", **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def stored_body(uid: str, tag: str, **more: object) -> bytes:
    item = {
        "00081155": {"vr": "UI", "Value": [uid]},
        **{f"0008{key[1:]}": {"vr": "US", "Value": [one]} for key, one in more.items()},
    }
    return json.dumps({tag: {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("tag", "more", "http", "expected", "status"),
    [
        pytest.param("00081199", {}, 200, Meaning.STORED, "HTTP 200", id="stored"),
        pytest.param("00081199", {"x1196": 0xB000}, 202, Meaning.STORED_WITH_WARNING, "0xB000", id="coerced"),
        pytest.param("00081198", {"x1197": 0xA700}, 409, Meaning.TRY_AGAIN, "0xA700", id="out of resources"),
        pytest.param("00081198", {"x1197": 0x0110}, 202, Meaning.TRY_AGAIN, "0x0110", id="processing failure"),
        pytest.param("00081198", {"x1197": 0x0122}, 409, Meaning.REFUSED, "0x0122", id="class not supported"),
        pytest.param("00081198", {"x1197": 0xC000}, 200, Meaning.REFUSED, "0xC000", id="failed under a success"),
        pytest.param("00081198", {"x1197": 0x0111}, 409, Meaning.STORED_WITH_WARNING, "HTTP 409", id="duplicate"),
        pytest.param("00081198", {}, 409, Meaning.REFUSED, "HTTP 409", id="failed without a reason"),
    ],
)
def test_the_answer_on_the_instance_counts_more_than_the_http_status(
    server: Server, tmp_path: Path, tag: str, more: dict[str, int], http: int, expected: Meaning, status: str
) -> None:
    url, replies, _ = server
    item = files(tmp_path)[0]
    replies["POST"] = replying(http, stored_body(item.sop_instance_uid, tag, **more), Content_Type="application/dicom+json")

    [answer], _ = sent_to(stow(url), [item])

    assert (answer.meaning, answer.status) == (expected, status)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Meaning.TRY_AGAIN), (204, Meaning.TRY_AGAIN), (302, Meaning.TRY_AGAIN), (400, Meaning.REFUSED),
        (401, Meaning.TRY_AGAIN), (403, Meaning.TRY_AGAIN), (404, Meaning.TRY_AGAIN), (409, Meaning.REFUSED),
        (413, Meaning.REFUSED), (415, Meaning.REFUSED), (418, Meaning.REFUSED), (429, Meaning.TRY_AGAIN),
        (500, Meaning.TRY_AGAIN), (503, Meaning.TRY_AGAIN), (507, Meaning.TRY_AGAIN), (599, Meaning.TRY_AGAIN),
    ],
)  # fmt: skip
def test_meaning_of_each_http_status_without_a_word_on_the_instance(
    server: Server, tmp_path: Path, status: int, expected: Meaning
) -> None:
    url, replies, _ = server
    replies["POST"] = replying(status)

    [answer], error = sent_to(stow(url), files(tmp_path)[:1])

    assert answer.meaning is expected
    assert error is not None
    assert error.permanent == (expected is Meaning.REFUSED)
    if status not in (200, 204):
        assert http_meaning(status)[0] is expected


def test_a_redirect_is_not_followed_with_the_credentials(server: Server, tmp_path: Path) -> None:
    url, replies, asked = server
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    replies["POST"] = replying(307, Location="/elsewhere")

    answers, error = sent_to(stow(url, token_file=token), files(tmp_path)[:1])

    assert [one["Authorization"] for one in asked] == ["Bearer s3cret"]
    assert not answers[0].stored
    assert error is not None


def test_user_and_password_go_out_as_basic_authentication(server: Server, tmp_path: Path) -> None:
    url, replies, asked = server
    secret = tmp_path / "password"
    secret.write_text("ada:lovelace")
    replies["POST"] = replying(401)

    sent_to(stow(url, password_file=secret), files(tmp_path)[:1])

    assert asked[0]["Authorization"] == "Basic YWRhOmxvdmVsYWNl"


def test_missing_credentials_are_told_without_being_quoted(server: Server, tmp_path: Path) -> None:
    answers, error = sent_to(stow(server[0], token_file=tmp_path / "absent"), files(tmp_path)[:1])

    assert not answers
    assert error == SendError("credentials", f"{tmp_path / 'absent'}: No such file or directory", permanent=False)


def test_an_answer_without_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    url, replies, _ = server

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/dicom+json")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        try:
            while True:
                handler.wfile.write(b"[" * 65536)
        except OSError:
            return

    replies["POST"] = replies["GET"] = endless
    item = files(tmp_path)[0]

    answers, error = sent_to(stow(url), [item])
    [finding] = dicomweb.find(stow(url), [sought(item, results()[0])])

    assert not answers
    assert error is not None
    assert error.code == "answer-too-long"
    assert finding.verdict is Verdict.DIFFERENT


@pytest.mark.slow
@pytest.mark.feature("V2")
def test_an_archive_that_lists_it_and_gives_back_another_object_is_found_out(server: Server, tmp_path: Path) -> None:
    url, replies, _ = server
    report, other = results()
    item = files(tmp_path)[0]
    listed = json.dumps([{"00080018": {"vr": "UI", "Value": [item.sop_instance_uid]}}]).encode()
    wrong = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + studies.part10(other) + b"\r\n--x--\r\n"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        is_query = "?" in handler.path
        kind = "application/dicom+json" if is_query else 'multipart/related; type="application/dicom"; boundary=x'
        replying(200, listed if is_query else wrong, Content_Type=kind)(handler)

    replies["GET"] = answer

    [finding] = dicomweb.find(stow(url), [sought(item, report)])

    assert finding.verdict is Verdict.DIFFERENT
