"""kill -9 at twenty random instants while a study of 300 images is received, analysed and delivered: nothing lost, nothing twice.

The PACS is down while the study comes in and is analysed. The sender behaves as modalities do: what was not acknowledged it sends
again. Half of the kills hit the whole process group, half the supervisor alone, whose roles must then die by themselves.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from storage.read_models import JobStory
from storage.states import DeliveryState, JobState
from tests import data, studies
from tests.node import Node, RuleText, Target, is_delivered, running
from tests.peers import Orthanc, Sender
from tests.studies import T1, T2, Plan
from tests.waiting import wait_until

SEED = 20251122
KILLS_INTO_A_RUN = 4
INTO_A_RUN_S = 0.5
"""At most so long after a run has begun: the whole of it takes two seconds, less on a faster machine."""
QUIET_S = 8.0
"""Longer than the node and the sender need to find each other again, so that the study is received as one."""
PACE_S = 0.015
"""A scanner's pace, so that the kills fall into the transfer and not after it."""
PATIENCE_S = 300.0
"""For each step of the story, on a machine that may be busy with other things: a limit, not an expectation."""

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1500)]


@dataclass(frozen=True, slots=True)
class Fire:
    """How often the node is killed in each part of the story, and how large the study is."""

    receiving: int
    analysing: int
    delivering: int
    images: int


TWENTY_KILLS = Fire(receiving=10, analysing=7, delivering=3, images=300)


@dataclass(slots=True)
class Reaper:
    """Kills and restarts the node at random instants."""

    node: Node
    chance: random.Random
    kills: int = 0
    restarts_s: list[float] = field(default_factory=list)
    """From each start that was waited for to the first answer."""
    _started: float = field(default_factory=time.monotonic)

    def strike(self, longest_s: float) -> None:
        """Wait a random time up to the longest, kill, start again."""
        threading.Event().wait(self.chance.uniform(0.0, longest_s))
        if self.chance.random() < 0.5:
            self.node.kill_group()
        else:
            self.node.kill_supervisor()
        self.kills += 1
        self._started = time.monotonic()
        self.node.start()

    def await_echo(self) -> None:
        """Wait until the node answers, and note how long that took."""
        self.node.await_echo(PATIENCE_S)
        self.restarts_s.append(time.monotonic() - self._started)


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    """An Orthanc that is not started yet."""
    made = Orthanc(tmp_path / "pacs")
    yield made
    made.stop()


@pytest.fixture
def node(tmp_path: Path, pacs: Orthanc) -> Iterator[Node]:
    """A node of its own, started."""
    made = Node(
        tmp_path / "node",
        targets=[Target("pacs", pacs.ae_title, pacs.port)],
        rules=[RuleText("brain", ("pacs",))],
        settle_after_s=QUIET_S,
    )
    with running(made):
        yield made


@pytest.mark.feature("R6")
def test_twenty_kills_lose_nothing_and_deliver_exactly_one_result_set(node: Node, pacs: Orthanc) -> None:
    kill_and_look(node, pacs, TWENTY_KILLS)


def kill_and_look(node: Node, pacs: Orthanc, fire: Fire) -> Reaper:
    """Receive, analyse and deliver one study under fire; then everything is there, once. The reaper, for its figures."""
    datasets = _study(fire.images)
    uid = str(datasets[0].StudyInstanceUID)
    sender = Sender(node.port, pace_s=PACE_S)
    reaper = Reaper(node, random.Random(SEED))

    _receive_under_fire(node, sender, reaper, datasets, fire.receiving)
    _analyse_under_fire(node, reaper, uid, fire.analysing)
    pacs.start()
    for _ in range(fire.delivering):
        reaper.strike(5.0)
    job = node.await_delivered(uid, timeout_s=PATIENCE_S)

    assert reaper.kills == fire.receiving + fire.analysing + fire.delivering
    _assert_all_kept(node, datasets, sender.acknowledged)
    _assert_one_result_set(node, pacs, uid, job)
    assert [one.outcome for one in job.attempts].count("lease expired") >= KILLS_INTO_A_RUN - 1
    assert job.attempts[-1].outcome == "completed"
    assert node.fovea("audit", "verify").returncode == 0
    return reaper


def _receive_under_fire(node: Node, sender: Sender, reaper: Reaper, datasets: list[Dataset], kills: int) -> None:
    """Send and send again what is not acknowledged, while the reaper strikes; then the rest in peace."""
    with ThreadPoolExecutor(1) as pool:
        strikes = pool.submit(_strike_on_reception, reaper, kills)
        while not strikes.done():
            sender.send(datasets)
        strikes.result()
    node.await_echo()
    wait_until("everything is acknowledged", lambda: sender.send(datasets), PATIENCE_S)
    assert sender.refused == {}
    assert len(sender.acknowledged) == len(datasets)


def _strike_on_reception(reaper: Reaper, kills: int) -> None:
    for _ in range(kills):
        reaper.await_echo()
        reaper.strike(1.0)


def _analyse_under_fire(node: Node, reaper: Reaper, uid: str, kills: int) -> None:
    """Strike while the study is analysed, four times into a run; then the results are made, and have nowhere to go."""
    for strike in range(kills):
        if strike < KILLS_INTO_A_RUN:
            wait_until("a run has begun", lambda number=strike + 1: _attempts(node, uid) >= number, PATIENCE_S)  # type: ignore[misc]
        reaper.strike(INTO_A_RUN_S if strike < KILLS_INTO_A_RUN else 2.0)

    def waits_for_the_pacs() -> bool:
        (job,) = node.told(uid).jobs
        tried = all(one.attempt >= 1 and one.state is DeliveryState.PENDING for one in job.deliveries)
        return job.row.state is JobState.COMPLETED and tried

    wait_until("the results wait for the PACS", waits_for_the_pacs, PATIENCE_S)


def _attempts(node: Node, uid: str) -> int:
    jobs = node.told(uid).jobs
    return len(jobs[0].attempts) if jobs else 0


def _study(images: int) -> list[Dataset]:
    """A FLAIR of a real patient, and small T1 and T2 series that make up the number of images."""
    plan = Plan(study="under fire", accession_number="FIRE1", patient=studies.Patient("FIRE-1"))
    flair = data.patient_series(data.patient_names()[0], plan)
    small = replace(plan, rows=64, columns=64, pixel_spacing_mm=(3.75, 3.75), gap_mm=1.0, thickness_mm=1.0)
    rest = images - len(flair)
    t1 = studies.series(replace(small, kind=T1, series_number=4, slices=rest // 2))
    t2 = studies.series(replace(small, kind=T2, series_number=5, slices=rest - rest // 2))
    datasets = [*flair, *t1, *t2]
    random.Random(SEED).shuffle(datasets)
    assert len(datasets) == images
    return datasets


def _assert_all_kept(node: Node, datasets: list[Dataset], acknowledged: set[str]) -> None:
    kept = node.kept(str(datasets[0].StudyInstanceUID))
    assert set(kept) == acknowledged
    for dataset in datasets:
        read = dcmread(kept[str(dataset.SOPInstanceUID)])
        assert np.array_equal(read.pixel_array, np.frombuffer(dataset.PixelData, "<u2").reshape(read.Rows, read.Columns))


def _assert_one_result_set(node: Node, pacs: Orthanc, uid: str, job: JobStory) -> None:
    story = node.told(uid)
    segmentations, reports = pacs.results(uid)
    assert story.study.revision == 1
    assert [one.row.id for one in story.jobs] == [job.row.id]
    assert is_delivered(job)
    assert len(reports) == 1
    assert len(segmentations) == (1 if job.row.findings else 0)
    at_the_pacs = {str(one.SOPInstanceUID) for one in [*segmentations, *reports]}
    assert at_the_pacs == {one.sop_instance_uid for one in job.results}
