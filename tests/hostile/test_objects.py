"""F14 to F22: requests and objects that are wrong, broken or bombs. Each gets its status, and costs nothing that lasts."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, JPEGLSLossless

from storage.events import EventKind
from tests import studies
from tests.hostile.listener import (
    GROWTH_MB,
    LIMIT_MB,
    MEGABYTE,
    Listening,
    exchange,
    offending,
    send_over,
    sent,
    small,
    status_of,
)
from tests.network import MR, Wire, store_command
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R5", "S1")

SUCCESS, INVALID_INSTANCE, CLASS_NOT_SUPPORTED = 0x0000, 0x0117, 0x0122
OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
ABORT = 7
UNDEFINED = 0xFFFFFFFF
PRIVATE = struct.pack("<HH2sH", 0x0041, 0x0010, b"LO", 6) + b"TESTS "


def image(node: Listening, study: str) -> Dataset:
    """One tiny image of a study of its own on each receive path."""
    return small(f"{study} {node.receive_path}")[0]


def sequence(content: bytes, length: int | None = None) -> bytes:
    """A private sequence, explicit little endian."""
    return struct.pack("<HH2sxxI", 0x0041, 0x1001, b"SQ", len(content) if length is None else length) + content


def before_pixels(data: bytes, inserted: bytes) -> bytes:
    """The object with further elements in front of its pixel data."""
    start = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return data[:start] + inserted + data[start:]


def assert_not_kept(node: Listening, dataset: Dataset) -> None:
    assert node.instances(str(dataset.StudyInstanceUID)) == []
    assert node.temporaries() == []


def test_f14_store_on_a_context_that_was_not_accepted_is_aborted(node: Listening) -> None:
    one = image(node, "F14")
    with Wire(node.port) as wire:
        wire.associate()
        wire.store(store_command(str(one.SOPInstanceUID)), studies.encoded(one), context_id=9)

        assert wire.receive()[0] == ABORT
    assert_not_kept(node, one)


def test_f14_store_of_another_class_than_its_context_is_refused(node: Listening) -> None:
    one = image(node, "F14")
    answer = exchange(node, store_command(str(one.SOPInstanceUID), str(CTImageStorage)), studies.encoded(one))

    assert status_of(answer) == CLASS_NOT_SUPPORTED
    assert_not_kept(node, one)


def test_f15_command_without_instance_uid_is_answered_at_once(node: Listening) -> None:
    one = image(node, "F15")
    began = time.monotonic()

    answer = exchange(node, store_command(None), studies.encoded(one))

    assert status_of(answer) == INVALID_INSTANCE
    assert time.monotonic() - began < 5.0
    assert_not_kept(node, one)


HOSTILE_UIDS = [b"../../../etc/passwd", b"1.2.3\n4", b"1.2\x003.4", b"1" * 80, b"1..2", b"\xff\xfe1.2", b"1.2.3;rm -rf /"]


@pytest.mark.parametrize("uid", HOSTILE_UIDS, ids=["path", "newline", "nul", "80 digits", "two dots", "bytes", "shell"])
def test_f16_illegal_uid_is_invalid_and_in_the_log_only_in_hex(node: Listening, uid: bytes) -> None:
    one = image(node, "F16")
    mark = node.mark()

    answer = exchange(node, store_command(uid), studies.encoded(one))

    assert status_of(answer) == INVALID_INSTANCE
    written = uid.decode("latin-1")[:8]
    wait_until(  # an event may come after the answer, and after those of earlier refusals
        "the UID in hex",
        lambda: any(
            bytes.fromhex(event.detail.get("sop instance uid", "")).decode(errors="replace").startswith(written)
            for event in node.events(mark, EventKind.INSTANCE_REFUSED)
        ),
        30,
    )
    assert uid.decode("latin-1") not in node.log
    assert not [path for path in node.node.folder.rglob("*") if uid.decode("latin-1").strip(".\n\0")[:12] in path.name]
    assert_not_kept(node, one)


@pytest.mark.parametrize(("keyword", "element"), [("SOPInstanceUID", (0x0008, 0x0018)), ("SOPClassUID", (0x0008, 0x0016))])
def test_f17_data_set_that_differs_from_its_command_names_the_element(
    node: Listening, keyword: str, element: tuple[int, int]
) -> None:
    one = image(node, "F17")
    uid = str(one.SOPInstanceUID)
    setattr(one, keyword, "1.2.840.10008.5.1.4.1.1.2")

    answer = exchange(node, store_command(uid), studies.encoded(one))

    assert (status_of(answer), offending(answer)) == (DOES_NOT_MATCH, element)
    assert_not_kept(node, one)


@pytest.mark.parametrize(
    ("keyword", "element"), [("StudyInstanceUID", (0x0020, 0x000D)), ("SeriesInstanceUID", (0x0020, 0x000E))]
)
def test_f18_object_without_identity_is_refused_and_a_copy_kept(node: Listening, keyword: str, element: tuple[int, int]) -> None:
    one = small(f"F18 {keyword} {node.receive_path}")[0]
    del one[keyword]
    mark = node.mark()

    answer = exchange(node, store_command(str(one.SOPInstanceUID)), studies.encoded(one))

    assert (status_of(answer), offending(answer)) == (DOES_NOT_MATCH, element)
    node.await_event(mark, EventKind.INSTANCE_REFUSED)
    (aside,) = wait_until("the copy kept aside", lambda: node.rejected(str(one.SOPInstanceUID)), 30)
    assert node.file(aside.path).endswith(studies.encoded(one))


def _cut(data: bytes) -> bytes:
    return data[:-100]


def _random(data: bytes) -> bytes:
    return random.Random(19).randbytes(len(data))


def _beyond_end(data: bytes) -> bytes:
    at = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW")) + 8
    return data[:at] + struct.pack("<I", 0x7FFFFFF0) + data[at + 4 :]


def _odd(data: bytes) -> bytes:
    return before_pixels(data, PRIVATE + struct.pack("<HH2sH", 0x0041, 0x1002, b"LO", 3) + b"abc")


def _without_delimiter(data: bytes) -> bytes:
    return data + struct.pack("<HH2sxxI", 0x7FE1, 0x1001, b"SQ", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def _fragments_without_delimiter(data: bytes) -> bytes:
    return data + struct.pack("<HH2sxxI", 0x7FE1, 0x1001, b"OB", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)


@pytest.mark.parametrize("damage", [_cut, _random], ids=["truncated", "random"])
def test_f19_truncated_or_random_data_set_is_not_understood(node: Listening, damage: Callable[[bytes], bytes]) -> None:
    one = image(node, f"F19 {damage.__name__}")

    answer = exchange(node, store_command(str(one.SOPInstanceUID)), damage(studies.encoded(one)))

    assert status_of(answer) == CANNOT_UNDERSTAND
    assert_not_kept(node, one)
    assert sent(node, one) == SUCCESS  # what is whole is welcome under the same UID


@pytest.mark.parametrize("damage", [_beyond_end, _odd, _without_delimiter, _fragments_without_delimiter])
def test_f20_lengths_that_cannot_be_are_not_understood(node: Listening, damage: Callable[[bytes], bytes]) -> None:
    one = image(node, "F20")

    answer = exchange(node, store_command(str(one.SOPInstanceUID)), damage(studies.encoded(one)))

    assert status_of(answer) == CANNOT_UNDERSTAND
    assert_not_kept(node, one)


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_f21_nested_sequences_are_refused_in_linear_time(node: Listening, depth: int) -> None:
    one = image(node, "F21")
    opened = sequence(b"", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    began = time.monotonic()

    answer = exchange(node, store_command(str(one.SOPInstanceUID)), studies.encoded(one) + (opened * depth + closed * depth))

    assert status_of(answer) == CANNOT_UNDERSTAND
    assert time.monotonic() - began < 10.0
    assert_not_kept(node, one)
    assert sent(node, image(node, "F21 after")) == SUCCESS


def bomb_of(dataset: Dataset, size: int) -> bytes:
    """A deflate stream of the object and zeros without end: a thousandth of its size."""
    pressed = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = pressed.compress(studies.encoded(dataset))
    head += pressed.compress(struct.pack("<HH2sxxI", 0x7FE1, 0x1001, b"OB", size))
    return head + b"".join(pressed.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)) + pressed.flush()


def test_f22_deflate_bombs_from_eight_senders_at_once_exceed_the_limit_in_bounded_memory(node: Listening) -> None:
    one = image(node, "F22")
    bomb = bomb_of(one, 512 * MEGABYTE)
    deflated = small(f"F22 {node.receive_path}")[0]
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    before = node.resident_mb()

    def send(_: int) -> int:
        with Wire(node.port, timeout_s=120) as wire:
            return send_over(wire, deflated, data=bomb)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(send, number) for number in range(8)]
        peak = node.peak_mb(lambda: all(answer.done() for answer in answers))

    assert len(bomb) < 2 * MEGABYTE
    assert {answer.result() for answer in answers} == {OUT_OF_RESOURCES}
    assert peak - before < GROWTH_MB
    assert_not_kept(node, one)


def test_f22_encapsulated_bomb_exceeds_the_limit(node: Listening) -> None:
    one = image(node, "F22 fragments")
    plain = before_pixels(studies.encoded(one), b"")
    head = plain[: plain.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))]
    fragments = struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 4_100_000
    one.file_meta.TransferSyntaxUID = JPEGLSLossless

    with Wire(node.port, timeout_s=120) as wire:
        kind, _ = wire.associate([(MR, (str(JPEGLSLossless),))])
        assert kind == 2
        wire.store(store_command(str(one.SOPInstanceUID)), head + fragments[: LIMIT_MB * MEGABYTE // 2 * 2], chunk=120_000)
        answer = wire.response()

    assert status_of(answer) == OUT_OF_RESOURCES
    assert b"object exceeds limit" in answer[0x0902]


def test_f22_object_above_the_limit_is_out_of_resources(node: Listening) -> None:
    one = image(node, "F22 bulk")
    before = node.resident_mb()

    answer = exchange(node, store_command(str(one.SOPInstanceUID)), bytes(4 * LIMIT_MB * MEGABYTE))

    assert status_of(answer) == OUT_OF_RESOURCES
    assert b"object exceeds limit" in answer[0x0902]
    assert node.resident_mb() - before < GROWTH_MB
    assert_not_kept(node, one)
