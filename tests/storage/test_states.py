"""The state machines as a property: whatever happens in whatever order, a row follows the table or nothing happens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from storage import queue
from storage.database import Database
from storage.models import Delivery, Event, Job, Study
from storage.states import (
    DELIVERY_MOVES,
    JOB_MOVES,
    STUDY_MOVES,
    DeliveryEvent,
    DeliveryState,
    InvalidMove,
    JobEvent,
    JobState,
    StudyEvent,
    StudyState,
    next_delivery_state,
    next_job_state,
    next_study_state,
)
from tests.storage.rows import add_delivery, add_job, at, received, take, the_study

ANY_ORDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def filled(database: Database) -> Database:
    take(database, received())
    with database.write() as session:
        add_delivery(session, add_job(session, the_study(session)))
    return database


@pytest.mark.parametrize(
    ("moves", "states", "events"),
    [
        (STUDY_MOVES, StudyState, StudyEvent),
        (JOB_MOVES, JobState, JobEvent),
        (DELIVERY_MOVES, DeliveryState, DeliveryEvent),
    ],
    ids=["study", "job", "delivery"],
)
def test_every_state_is_reached_and_every_event_leads_somewhere(moves: dict, states: type, events: type) -> None:
    first = next(iter(states))
    reached = {first}
    while more := {to for (source, _), to in moves.items() if source in reached} - reached:
        reached |= more

    assert reached == set(states)
    assert {event for _, event in moves} == set(events)


@given(state=st.sampled_from(StudyState), event=st.sampled_from(StudyEvent))
def test_study_follows_the_table_or_raises(state: StudyState, event: StudyEvent) -> None:
    if (state, event) in STUDY_MOVES:
        assert next_study_state(state, event) is STUDY_MOVES[state, event]
    else:
        with pytest.raises(InvalidMove, match=f"state {state} knows no event '{event}'"):
            next_study_state(state, event)


@given(state=st.sampled_from(JobState), event=st.sampled_from(JobEvent))
def test_job_follows_the_table_or_raises(state: JobState, event: JobEvent) -> None:
    if (state, event) in JOB_MOVES:
        assert next_job_state(state, event) is JOB_MOVES[state, event]
    else:
        with pytest.raises(InvalidMove, match=f"state {state} knows no event '{event}'"):
            next_job_state(state, event)


@given(state=st.sampled_from(DeliveryState), event=st.sampled_from(DeliveryEvent))
def test_delivery_follows_the_table_or_raises(state: DeliveryState, event: DeliveryEvent) -> None:
    if (state, event) in DELIVERY_MOVES:
        assert next_delivery_state(state, event) is DELIVERY_MOVES[state, event]
    else:
        with pytest.raises(InvalidMove, match=f"state {state} knows no event '{event}'"):
            next_delivery_state(state, event)


@pytest.mark.slow
@ANY_ORDER
@given(happenings=st.lists(st.sampled_from(StudyEvent), min_size=1, max_size=12))
def test_study_row_follows_the_table_with_one_event_for_each_move(filled: Database, happenings: list[StudyEvent]) -> None:
    for happening in happenings:
        with filled.read() as session:
            study = the_study(session)
            before, revision, events = StudyState(study.state), study.revision, count_events(session)
        expected = STUDY_MOVES.get((before, happening))

        moved = attempt(filled, lambda session, one=happening: queue.move_study(session, the_study(session), one, at=at()))

        with filled.read() as session:
            study = the_study(session)
            assert moved is (expected is not None)
            assert study.state == (expected or before)
            assert count_events(session) == events + (1 if moved else 0)
            reopened = expected is StudyState.RECEIVING and before is not StudyState.RECEIVING
            assert study.revision in ((revision, revision + 1) if reopened else (revision,))


@ANY_ORDER
@given(happenings=st.lists(st.sampled_from(JobEvent), min_size=1, max_size=12))
def test_job_row_follows_the_table_with_one_event_for_each_move(filled: Database, happenings: list[JobEvent]) -> None:
    for happening in happenings:
        with filled.read() as session:
            before, events = JobState(session.scalars(select(Job.state)).one()), count_events(session)
        expected = JOB_MOVES.get((before, happening))

        moved = attempt(filled, lambda session, one=happening: queue.move_job(session, only(session, Job), one, at=at()))

        with filled.read() as session:
            assert moved is (expected is not None)
            assert session.scalars(select(Job.state)).one() == (expected or before)
            assert count_events(session) == events + (1 if moved else 0)


@pytest.mark.slow
@ANY_ORDER
@given(happenings=st.lists(st.sampled_from(DeliveryEvent), min_size=1, max_size=12))
def test_delivery_row_follows_the_table_with_one_event_for_each_move(filled: Database, happenings: list[DeliveryEvent]) -> None:
    for happening in happenings:
        with filled.read() as session:
            before, events = DeliveryState(session.scalars(select(Delivery.state)).one()), count_events(session)
        expected = DELIVERY_MOVES.get((before, happening))

        moved = attempt(
            filled, lambda session, one=happening: queue.move_delivery(session, only(session, Delivery), one, at=at())
        )

        with filled.read() as session:
            assert moved is (expected is not None)
            assert session.scalars(select(Delivery.state)).one() == (expected or before)
            assert count_events(session) == events + (1 if moved else 0)


def test_invalid_move_tells_what_happened_before(filled: Database) -> None:
    with filled.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.SETTLE, at=at(60))

    with pytest.raises(InvalidMove) as caught, filled.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.SETTLE, at=at(90))

    assert str(caught.value) == (
        "a study in state SETTLED knows no event 'settle'; history of study 1.2.3: 2026-03-01 12:01:00 study settled"
    )


def test_a_move_from_a_state_that_is_not_the_row_s_any_more_is_invalid(filled: Database) -> None:
    """Compare-and-set: the object was read before another transaction moved the row."""
    with filled.read() as session:
        stale = the_study(session)
    with filled.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.SETTLE, at=at(60))

    with pytest.raises(InvalidMove, match="'settle' came second"), filled.write() as session:  # noqa: PT012  # the block is one transaction
        session.add(stale)
        queue.move_study(session, stale, StudyEvent.SETTLE, at=at(61))

    with filled.read() as session:
        assert the_study(session).settled_at == at(60)


def attempt(database: Database, move: object) -> bool:
    try:
        with database.write() as session:
            move(session)  # type: ignore[operator]
    except InvalidMove:
        return False
    return True


def only(session: object, table: type) -> object:
    return session.scalars(select(table)).one()  # type: ignore[attr-defined]


def count_events(session: object) -> int:
    return len(session.scalars(select(Event.id)).all())  # type: ignore[attr-defined]


def test_the_word_of_a_state_fits_its_column() -> None:
    for states, table in ((StudyState, Study), (JobState, Job), (DeliveryState, Delivery)):
        assert max(len(state) for state in states) <= table.__table__.columns["state"].type.length
