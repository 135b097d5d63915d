"""Searching the events: by identity, also a former one; by peer, model, person and time; pages and streams."""

from __future__ import annotations

from datetime import timedelta

import pytest

from storage import events
from storage.audit_search import AuditFilter, search_audit, stream_audit, study_events
from storage.database import Database
from storage.events import EventKind
from storage.read_models import Standing
from tests.storage.rows import at, received, take, the_study
from tests.storage.stories import settle, tell


def found(database: Database, chosen: AuditFilter) -> list[str]:
    """The kinds of what the filter finds, oldest first."""
    with database.read() as session:
        return [row.kind for row in reversed(search_audit(session, chosen).rows)]


@pytest.mark.feature("A1")
@pytest.mark.parametrize(
    "chosen",
    [
        AuditFilter(accession_number="A7"),
        AuditFilter(study_instance_uid="1.2.7"),
        AuditFilter(patient_id="P7"),
        AuditFilter(accession_number=" A7 ", patient_id="P7"),
    ],
    ids=["accession", "study", "patient", "both, with blanks"],
)
def test_everything_of_one_study_is_found_and_nothing_of_another(database: Database, chosen: AuditFilter) -> None:
    tell(database, Standing.FINDINGS, "1.2.7", accession_number="A7", patient_id="P7")
    tell(database, Standing.FINDINGS, "1.2.8", seconds=500, accession_number="A8", patient_id="P8")

    kinds = found(database, chosen)

    assert kinds == ["study settled", "job started", "job ended"]


@pytest.mark.feature("A1")
def test_a_corrected_accession_number_finds_what_happened_under_the_old_one(database: Database) -> None:
    same = {"digest": "1" * 64, "pixel_digest": "2" * 64}
    take(database, received("1.2.7", accession_number="OLD", **same))
    with database.write() as session:
        settle(session, "1.2.7")
    take(database, received("1.2.7", accession_number="NEW", **{**same, "digest": "3" * 64}), seconds=60)
    with database.write() as session:
        settle(session, "1.2.7", seconds=100)
        assert the_study(session, "1.2.7").accession_number == "NEW"

    by_new = found(database, AuditFilter(accession_number="NEW"))
    by_old = found(database, AuditFilter(accession_number="OLD"))

    assert by_new.count("study settled") == 2
    assert by_old == by_new


def test_peer_model_person_kind_job_and_time_narrow_the_search(database: Database) -> None:
    with database.write() as session:
        events.append(session, EventKind.ASSOCIATION_OPENED, at=at(0), peer="PACS", address="10.1.2.7", user=None)
        events.append(
            session,
            EventKind.JOB_ENDED,
            at=at(10),
            model="brain-flair 1.0.0",
            model_digest="ab" * 32,
            job_id=5,
        )
        events.append(session, EventKind.STUDY_VIEWED, at=at(20), user="session 1")

    assert found(database, AuditFilter(peer="PACS")) == ["association opened"]
    assert found(database, AuditFilter(peer="10.1.2.7")) == ["association opened"]
    assert found(database, AuditFilter(model="brain-flair")) == ["job ended"]
    assert found(database, AuditFilter(model="brain-flair 1.0.0")) == ["job ended"]
    assert found(database, AuditFilter(model="ABABABAB")) == ["job ended"]
    assert found(database, AuditFilter(model="brain")) == []
    assert found(database, AuditFilter(model="abab")) == []
    assert found(database, AuditFilter(user="session 1")) == ["study viewed"]
    assert found(database, AuditFilter(kind="job ended", job_id=5)) == ["job ended"]
    assert found(database, AuditFilter(job_id=6)) == []
    assert found(database, AuditFilter(since=at(10), until=at(20))) == ["job ended"]


def test_pages_go_back_in_time_without_gap_or_overlap(database: Database) -> None:
    with database.write() as session:
        for number in range(7):
            events.append(session, EventKind.STUDY_VIEWED, at=at(number), job_id=number)

    seen: list[int | None] = []
    older: int | None = None
    with database.read() as session:
        while True:
            page = search_audit(session, AuditFilter(), limit=3, before_id=older)
            seen += [row.job_id for row in page.rows]
            assert page.total == 7
            older = page.older
            if older is None:
                break

    assert seen == [6, 5, 4, 3, 2, 1, 0]


def test_the_stream_is_complete_oldest_first_and_ends_where_it_began(database: Database) -> None:
    with database.write() as session:
        for number in range(25):
            events.append(session, EventKind.STUDY_VIEWED, at=at(number), job_id=number)

    streamed: list[int | None] = []
    for row in stream_audit(database, AuditFilter(), step=10):
        streamed.append(row.job_id)
        if len(streamed) == 1:
            with database.write() as session:
                events.append(session, EventKind.AUDIT_EXPORTED, at=at(100), job_id=99)

    assert streamed == list(range(25))


def test_the_record_of_a_filter_names_only_what_was_asked() -> None:
    chosen = AuditFilter(patient_id="P7", since=at(0), until=at(0) + timedelta(days=1))

    assert chosen.as_json() == {
        "patient_id": "P7",
        "since": "2026-03-01T12:00:00+00:00",
        "until": "2026-03-02T12:00:00+00:00",
    }


def test_the_events_of_one_study_say_how_many_there_are_beyond_the_limit(database: Database) -> None:
    tell(database, Standing.FINDINGS, "1.2.7")

    with database.read() as session:
        page = study_events(session, "1.2.7", limit=2)

    assert [row.kind for row in page.rows] == ["job ended", "job started"]
    assert page.total == 3
