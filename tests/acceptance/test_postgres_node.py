"""The same path with PostgreSQL: received, analysed, delivered, killed on the way, and audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.states import StudyState
from tests import peers
from tests.acceptance.patients import one_case
from tests.node import Node, RuleText, Target, running
from tests.peers import Orthanc, running_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]


@pytest.mark.feature("C6")
def test_a_study_goes_through_a_node_on_postgresql_that_is_killed_on_the_way(tmp_path: Path, postgres_url: str) -> None:
    case = one_case("postgres", "on postgres", accession_number="PG1")
    pacs = Orthanc(tmp_path / "pacs")
    node = Node(
        tmp_path / "node",
        targets=[Target("pacs", pacs.ae_title, pacs.port)],
        rules=[RuleText("brain", ("pacs",))],
        database_url=postgres_url,
    )
    with running_orthanc(pacs), running(node):
        peers.storescu(node.port, case.datasets, tmp_path / "sent")
        node.await_state(case.study_instance_uid, StudyState.SETTLED)
        node.kill_group()
        node.start()
        node.await_echo()
        node.await_delivered(case.study_instance_uid)

        _, reports = pacs.results(case.study_instance_uid)
        verified = node.fovea("audit", "verify")
        told = node.fovea("audit", "--accession", "PG1")
    assert len(reports) == 1
    assert set(node.kept(case.study_instance_uid)) == set(case.sop_instance_uids)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "delivery succeeded" in told.stdout
    assert not (node.spool.parent / "fovea.sqlite").exists()
