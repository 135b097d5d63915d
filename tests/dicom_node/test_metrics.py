"""Prometheus metrics: read from the database at each scrape, the listener's own counters, and no patient."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from dicom_node.metrics import FRESH_S, ListenerMetrics, exposition, listener_file
from dicom_node.settings import Settings, Storage
from storage import turnaround
from storage.database import Database
from storage.models import Clock, Job
from storage.read_models import Standing
from storage.turnaround import Stage
from tests.storage.rows import at
from tests.storage.stories import store, tell


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose spool lies in the test's folder."""
    return Settings(storage=Storage(spool=tmp_path / "spool"))


def samples(text: bytes) -> dict[str, list[tuple[Mapping[str, str], float]]]:
    """Every sample by its name."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            found.setdefault(one.name, []).append((one.labels, one.value))
    return found


def value(text: bytes, name: str, **labels: str) -> float:
    """The one sample with these labels."""
    (found,) = [number for given, number in samples(text)[name] if dict(given) == labels]
    return found


@pytest.mark.feature("A4")
def test_what_waits_and_what_ended_is_counted(database: Database, settings: Settings) -> None:
    told = tell(database, Standing.FINDINGS, "1.2.1")
    assert told.job_id is not None
    store(database, told.job_id, "VIEWER", refused=True)
    tell(database, Standing.REFUSED, "1.2.2", seconds=500)
    tell(database, Standing.WAITING, "1.2.3", seconds=1000)

    text, content_type = exposition(settings, database)

    assert content_type.startswith("text/plain")
    assert value(text, "fovea_database_up") == 1
    assert value(text, "fovea_studies", state="SETTLED") == 3
    assert value(text, "fovea_studies_standing", standing="refused") == 1
    assert value(text, "fovea_studies_standing", standing="quarantined") == 0
    assert value(text, "fovea_jobs", state="SCHEDULED") == 1
    assert value(text, "fovea_deliveries", destination="VIEWER", state="FAILED") == 1
    assert value(text, "fovea_jobs_ended_total", model="brain 1", outcome="refused", reason="slice-gap") == 1
    assert value(text, "fovea_jobs_ended_total", model="brain 1", outcome="findings", reason="") == 1
    assert value(text, "fovea_oldest_waiting_seconds", what="job") > 0
    assert value(text, "fovea_oldest_waiting_seconds", what="delivery") == 0
    assert value(text, "fovea_audit_unsealed_events") > 0


@pytest.mark.feature("A4")
def test_no_metric_names_a_patient_a_study_or_a_peer(sqlite_database: Database, settings: Settings) -> None:
    secrets = {"patient_id": "SECRETID", "patient_name": "SECRET^JANE", "accession_number": "SECRETACC"}
    for number, standing in enumerate(Standing):
        tell(sqlite_database, standing, f"1.2.840.99.{number}", seconds=number * 1000, **secrets)

    text, _ = exposition(settings, sqlite_database)

    assert b"SECRET" not in text
    assert b"1.2.840.99" not in text


@pytest.mark.feature("A6")
def test_each_stage_has_its_durations(database: Database) -> None:
    told = tell(database, Standing.FINDINGS, "1.2.1")
    assert told.job_id is not None
    store(database, told.job_id)

    with database.read() as session:
        stages = turnaround.stage_seconds(session, since=at(0))
        later = turnaround.stage_seconds(session, since=at(1000))
        scores = turnaround.study_scores(session, since=at(0))

    # tests.storage.stories: settled at 30 s, job created at 30, started at 31, ended at 50; sent from 60 to 65
    assert stages == {Stage.RECEIVE: (30.0,), Stage.WAIT: (1.0,), Stage.RUN: (19.0,), Stage.DELIVER: (5.0,)}
    assert later == {Stage.RECEIVE: (), Stage.WAIT: (), Stage.RUN: (), Stage.DELIVER: ()}
    assert scores == {"brain 1": (0.93,)}


def test_quantiles_of_the_last_day_are_shown(sqlite_database: Database, settings: Settings) -> None:
    told = tell(sqlite_database, Standing.FINDINGS, "1.2.1")
    now = datetime.now(UTC)
    with sqlite_database.write() as session:
        session.execute(update(Job).where(Job.id == told.job_id).values(started_at=now - timedelta(seconds=20), ended_at=now))
        session.add(Clock(name="settle", holder="boot", monotonic_s=1.0, beat_at=now))

    text, _ = exposition(settings, sqlite_database)

    assert value(text, "fovea_stage_seconds", stage="run", quantile="0.9") == 20.0
    assert value(text, "fovea_study_score", model="brain 1", quantile="0.5") == 0.93
    assert 0 <= value(text, "fovea_scheduler_beat_age_seconds") < 60


def test_the_scrape_answers_while_the_database_does_not(tmp_path: Path, settings: Settings) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.sqlite")

    text, _ = exposition(settings, database)

    assert value(text, "fovea_database_up") == 0
    assert "fovea_jobs" not in samples(text)
    database.dispose()


@pytest.mark.feature("A4")
def test_what_the_listener_counted_is_passed_on(sqlite_database: Database, settings: Settings) -> None:
    listener = ListenerMetrics()
    listener.association_opened()
    listener.instance_answered(0x0000, size=1000, seconds=0.02)
    listener.instance_answered(0xA700, size=500, seconds=0.01)
    listener.association_closed("released")
    listener.association_refused()
    listener.save(listener_file(settings))

    text, _ = exposition(settings, sqlite_database)

    assert value(text, "fovea_listener_up") == 1
    assert value(text, "fovea_listener_answers_total", status="0x0000") == 1
    assert value(text, "fovea_listener_answers_total", status="0xA700") == 1
    assert value(text, "fovea_listener_received_bytes_total") == 1000
    assert value(text, "fovea_listener_associations_total", outcome="released") == 1
    assert value(text, "fovea_listener_associations_total", outcome="refused") == 1
    assert value(text, "fovea_listener_open_associations") == 0
    assert value(text, "fovea_listener_store_seconds_count") == 2


def test_a_listener_that_saves_nothing_counts_as_down(sqlite_database: Database, settings: Settings) -> None:
    path = listener_file(settings)
    ListenerMetrics().save(path)
    old = datetime.now(UTC).timestamp() - FRESH_S - 1
    os.utime(path, (old, old))

    text, _ = exposition(settings, sqlite_database)

    assert value(text, "fovea_listener_up") == 0
    assert "fovea_listener_received_bytes_total" not in samples(text)
