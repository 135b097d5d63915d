"""What people look at: standings, filters, pages, one study's story, the queue, dead letters."""

from __future__ import annotations

import pytest

from storage import queries, queue
from storage.database import Database
from storage.models import Job
from storage.read_models import Standing, StudyFilter
from storage.states import DeliveryState, JobState, StudyEvent, StudyState
from tests.storage.rows import at, received, take, the_study
from tests.storage.stories import claim, receive, schedule, settle, store, summary, tell


@pytest.mark.feature("A3")
@pytest.mark.parametrize("standing", list(Standing), ids=[one.value for one in Standing])
def test_every_standing_is_told_apart(database: Database, standing: Standing) -> None:
    told = tell(database, standing, "1.2.3")

    with database.read() as session:
        row = queries.list_studies(session).rows[0]
        counts = queries.count_standings(session)

    assert row.id == told.study_id
    assert row.standing is standing
    assert counts == {standing: 1}


def test_the_filter_finds_each_standing_and_nothing_else(database: Database) -> None:
    for number, standing in enumerate(Standing):
        tell(database, standing, f"1.2.{number}", seconds=number * 1000)

    with database.read() as session:
        found = {
            standing: [row.standing for row in queries.list_studies(session, StudyFilter(standing=standing)).rows]
            for standing in Standing
        }

    assert found == {standing: [standing] for standing in Standing}


def test_a_failed_job_shows_before_the_finding_of_another_rule(database: Database) -> None:
    tell(database, Standing.FINDINGS, "1.2.3")
    with database.write() as session:
        other = schedule(session, "1.2.3", name="other", rule="t1", seconds=60)
        queue.give_up_job(session, claim(session, other, seconds=61), at=at(70), reason="crashed", detail=None, summary=None)

    with database.read() as session:
        row = queries.list_studies(session).rows[0]

    assert row.standing is Standing.FAILED
    assert [(job.rule, job.standing) for job in row.jobs] == [
        ("flair", Standing.FINDINGS),
        ("t1", Standing.FAILED),
    ]


def test_a_newer_job_of_the_same_rule_takes_the_place_of_the_older(database: Database) -> None:
    told = tell(database, Standing.FAILED, "1.2.3")
    with database.write() as session:
        newer = schedule(session, "1.2.3", name="again", seconds=100)
        queue.finish_job(
            session,
            claim(session, newer, seconds=101),
            at=at(120),
            peak_memory_mb=None,
            outcome="completed",
            summary=summary("no finding"),
        )
        newer_id = newer.id

    with database.read() as session:
        row = queries.list_studies(session).rows[0]
        story = queries.study_story(session, told.study_id)

    assert row.standing is Standing.NO_FINDING
    assert [job.id for job in row.jobs] == [newer_id]
    assert story is not None
    assert [job.row.id for job in story.jobs] == [newer_id, told.job_id]


def test_an_older_job_wanted_again_by_a_later_revision_is_the_current_one(database: Database) -> None:
    told = tell(database, Standing.CANCELED, "1.2.3")
    with database.write() as session:
        second = schedule(session, "1.2.3", name="second", seconds=100)
        claimed = claim(session, second, seconds=101)
        queue.finish_job(session, claimed, at=at(120), peak_memory_mb=None, outcome="completed", summary=summary("findings"))
        first = session.get_one(Job, told.job_id)
        first.revision = second.revision + 1
        queue.resubmit_job(session, first, user=None, at=at(200))

    with database.read() as session:
        row = queries.list_studies(session).rows[0]

    assert row.standing is Standing.WAITING
    assert [job.id for job in row.jobs] == [told.job_id]


def test_the_newest_study_comes_first_and_pages_do_not_overlap(database: Database) -> None:
    for number in range(7):
        receive(database, f"1.2.{number}", seconds=number * 10)

    with database.read() as session:
        pages = [queries.list_studies(session, offset=offset, limit=3) for offset in (0, 3, 6, 9)]

    assert [[row.study_instance_uid for row in page.rows] for page in pages] == [
        ["1.2.6", "1.2.5", "1.2.4"],
        ["1.2.3", "1.2.2", "1.2.1"],
        ["1.2.0"],
        [],
    ]
    assert {page.total for page in pages} == {7}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A77", ["1.2.2"]),
        ("P2", ["1.2.2"]),
        ("doe", ["1.2.1"]),
        ("1.2.1", ["1.2.1"]),
        ("%", []),
        ("_", []),
        ("", ["1.2.2", "1.2.1"]),
        ("A77' OR '1'='1", []),
    ],
)
def test_text_finds_by_accession_patient_name_and_uid(database: Database, text: str, found: list[str]) -> None:
    receive(database, "1.2.1")
    receive(database, "1.2.2", seconds=5, patient_id="P2", patient_name="Roe^Richard", accession_number="A77")

    with database.read() as session:
        page = queries.list_studies(session, StudyFilter(text=text))

    assert [row.study_instance_uid for row in page.rows] == found


def test_a_time_span_includes_its_begin_and_excludes_its_end(database: Database) -> None:
    for number in range(3):
        receive(database, f"1.2.{number}", seconds=number * 10)

    with database.read() as session:
        page = queries.list_studies(session, StudyFilter(since=at(10), until=at(20)))

    assert [row.study_instance_uid for row in page.rows] == ["1.2.1"]


@pytest.mark.feature("A3")
def test_the_story_holds_series_job_attempts_results_and_every_instance_sent(database: Database) -> None:
    told = tell(database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    store(database, told.job_id, "PACS")
    store(database, told.job_id, "VIEWER", seconds=70, refused=True)

    with database.read() as session:
        story = queries.study_story(session, told.study_id)

    assert story is not None
    assert [(one.series_number, one.description, one.instances, one.size) for one in story.series] == [
        (1, "FLAIR", 1, 1000),
        (2, "T1", 1, 1000),
    ]
    job = story.jobs[0]
    assert job.summary is not None
    assert job.summary["findings"][0]["volume_mm3"] == 12340.0
    assert job.plan["passed_over"][0]["reason"]["code"] == "echo-time"
    assert [(one.number, one.outcome, one.peak_memory_mb) for one in job.attempts] == [(1, "completed", 1800.0)]
    assert [one.kind for one in job.results] == ["SEG", "SEG"]
    by_destination = {one.destination: one for one in job.deliveries}
    assert by_destination["PACS"].state is DeliveryState.STORED
    assert [item.status for item in by_destination["PACS"].items] == ["0x0000", "0x0000"]
    assert by_destination["VIEWER"].state is DeliveryState.FAILED
    assert [item.status for item in by_destination["VIEWER"].items] == ["0xA900", None]
    assert story.study.deliveries == {DeliveryState.STORED: 1, DeliveryState.FAILED: 1}


def test_a_held_instance_shows_in_its_series(database: Database) -> None:
    study_id = receive(database, "1.2.3")
    take(database, received("1.2.3", 9, patient_id="P9", patient_name="Other^Person"), seconds=5)

    with database.read() as session:
        story = queries.study_story(session, study_id)

    assert story is not None
    assert story.study.standing is Standing.QUARANTINED
    assert [one.held for one in story.series] == [1, 0]


def test_no_story_of_a_study_that_is_not_there(database: Database) -> None:
    with database.read() as session:
        story = queries.study_story(session, 17)
        missing = queries.study_id(session, "1.2.3")

    assert story is None
    assert missing is None


def test_the_queue_counts_every_state_and_names_the_oldest_that_waits(database: Database) -> None:
    tell(database, Standing.WAITING, "1.2.1", seconds=100)
    tell(database, Standing.WAITING, "1.2.2", seconds=50)
    tell(database, Standing.RUNNING, "1.2.3", seconds=200)
    tell(database, Standing.RECEIVING, "1.2.4")

    with database.read() as session:
        overview = queries.queue_overview(session)
        waiting = queries.waiting_jobs(session)

    assert overview.jobs[JobState.SCHEDULED] == 2
    assert overview.jobs[JobState.IN_PROGRESS] == 1
    assert overview.jobs[JobState.FAILED] == 0
    assert overview.studies[StudyState.RECEIVING] == 1
    assert overview.studies[StudyState.SETTLED] == 3
    assert overview.oldest_waiting_job == at(80)
    assert overview.oldest_waiting_delivery is None
    assert [job.standing for job in waiting] == [Standing.WAITING, Standing.WAITING, Standing.RUNNING]


def test_dead_letters_failed_jobs_and_destinations(database: Database) -> None:
    told = tell(database, Standing.FAILED, "1.2.3")
    assert told.job_id is not None
    letter = store(database, told.job_id, "VIEWER", refused=True)
    store(database, told.job_id, "PACS", seconds=80)

    with database.read() as session:
        letters = queries.dead_letters(session)
        failed = queries.failed_jobs(session)
        destinations = queries.list_destinations(session)

    assert [(one.id, one.destination, one.reason, one.accession_number) for one in letters] == [
        (letter, "VIEWER", "refused", "A1")
    ]
    assert [(one.id, one.reason) for one in failed] == [(told.job_id, "timed-out")]
    assert [(one.destination, one.deliveries, one.oldest_waiting, one.last_stored_at) for one in destinations] == [
        ("PACS", {DeliveryState.STORED: 1}, None, at(84)),
        ("VIEWER", {DeliveryState.FAILED: 1}, None, None),
    ]


def test_a_purged_study_keeps_its_standing(database: Database) -> None:
    tell(database, Standing.NO_FINDING, "1.2.3")
    with database.write() as session:
        study = the_study(session)
        queue.move_study(session, study, StudyEvent.EXPIRE, at=at(1000))

    with database.read() as session:
        row = queries.list_studies(session).rows[0]

    assert (row.state, row.standing) == (StudyState.PURGED, Standing.NO_FINDING)


def test_a_study_settled_twice_without_a_job_is_never_selected(database: Database) -> None:
    receive(database, "1.2.3")
    with database.write() as session:
        settle(session, "1.2.3")
    take(database, received("1.2.3", 5), seconds=60)
    with database.write() as session:
        settle(session, "1.2.3", seconds=120)

    with database.read() as session:
        row = queries.list_studies(session).rows[0]

    assert (row.revision, row.standing) == (2, Standing.NEVER_SELECTED)
