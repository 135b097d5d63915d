"""Sending: each instance with its own status, and every way in which a PACS does not take it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, MRImageStorage

from dicom_node import scu
from dicom_node.scu import Meaning, SendError, Sent
from dicom_node.settings import Destination
from dicom_node.simulator import Behaviour, SimulatedPacs
from tests import studies
from tests.network import EXPLICIT, IMPLICIT, wait_until
from tests.peers import program
from tests.studies import Plan
from tests.waiting import free_port

pytestmark = pytest.mark.feature("V1")

SMALL = Plan(slices=3, rows=32, columns=32)


@pytest.fixture
def pacs() -> Iterator[SimulatedPacs]:
    simulated = SimulatedPacs("PACS")
    simulated.start()
    yield simulated
    simulated.close()


@pytest.fixture
def items(tmp_path: Path) -> list[scu.FileToSend]:
    datasets = [*studies.series(SMALL), studies.structured_report()]
    found, unreadable = scu.outgoing(studies.save(datasets, tmp_path / "out"))
    assert not unreadable
    return found


def sent_to(pacs: SimulatedPacs, items: list[scu.FileToSend], timeout_s: float = 10) -> tuple[list[Sent], SendError | None]:
    answers: list[Sent] = []
    error = scu.send(pacs.destination(timeout_s=timeout_s), "FOVEA", items, answers.append)
    return answers, error


def data_set(path: Path) -> bytes:
    """The bytes of a file after its file meta information."""
    file = path.read_bytes()
    return file[144 + int.from_bytes(file[140:144], "little") :]


def test_everything_arrives_byte_for_byte_and_in_order(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    answers, error = sent_to(pacs, items)

    assert error is None
    assert [answer.status for answer in answers] == ["0x0000"] * 4
    assert all(answer.stored for answer in answers)
    assert [one.sop_instance_uid for one in pacs.received()] == [item.sop_instance_uid for item in items]
    for one, item in zip(pacs.received(), items, strict=True):
        assert data_set(one.path) == data_set(item.path)
        assert one.calling_ae_title == "FOVEA"


@pytest.mark.parametrize(
    "syntax",
    [IMPLICIT, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, *studies.COMPRESSED_SYNTAXES],
)
def test_every_encoding_goes_out_as_it_is(pacs: SimulatedPacs, tmp_path: Path, syntax: str) -> None:
    image = studies.series(replace(SMALL, slices=1, rows=64, columns=64))[0]
    made = studies.compressed(image, syntax) if syntax in studies.COMPRESSED_SYNTAXES else studies.recoded(image, syntax)
    items, _ = scu.outgoing(studies.save([made], tmp_path / "out"))

    _, error = sent_to(pacs, items)

    assert error is None
    assert pacs.received()[0].transfer_syntax_uid == syntax
    assert data_set(pacs.received()[0].path) == data_set(items[0].path)


def test_a_pacs_of_implicit_little_endian_gets_the_same_values(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.behaviour = Behaviour(syntaxes=(IMPLICIT,))

    _, error = sent_to(pacs, items)

    assert error is None
    first, sent = dcmread(pacs.received()[0].path), dcmread(items[0].path)
    assert first.file_meta.TransferSyntaxUID == IMPLICIT
    assert first.PixelData == sent.PixelData
    assert first.to_json_dict() == sent.to_json_dict()


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0x0000, Meaning.STORED), (0xB000, Meaning.STORED_WITH_WARNING), (0xB007, Meaning.STORED_WITH_WARNING),
        (0x0111, Meaning.STORED_WITH_WARNING), (0xA700, Meaning.TRY_AGAIN), (0xA7FF, Meaning.TRY_AGAIN),
        (0x0110, Meaning.TRY_AGAIN), (0x0124, Meaning.TRY_AGAIN), (0x0213, Meaning.TRY_AGAIN),
        (0xA900, Meaning.REFUSED), (0xC000, Meaning.REFUSED), (0xCFFF, Meaning.REFUSED), (0x0122, Meaning.REFUSED),
        (0x0117, Meaning.REFUSED), (0xFE00, Meaning.TRY_AGAIN), (0x0210, Meaning.TRY_AGAIN),
        (0x0106, Meaning.REFUSED), (0x0115, Meaning.REFUSED), (0x0119, Meaning.REFUSED), (0x0120, Meaning.REFUSED),
        (0x0121, Meaning.REFUSED),
    ],
)  # fmt: skip
def test_meaning_of_each_status(pacs: SimulatedPacs, items: list[scu.FileToSend], status: int, meaning: Meaning) -> None:
    pacs.behaviour = Behaviour(statuses={str(MRImageStorage): status})

    answers, error = sent_to(pacs, items)

    assert [answer.meaning for answer in answers] == [meaning] * 3 + [Meaning.STORED]
    assert answers[0].status == f"0x{status:04X}"
    if meaning in (Meaning.STORED, Meaning.STORED_WITH_WARNING):
        assert error is None
    else:
        assert error is not None
        assert error.permanent == (meaning is Meaning.REFUSED)


def test_what_may_get_better_is_told_before_what_is_refused(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    uids = [item.sop_instance_uid for item in items]
    pacs.behaviour = Behaviour(statuses={uids[0]: 0xC000, uids[1]: 0xA700})

    answers, error = sent_to(pacs, items)

    assert [answer.stored for answer in answers] == [False, False, True, True]
    assert error is not None
    assert (error.code, error.permanent) == ("busy", False)


def test_class_without_presentation_context_is_refused_for_good(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.behaviour = Behaviour(refused_classes=frozenset({str(ComprehensiveSRStorage)}))

    answers, error = sent_to(pacs, items)

    assert [answer.stored for answer in answers] == [True, True, True, False]
    assert answers[3].status == ""
    assert error is not None
    assert (error.code, error.permanent) == ("refused", True)


def test_no_presentation_context_at_all_is_refused_for_good(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    classes = frozenset({str(ComprehensiveSRStorage), str(MRImageStorage)})
    pacs.behaviour = Behaviour(refused_classes=classes)

    answers, error = sent_to(pacs, items)

    assert [answer.meaning for answer in answers] == [Meaning.REFUSED] * 4
    assert error is not None
    assert error.permanent


def test_nothing_is_told_stored_before_its_own_answer(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.behaviour = Behaviour(abort_after=2)

    answers, error = sent_to(pacs, items)

    assert [answer.sop_instance_uid for answer in answers] == [item.sop_instance_uid for item in items[:2]]
    assert error == SendError("association-aborted", error.text if error else "", permanent=False)
    assert pacs.receipts() == 2


def test_rejected_association_is_worth_another_try(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.behaviour = Behaviour(reject_associations=True)

    answers, error = sent_to(pacs, items)

    assert not answers
    assert error is not None
    assert (error.code, error.permanent) == ("association-rejected", False)
    assert scu.echo(pacs.destination(), "FOVEA") is not None


def test_pacs_that_is_down_is_worth_another_try_and_comes_back(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.stop()

    answers, error = sent_to(pacs, items)

    assert not answers
    assert error is not None
    assert (error.code, error.permanent) == ("connection-failed", False)
    pacs.start()
    assert sent_to(pacs, items)[1] is None


@pytest.mark.slow
def test_pacs_that_never_answers_is_given_up_in_time(pacs: SimulatedPacs, items: list[scu.FileToSend]) -> None:
    pacs.behaviour = Behaviour(silent=True)
    began = time.monotonic()

    answers, error = sent_to(pacs, items, timeout_s=1)

    assert not answers
    assert error is not None
    assert not error.permanent
    assert time.monotonic() - began < 30


def test_unreadable_file_does_not_keep_the_others(pacs: SimulatedPacs, items: list[scu.FileToSend], tmp_path: Path) -> None:
    missing = replace(items[0], path=tmp_path / "gone.dcm")

    answers, error = sent_to(pacs, [missing, *items[1:]])

    assert [answer.stored for answer in answers] == [True, True, True]
    assert error is not None
    assert (error.code, error.permanent) == ("unreadable-file", True)


def test_files_that_are_no_dicom_are_told(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("no DICOM here")

    items, unreadable = scu.outgoing([path, tmp_path / "gone"])

    assert not items
    assert [one for one, _ in unreadable] == [path, tmp_path / "gone"]


def test_echo(pacs: SimulatedPacs) -> None:
    assert scu.echo(pacs.destination(), "FOVEA") is None

    pacs.stop()

    error = scu.echo(pacs.destination(), "FOVEA")
    assert error is not None
    assert error.code == "connection-failed"


@pytest.mark.peer
def test_storescp_of_dcmtk_takes_everything(items: list[scu.FileToSend], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen([program("storescp"), "-od", str(folder), str(port)])
    try:
        destination = Destination(name="dcmtk", ae_title="ANY", host="127.0.0.1", port=port, timeout_s=10)
        wait_until(lambda: scu.echo(destination, "FOVEA") is None)

        answers: list[Sent] = []
        error = scu.send(destination, "FOVEA", items, answers.append)
    finally:
        process.terminate()
        process.wait(10)

    assert error is None
    assert len(list(folder.iterdir())) == len(items)
    assert dcmread(next(folder.iterdir())).file_meta.TransferSyntaxUID == EXPLICIT
