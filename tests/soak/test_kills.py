"""`make soak`: 200 kill -9 at random instants while a study of 1,000 images is received, analysed and delivered."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.test_kill import Fire, kill_and_look, node, pacs
from tests.node import Node
from tests.peers import Orthanc

__all__ = ["node", "pacs"]

# most kills fall into reception; each kill of an analysis costs the run's time again, and a job is given up after 100 claims
TWO_HUNDRED_KILLS = Fire(receiving=130, analysing=50, delivering=20, images=1000)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.timeout(10800)
def test_two_hundred_kills_lose_nothing_and_deliver_exactly_one_result_set(node: Node, pacs: Orthanc) -> None:
    began = time.monotonic()

    reaper = kill_and_look(node, pacs, TWO_HUNDRED_KILLS)

    minutes, waits = (time.monotonic() - began) / 60, sorted(reaper.restarts_s)
    print(
        f"\n{reaper.kills} kills during a study of {TWO_HUNDRED_KILLS.images} images: 0 lost, 0 doubled, in {minutes:.0f} "
        f"minutes; {len(waits)} restarts waited for, median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s"
    )
