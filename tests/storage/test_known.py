"""The short way of recording: it takes only what is usual, and leaves the same rows as the long way."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, select

from storage.database import Database
from storage.known import CAPACITY, KnownStudies
from storage.models import Instance, Series, Study
from storage.moves import move_study
from storage.reception import Receipt, ReceivedInstance
from storage.states import StudyEvent, StudyState
from tests.storage.rows import at, received, take, the_study

pytestmark = pytest.mark.feature("R6")


def short(database: Database, known: KnownStudies, one: ReceivedInstance, seconds: float = 0.0) -> bool:
    with database.transaction() as transaction:
        return known.take(transaction, None, one, peer="PACS", at=at(seconds))


@pytest.fixture
def known(database: Database) -> KnownStudies:
    """One study with one image, and a writer that has just recorded it."""
    take(database, received())
    made = KnownStudies()
    with database.transaction() as transaction:
        made.learn(transaction.connection, received())
    return made


def columns(row: Any) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name != "id"}


def test_the_rows_are_those_of_the_long_way(database: Database, known: KnownStudies) -> None:
    assert short(database, known, received(number=2), seconds=5)
    with database.read() as session:
        short_study = columns(the_study(session))
        short_instance = columns(session.scalars(select(Instance).order_by(Instance.id.desc())).first())
    with database.write() as session:
        session.execute(delete(Instance).where(Instance.sop_instance_uid == received(number=2).sop_instance_uid))

    assert take(database, received(number=2), seconds=5) is Receipt.NEW

    with database.read() as session:
        assert columns(the_study(session)) == short_study
        assert columns(session.scalars(select(Instance).order_by(Instance.id.desc())).first()) == short_instance


@pytest.mark.parametrize(
    "change",
    [
        {"patient_id": "P2"},
        {"patient_name": "Roe^Jane"},
        {"accession_number": ""},
        {"series_instance_uid": "1.2.3.9"},
        {"passive": True},
        {"own": True, "passive": True},
    ],
    ids=str,
)
def test_what_is_unusual_is_left_to_the_long_way(database: Database, known: KnownStudies, change: dict[str, Any]) -> None:
    assert not short(database, known, received(number=2, **change))

    with database.read() as session:
        assert len(session.scalars(select(Instance)).all()) == 1


def test_known_instance_is_left_to_the_long_way(database: Database, known: KnownStudies) -> None:
    assert not short(database, known, received(digest="0" * 64))


@pytest.mark.parametrize("event", [StudyEvent.SETTLE, StudyEvent.CONFLICT])
def test_study_that_moved_meanwhile_is_left_to_the_long_way(database: Database, known: KnownStudies, event: StudyEvent) -> None:
    with database.write() as session:
        move_study(session, the_study(session), event, at=at(1))

    assert not short(database, known, received(number=2))
    assert take(database, received(number=2)) in (Receipt.NEW, Receipt.HELD)


def test_identity_that_changed_meanwhile_is_left_to_the_long_way(database: Database, known: KnownStudies) -> None:
    with database.write() as session:
        the_study(session).patient_id = "P9"

    assert not short(database, known, received(number=2))


def test_settled_study_is_not_remembered(database: Database) -> None:
    take(database, received())
    with database.write() as session:
        move_study(session, the_study(session), StudyEvent.SETTLE, at=at(1))
    known = KnownStudies()
    with database.transaction() as transaction:
        known.learn(transaction.connection, received())

    assert not short(database, known, received(number=2))


def test_memory_is_bounded(sqlite_database: Database) -> None:
    known = KnownStudies()
    with sqlite_database.transaction() as transaction:
        for number in range(CAPACITY + 3):
            uid = f"1.2.{number}"
            row = {**columns_of_a_study(), "study_instance_uid": uid}
            transaction.session.add(Study(**row))
            transaction.session.flush()
            known.learn(transaction.connection, received(uid))

        assert len(known._known) == CAPACITY
        assert "1.2.0" not in known._known


def columns_of_a_study() -> dict[str, Any]:
    return {"state": StudyState.RECEIVING.value, "first_received_at": at(), "last_received_at": at()}


def test_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as transaction:  # noqa: PT012  # the block is one transaction
        transaction.session.add(Study(study_instance_uid="1.2.7", **columns_of_a_study()))
        transaction.session.flush()
        raise ZeroDivisionError

    with database.read() as session:
        assert not session.scalars(select(Study)).all()
        assert not session.scalars(select(Series)).all()
