"""A model bundle is replaced while a study waits for it, and again after its result: the answer comes from the new one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import inference
from storage.states import JobState
from tests import peers
from tests.acceptance.patients import one_case
from tests.acceptance.test_revisions import not_replaced
from tests.node import Node, RuleText, Target, current_reports, running
from tests.peers import Orthanc, running_orthanc
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]


@pytest.mark.feature("C4")
def test_a_replaced_model_answers_for_the_studies_that_waited_for_the_old_one(tmp_path: Path) -> None:
    case = one_case("model", "model change", accession_number="MODEL1")
    pacs = Orthanc(tmp_path / "pacs")
    bundle = tmp_path / "bundle"
    shutil.copytree(Path(inference.__path__[0]) / "models" / "brain-flair", bundle)
    _new_version(bundle, "1.old")
    node = Node(
        tmp_path / "node",
        targets=[Target("pacs", pacs.ae_title, pacs.port)],
        rules=[RuleText("brain", ("pacs",))],
        bundle=bundle,
    )
    uid = case.study_instance_uid
    with running_orthanc(pacs), running(node):
        peers.storescu(node.port, case.datasets[:-1], tmp_path / "early")
        wait_until("the job runs", lambda: _states(node, uid) == [JobState.IN_PROGRESS])
        node.kill_group()
        _new_version(bundle, "2.new")
        node.start()
        first = node.await_delivered(uid)
        node.stop()
        _new_version(bundle, "3.newer")
        node.start()
        node.await_echo()
        peers.storescu(node.port, case.datasets[-1:], tmp_path / "late")
        second = node.await_delivered(uid, revision=2)

        reports = pacs.objects(uid, "SR")
        (current,) = current_reports(node.told(uid))
        changes = [detail for kind, detail in node.events() if kind == "model changed"]
    assert first.row.model == "brain-flair 2.new"
    assert second.row.model == "brain-flair 3.newer"
    assert _states(node, uid).count(JobState.CANCELED) == 1
    assert len(reports) == 2
    assert not_replaced(reports) == [current]
    assert len(changes) == 3


def _new_version(bundle: Path, version: str) -> None:
    card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
    (bundle / "card.json").write_text(json.dumps({**card, "version": version}), encoding="utf-8")


def _states(node: Node, study_instance_uid: str) -> list[JobState]:
    story = node.story(study_instance_uid)
    return [job.row.state for job in story.jobs] if story else []
