"""One hospital for the whole folder: a node, and an Orthanc that sends to it and routes back to it whatever it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.node import Node, RuleText, Target, running
from tests.peers import MoodyPacs, Orthanc, running_orthanc

SETTLE_AFTER_S = 4.0
"""Orthanc routes instance by instance, each over an association of its own; on a busy machine seconds may pass between two."""


@dataclass(frozen=True, slots=True)
class Hospital:
    """The node, its PACS, and a destination of moods; `folder` is for the tests' files."""

    node: Node
    pacs: Orthanc
    moody: MoodyPacs
    folder: Path


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A running node and a running Orthanc that autoroutes every new instance to it, results included."""
    folder = tmp_path_factory.mktemp("hospital")
    pacs = Orthanc(folder / "pacs")
    moody = MoodyPacs(status=0xA900)
    moody.start()
    node = Node(
        folder / "node",
        targets=[Target("pacs", pacs.ae_title, pacs.port), Target("moody", moody.ae_title, moody.port)],
        rules=[RuleText("research", ("moody",), 'from_peers = ["RESEARCH"]'), RuleText("brain", ("pacs",))],
        peers=("MODALITY", "ORTHANC", "RESEARCH"),
        settle_after_s=SETTLE_AFTER_S,
    )
    pacs.routes_to = ("FOVEA", node.port)
    try:
        with running_orthanc(pacs), running(node):
            yield Hospital(node, pacs, moody, folder)
    finally:
        moody.stop()
