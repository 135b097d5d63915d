"""What a hostile destination may cost us when we call it (F42)."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from dicom_node import archive, scu
from dicom_node.arrival import Sought, Verdict
from dicom_node.settings import Destination
from tests import studies
from tests.archive import Archive, running
from tests.studies import Plan

pytestmark = pytest.mark.feature("V1")


@contextmanager
def hostile(speak: Callable[[socket.socket], None]) -> Iterator[Destination]:
    """A destination that answers whatever is asked with what `speak` says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(20)
                    connection.recv(4096)
                    speak(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Destination(name="bad", ae_title="BAD", host="127.0.0.1", port=listener.getsockname()[1], timeout_s=1)
    thread.join()


def until_closed(connection: socket.socket) -> bytes:
    """What came until the other side closed; nothing where it never does within the timeout."""
    received = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def test_an_answer_of_four_gigabytes_is_not_read() -> None:
    heard: list[bytes] = []

    def speak(connection: socket.socket) -> None:
        connection.sendall(struct.pack(">BxI", 2, 0xFFFFFFF0) + bytes(65536))
        heard.append(until_closed(connection))

    before = psutil.Process().memory_info().rss
    with hostile(speak) as destination:
        error = scu.echo(destination, "FOVEA")

    assert error is not None
    assert not error.permanent
    assert psutil.Process().memory_info().rss - before < 64_000_000
    assert heard[0].startswith(b"\x07"), "an A-ABORT"


@pytest.mark.slow
def test_half_an_answer_is_not_waited_for_longer_than_the_timeout() -> None:
    def speak(connection: socket.socket) -> None:
        connection.sendall(struct.pack(">BxI", 2, 200) + bytes(20))
        until_closed(connection)  # ends because we close, not because this side does

    with hostile(speak) as destination:
        error = scu.echo(destination, "FOVEA")

    assert error is not None
    assert not error.permanent


def test_an_archive_that_gives_back_far_more_than_was_sent_is_cut_off(tmp_path: Path) -> None:
    """C-GET answered with 24 MB for an object of a few kilobytes."""
    mine = studies.structured_report(Plan(slices=1, rows=8, columns=8))
    path = tmp_path / "report.dcm"
    path.write_bytes(studies.part10(mine))
    theirs = studies.structured_report(Plan(slices=1, rows=8, columns=8))
    theirs.EncapsulatedDocument = bytes(24_000_000)
    sought = Sought(
        1, path, str(mine.StudyInstanceUID), str(mine.SeriesInstanceUID), str(mine.SOPClassUID), str(mine.SOPInstanceUID)
    )
    with running(Archive()) as bad:
        bad.kept[str(mine.SOPInstanceUID)] = theirs
        [found] = archive.find(bad.destination(), "FOVEA", [sought])

    assert (found.verdict, found.detail) == (Verdict.UNKNOWN, "the association ended during C-GET")
