"""`fovea reconcile DAY`, as an administrator runs it: what it prints, what a program reads, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import select, update

from dicom_node.reconcile_view import day_named
from dicom_node.workflow import Site, utc_now
from storage.database import Database
from storage.models import Study
from tests.archive import Archive, running
from tests.parcels import kinds, results, until_idle, waiting
from tests.site import site, write_card

pytestmark = pytest.mark.feature("V3")
ROOT = Path(__file__).parents[2]


def fovea(folder: Path, where: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = folder / "fovea.toml"
    config.write_text(
        f'[storage]\nspool = "{where.settings.storage.spool}"\nreserve_mb = 0\ndatabase_url = "{where.database._url}"\n'
        f'[[models]]\nname = "brain-flair"\npath = "{write_card(folder / "bundle")}"\n'
        '[[destinations]]\nname = "pacs"\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = 1\nproof = "query"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "dicom_node.cli", "reconcile", *arguments, "--config", str(config)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_day_that_adds_up_and_one_that_does_not(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database, delivering={"retry_after_s": 0.001})
    waiting(where, results(1))
    with where.database.write() as session:
        session.execute(update(Study).values(state="SETTLED", settled_at=utc_now()))
        today = session.scalars(select(Study.first_received_at)).one().date().isoformat()

    before = fovea(tmp_path, where, today, "--json")
    with running(Archive()) as archive:
        until_idle(where, archive.destination(proof="query"))
    after = fovea(tmp_path, where, today, "--json")
    shown = fovea(tmp_path, where, today)

    assert before.returncode == 4, before.stderr
    told = json.loads(before.stdout)
    assert (told["received"], told["counts"]["open"], len(told["difference"])) == (1, 1, 1)
    assert told["studies"][0]["deliveries"][0]["state"] == "PENDING"
    assert after.returncode == 0, after.stderr
    assert json.loads(after.stdout)["counts"]["proven"] == 1
    assert "1 studies received (1 instances, 0 rejected) = 0 refused + 1 proven + 0 delivered" in shown.stdout
    assert "difference 0" in shown.stdout
    assert kinds(where).count("audit queried") == 3


@pytest.mark.slow
def test_what_is_no_day_is_a_wrong_call(tmp_path: Path, sqlite_database: Database) -> None:
    answer = fovea(tmp_path, site(tmp_path, sqlite_database), "31.12.2026")

    assert answer.returncode == 2
    assert "is not a day" in answer.stderr


def test_days_by_name() -> None:
    today = date(2026, 3, 1)

    assert [day_named(text, today) for text in ("today", "yesterday", "2026-02-03")] == [
        today,
        date(2026, 2, 28),
        date(2026, 2, 3),
    ]
