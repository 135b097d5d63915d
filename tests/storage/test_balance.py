"""The balance of a day: every study received stands in exactly one place, and the sum is the number received."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from storage import commitments, queue
from storage.balance import DayBalance, Place, day_balance
from storage.commitments import CommitmentKind
from storage.database import Database
from storage.models import Delivery
from storage.read_models import Standing
from storage.states import StudyEvent
from tests.storage.rows import NOON, at, received, take, the_study
from tests.storage.stories import store, tell

pytestmark = pytest.mark.feature("V3")

BEGIN = NOON.replace(hour=0)


def balance(database: Database, *, missing: frozenset[str] = frozenset(), proving: frozenset[str] = frozenset()) -> DayBalance:
    with database.read() as session:
        return day_balance(
            session, begin=BEGIN, end=BEGIN + timedelta(days=1), is_there=lambda path: path not in missing, proving=proving
        )


def places(found: DayBalance) -> dict[str, Place]:
    return {study.study_instance_uid: study.place for study in found.studies}


def answered(database: Database, uid: str, seconds: float, *, refused: bool = False, prove: bool = False) -> int:
    told = tell(database, Standing.FINDINGS, uid, seconds=seconds)
    assert told.job_id is not None
    number = store(database, told.job_id, seconds=seconds + 60, refused=refused)
    if prove:
        with database.write() as session:
            delivery = session.get_one(Delivery, number)
            request = commitments.request_proof(
                session, delivery, kind=CommitmentKind.QUERY, transaction_uid=f"2.25.{number}", timeout_s=9, at=at(seconds + 70)
            )
            assert commitments.confirm(session, request, how="query", at=at(seconds + 71))
    return number


def test_every_study_stands_in_one_place_and_the_sum_is_what_was_received(database: Database) -> None:
    answered(database, "1.2.1", 0, prove=True)
    answered(database, "1.2.2", 1000)
    answered(database, "1.2.3", 2000, refused=True)
    tell(database, Standing.NEVER_SELECTED, "1.2.4", seconds=3000)
    tell(database, Standing.WAITING, "1.2.5", seconds=4000)
    tell(database, Standing.RECEIVING, "1.2.6", seconds=5000)
    tell(database, Standing.QUARANTINED, "1.2.7", seconds=6000)
    tell(database, Standing.FINDINGS, "1.2.8", seconds=7000)
    tell(database, Standing.FAILED, "1.2.9", seconds=8000)

    found = balance(database)

    assert places(found) == {
        "1.2.1": Place.PROVEN, "1.2.2": Place.DELIVERED, "1.2.3": Place.DEAD_LETTER, "1.2.4": Place.REFUSED,
        "1.2.5": Place.OPEN, "1.2.6": Place.OPEN, "1.2.7": Place.OPEN, "1.2.8": Place.LOST, "1.2.9": Place.DEAD_LETTER,
    }  # fmt: skip
    assert sum(found.count(place) for place in Place) == len(found.studies) == 9
    assert {study.study_instance_uid for study in found.difference} == {"1.2.5", "1.2.6", "1.2.7", "1.2.8"}
    assert [study.instances for study in found.studies] == [2] * 9


def test_a_proof_that_is_asked_for_and_not_there_is_a_difference(database: Database) -> None:
    answered(database, "1.2.1", 0)
    answered(database, "1.2.2", 1000, prove=True)

    found = balance(database, proving=frozenset({"PACS"}))

    assert places(found) == {"1.2.1": Place.UNPROVEN, "1.2.2": Place.PROVEN}
    assert [study.study_instance_uid for study in found.difference] == ["1.2.1"]


def test_a_file_that_is_gone_is_a_difference(database: Database) -> None:
    answered(database, "1.2.1", 0, prove=True)

    found = balance(database, missing=frozenset({received("1.2.1", 1).path}))

    assert places(found) == {"1.2.1": Place.LOST}
    assert found.difference[0].text == "1 files are not in the spool"


def test_only_what_came_on_the_day_counts(database: Database) -> None:
    tell(database, Standing.NEVER_SELECTED, "1.2.1", seconds=-12 * 3600)
    tell(database, Standing.NEVER_SELECTED, "1.2.2", seconds=-12 * 3600 - 1)
    tell(database, Standing.NEVER_SELECTED, "1.2.3", seconds=12 * 3600)

    assert set(places(balance(database))) == {"1.2.1"}


def test_our_own_results_that_come_back_are_not_received_studies(database: Database) -> None:
    take(database, received("1.2.1", own=True, passive=True))

    assert balance(database).studies == ()


def test_rejected_objects_are_told_with_their_study(database: Database) -> None:
    take(database, received("1.2.1"))
    take(database, received("1.2.1", digest="0" * 64, pixel_digest="1" * 64))

    [study] = balance(database).studies

    assert (study.instances, study.rejected) == (1, 1)


def test_a_discarded_study_was_refused(database: Database) -> None:
    tell(database, Standing.QUARANTINED, "1.2.1")
    with database.write() as session:
        queue.move_study(session, the_study(session, "1.2.1"), StudyEvent.DISCARD, at=at(100), user="somebody")

    assert places(balance(database)) == {"1.2.1": Place.REFUSED}
    assert balance(database).studies[0].text == "discarded"


def test_a_delivery_that_was_called_back_does_not_count(database: Database) -> None:
    number = answered(database, "1.2.1", 0, refused=True)
    with database.write() as session:
        delivery = session.scalars(select(Delivery).where(Delivery.id == number)).one()
        queue.resubmit_delivery(session, delivery, user="somebody", at=at(100))
        queue.cancel_delivery(session, delivery, at=at(101), reason="superseded")

    assert places(balance(database)) == {"1.2.1": Place.REFUSED}
