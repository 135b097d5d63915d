"""A bounded run of the fuzzers; `make soak` lets them run for as long as it is told."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node import text
from dicom_node.header import InstanceHeader
from dicom_node.intake import Examined, Status
from dicom_node.settings import ReceivePath
from storage.database import Database
from storage.spool import Spool
from tests import data as real_data
from tests.fuzz.corpus import Sample, real_samples, samples, with_data
from tests.fuzz.guided import mutated
from tests.fuzz.properties import (
    agrees_with_pydicom,
    fuzz_commands,
    fuzz_intake,
    fuzz_requests,
    judged,
    memory_of,
    plain_size,
)
from tests.fuzz.wire import say_all, spoiled
from tests.hostile.listener import send_over, small
from tests.network import CALLED, CALLING, EXPLICIT, MR, Running, Wire, associate_rq, listening, store_command

pytestmark = pytest.mark.feature("R5", "S1")

SEED = 20251122
BOUND_S = 15.0


@pytest.mark.parametrize("one", samples(), ids=lambda one: one.name)
def test_every_sample_is_taken_and_read_alike_by_pydicom(one: Sample) -> None:
    found = judged(one)

    assert isinstance(found, Examined)
    agrees_with_pydicom(one, found)


@pytest.mark.parametrize("one", samples(), ids=lambda one: one.name)
def test_a_sample_cut_anywhere_is_refused_unless_what_is_left_is_whole(one: Sample) -> None:
    """Between two elements a data set may end (PS3.5 7.1); everywhere else it is cut off."""
    taken = [size for size in range(len(one.data)) if isinstance(judged(with_data(one, one.data[:size])), Examined)]

    if one.command.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        assert set(taken) <= {len(one.data) - 1}, "the padding byte alone may be missing"
    for size in taken:
        rest = with_data(one, one.data[:size])
        found = judged(rest)
        assert isinstance(found, Examined)
        agrees_with_pydicom(rest, found)


@pytest.mark.slow
def test_mutated_objects_give_facts_or_a_refusal_in_proportion_to_their_size() -> None:
    fuzzed = fuzz_intake(samples(), count=8000, seconds=BOUND_S, seed=SEED)

    assert fuzzed.tried > 500
    assert len(fuzzed.population) > len(samples()), "guidance finds inputs that reach more than the samples do"


@pytest.mark.peer
def test_mutated_real_files_give_facts_or_a_refusal(tmp_path: Path) -> None:
    seeds = real_samples(real_data.ge_series(tmp_path)[:2])

    assert all(isinstance(judged(one), Examined) for one in seeds)
    assert fuzz_intake(seeds, count=3000, seconds=BOUND_S, seed=SEED).tried > 200


def test_what_is_taken_after_a_mutation_pydicom_reads_alike() -> None:
    chance = random.Random(SEED)
    raw = [one.data for one in samples()]
    agreed = 0
    for _ in range(1500):
        one = chance.choice(samples())
        changed = with_data(one, mutated(one.data, chance, raw))
        found = judged(changed)
        if isinstance(found, Examined):
            agrees_with_pydicom(changed, found)
            agreed += 1

    assert agreed > 100


PLAIN = samples()[0]
AFTER_THE_FIRST = PLAIN.data.index(b"\x08\0\x08\0")
REGRESSIONS = {
    # found by mutation: a control character in a UID was dropped, so that the row had another UID than the file
    "control character in a UID": (PLAIN.data.replace(b"\x20\0\x0d\0UI\x40\x001.2", b"\x20\0\x0d\0UI\x40\x001\x0e2"), 0xA900),
    # pydicom cannot open such a file at all, and no report could be made of it
    "NUL in the character set": (PLAIN.data.replace(b"ISO_IR 100", b"ISO\0IR 100"), 0xC000),
    # a letter of a deflate stream made every UID an unsigned long, and readers found numbers
    "UID of another VR": (PLAIN.data.replace(b"\x20\0\x0d\0UI", b"\x20\0\x0d\0UL"), 0xC000),
    # readers end such an element at the first delimiter inside and take what follows for elements
    "undefined length of what is no sequence": (
        PLAIN.data[:AFTER_THE_FIRST]
        + struct.pack("<HH2s2xIHHI", 0x0008, 0x0112, b"UN", 0xFFFFFFFF, 0xFFFE, 0xE0DD, 0)
        + PLAIN.data[AFTER_THE_FIRST:],
        0xC000,
    ),
    # an item's header between elements was taken for an element of the VR that its length spells
    "item outside of a sequence": (
        PLAIN.data[:AFTER_THE_FIRST] + struct.pack("<HH2sH", 0xFFFE, 0xE000, b"UI", 0) + PLAIN.data[AFTER_THE_FIRST:],
        0xC000,
    ),
}


@pytest.mark.parametrize("found", REGRESSIONS)
def test_what_fuzzing_found_stays_mended(found: str) -> None:
    data, status = REGRESSIONS[found]

    assert data != PLAIN.data
    assert judged(with_data(PLAIN, data)) == status


def test_a_vr_of_a_later_edition_hides_nothing_that_comes_after_it() -> None:
    at = PLAIN.data.index(b"\x10\0\x10\0PN")
    one = with_data(PLAIN, PLAIN.data[:at] + struct.pack("<HH2s2xI", 0x0008, 0x9999, b"CQ", 4) + b"abcd" + PLAIN.data[at:])

    found = judged(one)

    assert isinstance(found, Examined)
    assert found.study_instance_uid == judged(PLAIN).study_instance_uid  # type: ignore[union-attr]
    agrees_with_pydicom(one, found)


@pytest.mark.parametrize("one", samples(), ids=lambda one: one.name)
def test_memory_is_in_proportion_to_what_is_looked_at(one: Sample) -> None:
    chance = random.Random(SEED)
    for _ in range(20):
        changed = with_data(one, mutated(one.data, chance, [one.data]))

        assert memory_of(changed) < 256 * 1024 + 3 * plain_size(changed)


def test_mutated_association_requests_are_malformed_or_bearable() -> None:
    honest = associate_rq([(MR, (EXPLICIT,))] * 5, calling=CALLING, called=CALLED)[6:]

    assert fuzz_requests([honest], count=5000, seconds=BOUND_S, seed=SEED).tried > 500


def test_mutated_command_sets_are_unreadable_or_requests() -> None:
    honest = [store_command("1.2.3"), store_command(None), store_command("1.2.3", has_data=False)]

    assert fuzz_commands(honest, count=5000, seconds=BOUND_S, seed=SEED).tried > 500


@pytest.mark.slow
@given(st.binary(max_size=200), st.text(max_size=40))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_in_any_character_set_are_text(value: bytes, character_set: str) -> None:
    decoded = text.text(value, text.encodings(character_set))

    assert "\x00" not in decoded
    assert decoded == decoded.strip()
    text.decimals(decoded)
    text.integer(decoded)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4),
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([*InstanceHeader.__slots__, "unknown"]), _JSON))
@settings(max_examples=200, deadline=None)
def test_a_header_of_another_version_is_read_back(stored: dict[str, object]) -> None:
    assert set(InstanceHeader.from_json(stored).as_json()) == set(InstanceHeader.__slots__)


@pytest.fixture
def here(sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> Iterator[Running]:
    with listening(sqlite_database, spool, path=receive_path) as node:
        yield node


@pytest.mark.slow
def test_spoiled_conversations_end_and_the_next_sender_is_served(here: Running) -> None:
    streams = list(islice(spoiled(SEED), 120))

    longest = say_all(here.port, streams, timeout_s=30)

    assert longest < 20
    with Wire(here.port, timeout_s=30) as wire:
        assert send_over(wire, small("after the fuzzer")[0]) == Status.SUCCESS
