"""`make soak`: the fuzzers, for FOVEA_SOAK_S seconds each (600 by default), from a seed that FOVEA_SOAK_SEED may choose."""

from __future__ import annotations

import os
import random
import time
from itertools import count
from pathlib import Path
from typing import get_args

import pytest

from dicom_node.intake import Examined
from dicom_node.settings import ReceivePath
from tests import data as real_data
from tests.fuzz.corpus import real_samples, samples, with_data
from tests.fuzz.guided import mutated
from tests.fuzz.properties import agrees_with_pydicom, fuzz_commands, fuzz_intake, fuzz_requests, judged
from tests.fuzz.wire import say, spoiled
from tests.hostile.listener import GROWTH_MB, listening, sent, small
from tests.network import CALLED, CALLING, EXPLICIT, MR, associate_rq, store_command

SECONDS = float(os.environ.get("FOVEA_SOAK_S", "600"))
SEED = int(os.environ.get("FOVEA_SOAK_SEED", "1"))
NO_LIMIT = 2**62


def test_intake(tmp_path: Path) -> None:
    seeds = [*samples(), *real_samples(real_data.ge_series(tmp_path)[:3])]

    fuzzed = fuzz_intake(seeds, count=NO_LIMIT, seconds=SECONDS, seed=SEED)

    print(
        f"\nintake: {fuzzed.tried} objects, {len(fuzzed.reached)} lines, {len(fuzzed.population) - len(seeds)} reached new ones"
    )


def test_agreement_with_pydicom() -> None:
    chance, deadline = random.Random(SEED), time.monotonic() + SECONDS
    raw = [one.data for one in samples()]
    tried = agreed = 0
    while time.monotonic() < deadline:
        one = chance.choice(samples())
        changed = with_data(one, mutated(one.data, chance, raw))
        found = judged(changed)
        tried += 1
        if isinstance(found, Examined):
            agrees_with_pydicom(changed, found)
            agreed += 1

    print(f"\nagreement: {tried} objects, {agreed} of them taken, and pydicom reads each alike")


def test_requests_and_commands() -> None:
    request = associate_rq([(MR, (EXPLICIT,))] * 5, calling=CALLING, called=CALLED)[6:]
    commands = [store_command("1.2.3"), store_command(None)]

    requests = fuzz_requests([request], count=NO_LIMIT, seconds=SECONDS / 2, seed=SEED)
    sets = fuzz_commands(commands, count=NO_LIMIT, seconds=SECONDS / 2, seed=SEED)

    print(f"\n{requests.tried} association requests, {sets.tried} command sets")


@pytest.mark.parametrize("receive_path", get_args(ReceivePath))
def test_conversations(tmp_path: Path, receive_path: ReceivePath) -> None:
    with listening(tmp_path, receive_path) as node:
        idle_mb, threads = node.resident_mb(), node.process.num_threads()
        deadline, longest, streams = time.monotonic() + SECONDS, 0.0, spoiled(SEED)
        for number in count():
            if time.monotonic() > deadline:
                break
            longest = max(longest, say(node.port, next(streams), timeout_s=60))
            if number % 500 == 0:
                assert sent(node, small(f"between {number}")[0]) == 0x0000
        growth_mb = node.highest_mb() - idle_mb
        left = node.process.num_threads() - threads

        print(
            f"\n{receive_path}: {number} conversations, the longest {longest:.1f} s, "
            f"{growth_mb:.0f} MB above idle, {left} threads more than before"
        )
        assert growth_mb < GROWTH_MB
        assert "Traceback" not in node.log
