"""`make soak`: the PACS is away for a day in simulated time, the node is killed three times, and nobody does anything.

A wait of `retry_at_most_s` is 900 s by default and 2 s here, so that 192 s stand for a day. Studies arrive all the while.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from storage.states import DeliveryState
from tests import studies
from tests.node import Node, RuleText, Target, running
from tests.peers import Orthanc, Sender
from tests.studies import T1, Plan
from tests.waiting import wait_until

A_DAY_S = float(os.environ.get("FOVEA_SOAK_OUTAGE_S", "192"))
RESTARTS = 3
STUDIES = 24
SMALL = Plan(kind=T1, slices=10, rows=32, columns=32, pixel_spacing_mm=(7.0, 7.0))
"""Refused by the model: a report each, and no network runs."""


def test_everything_is_delivered_and_committed_after_a_day_without_the_pacs(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    node = Node(
        tmp_path / "node",
        targets=[Target("pacs", pacs.ae_title, pacs.port, proof="commitment")],
        rules=[RuleText("brain", ("pacs",))],
        peers=("MODALITY", "ORTHANC"),
    )
    pacs.knows = ("FOVEA", node.port)
    plans = [replace(SMALL, study=f"outage {number}", accession_number=f"OUT{number}") for number in range(STUDIES)]
    kills = 0
    try:
        with running(node):
            began = time.monotonic()
            for number, plan in enumerate(plans, 1):
                sender = Sender(node.port)
                wait_until("the study is acknowledged", lambda sender=sender, plan=plan: sender.send(studies.series(plan)), 120)  # type: ignore[misc]
                if number % (STUDIES // (RESTARTS + 1)) == 0 and kills < RESTARTS:
                    node.kill_group()
                    node.start()
                    node.await_echo(180)
                    kills += 1
                threading.Event().wait(max(0.0, began + A_DAY_S * number / STUDIES - time.monotonic()))
            away_s = time.monotonic() - began
            pacs.start()
            for plan in plans:
                node.await_delivered(plan.study_instance_uid, timeout_s=300)
            wait_until("everything is committed", lambda: all(is_committed(node, plan) for plan in plans), 300)
            back_s = time.monotonic() - began - away_s
            reports = [len(pacs.objects(plan.study_instance_uid, "SR")) for plan in plans]
            balance = node.fovea("reconcile", "today")
    finally:
        pacs.stop()

    print(
        f"\n{STUDIES} studies, PACS away {away_s:.0f} s (waits of 2 s for 900 s), {kills} kills: all committed "
        f"{back_s:.0f} s after it came back; reconcile ended with {balance.returncode}"
    )
    assert kills == RESTARTS
    assert reports == [1] * STUDIES
    assert balance.returncode == 0, balance.stdout + balance.stderr


def is_committed(node: Node, plan: Plan) -> bool:
    """True where every delivery of the study is proven."""
    jobs = node.told(plan.study_instance_uid).jobs
    return bool(jobs) and all(one.state is DeliveryState.COMMITTED for job in jobs for one in job.deliveries)
