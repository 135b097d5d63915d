"""What the node makes of what it receives, for every kind of receipt, on both databases."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DataError

from storage import queue, reception
from storage.database import Database
from storage.models import Association, Delivery, Event, Instance, Job, Rejected, Result, Series, Study
from storage.reception import Receipt, ReceivedInstance
from storage.states import DeliveryState, JobState, StudyEvent, StudyState
from tests.storage.rows import add_delivery, add_job, at, digest, kinds, no_pixels, path, received, take, the_study


def settle(database: Database, uid: str = "1.2.3", seconds: float = 100.0) -> None:
    with database.write() as session:
        queue.move_study(session, the_study(session, uid), StudyEvent.SETTLE, at=at(seconds))


def test_first_image_makes_study_series_and_instance(database: Database) -> None:
    receipt = take(database, received())

    assert receipt is Receipt.NEW
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision, study.quiet_s) == (StudyState.RECEIVING, 1, 0.0)
        assert (study.patient_id, study.accession_number, study.received_from) == ("P1", "A1", "PACS")
        assert [one.sop_instance_uid for one in study.series[0].instances] == ["1.2.3.1.1"]
        assert study.first_received_at == at()


def test_every_image_begins_the_quiet_time_anew(database: Database) -> None:
    take(database, received())
    with database.write() as session:
        queue.count_quiet(session, 7.0)

    take(database, received(number=2), seconds=7)

    with database.read() as session:
        study = the_study(session)
        assert (study.quiet_s, study.age_s, study.last_received_at) == (0.0, 7.0, at(7))


def test_identical_object_is_repeated_and_its_file_is_superfluous(database: Database) -> None:
    take(database, received())
    settle(database)

    again = replace(received(), path=path("1.2.3.1.1", receipt=2))
    with database.write() as session:
        receipt = reception.record(session, None, again, peer="PACS", at=at(5), pixel_digest=no_pixels)
        superfluous = reception.files_to_delete(session)

    assert receipt is Receipt.REPEATED
    assert superfluous == [again.path]
    with database.read() as session:
        assert the_study(session).state == StudyState.SETTLED
        assert session.scalars(select(Instance.path)).all() == [received().path]


def test_same_pixels_with_the_same_facts_are_repeated(database: Database) -> None:
    take(database, received())

    other_bytes = replace(received(), digest=digest("coerced on the way"), path=path("x", 9))

    assert take(database, other_bytes) is Receipt.REPEATED


def test_late_image_reopens_the_study_and_cancels_open_jobs_only(database: Database) -> None:
    take(database, received())
    settle(database)
    with database.write() as session:
        open_job = add_job(session, the_study(session), "open")
        done = add_job(session, the_study(session), "done")
        done.state = JobState.COMPLETED
        delivery = add_delivery(session, done)
        ids = open_job.id, done.id, delivery.id

    receipt = take(database, received(number=2), seconds=200)

    assert receipt is Receipt.NEW
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision, study.quiet_s) == (StudyState.RECEIVING, 2, 0.0)
        assert {job.id: job.state for job in study.jobs} == {ids[0]: JobState.CANCELED, ids[1]: JobState.COMPLETED}
        assert session.get_one(Delivery, ids[2]).state == DeliveryState.PENDING
    assert kinds(database) == ["study settled", "study reopened", "job canceled"]


def test_corrected_identity_wins_reopens_and_cancels_open_jobs(database: Database) -> None:
    take(database, received(number=1))
    take(database, received(number=2))
    settle(database)
    with database.write() as session:
        add_job(session, the_study(session))

    corrected = received(number=1, patient_id="P2", patient_name="Roe^Jane", path=path("1.2.3.1.1", 2))
    with database.write() as session:
        receipt = reception.record(session, None, corrected, peer="PACS", at=at(200), pixel_digest=no_pixels)
        superfluous = reception.files_to_delete(session)

    assert receipt is Receipt.CORRECTED
    assert superfluous == [received(number=1).path]
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision) == (StudyState.RECEIVING, 2)
        assert (study.patient_id, study.patient_name) == ("P2", "Roe^Jane")
        assert session.scalars(select(Job.state)).all() == [JobState.CANCELED]
        first = session.scalars(select(Instance).where(Instance.sop_instance_uid == "1.2.3.1.1")).one()
        assert (first.path, first.digest) == (corrected.path, corrected.digest)


def test_a_whole_study_sent_again_corrected_makes_one_revision(database: Database) -> None:
    for number in range(1, 6):
        take(database, received(number=number))
    settle(database)

    receipts = {take(database, received(number=n, patient_id="P2", path=path(f"{n}", 2)), seconds=200 + n) for n in range(1, 6)}

    assert receipts == {Receipt.CORRECTED}
    with database.read() as session:
        assert the_study(session).revision == 2
    assert kinds(database) == ["study settled", "study corrected"]


def test_corrected_header_of_a_settled_study_reopens_it(database: Database) -> None:
    take(database, received())
    settle(database)

    moved = received(header={"modality": "MR", "image_position_lps": [0.0, 0.0, 9.5]}, path=path("x", 2))

    assert take(database, moved) is Receipt.CORRECTED
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision) == (StudyState.RECEIVING, 2)
        assert session.scalars(select(Instance)).one().header == moved.header


def test_other_patient_under_the_same_study_is_held_and_nothing_leaves(database: Database) -> None:
    take(database, received())
    settle(database)
    with database.write() as session:
        job = add_job(session, the_study(session))
        add_delivery(session, job)

    receipt = take(database, received(number=2, patient_id="P9"))

    assert receipt is Receipt.HELD
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.patient_id, study.reason) == (StudyState.QUARANTINED, "P1", reception.OTHER_PATIENT)
        assert study.jobs[0].state == JobState.CANCELED
        assert study.jobs[0].deliveries[0].state == DeliveryState.CANCELED
        held = session.scalars(select(Instance.sop_instance_uid).where(Instance.held)).all()
        assert held == ["1.2.3.1.2"]
        quarantined = select(Event.patient_id).where(Event.kind == "study quarantined").order_by(Event.id)
        assert session.scalars(quarantined).all() == ["P1", "P9"]


@pytest.mark.parametrize(
    ("change", "receipt"),
    [
        ({"patient_id": "P1 "}, Receipt.NEW),
        ({"issuer_of_patient_id": "HOSPITAL"}, Receipt.NEW),
        ({"patient_name": "Doe^Jane^^Dr"}, Receipt.NEW),
        ({"patient_id": ""}, Receipt.HELD),
        ({"patient_id": "p1"}, Receipt.HELD),
    ],
    ids=["padding", "issuer filled in", "other spelling", "no id", "other case"],
)
def test_who_counts_as_another_patient(database: Database, change: dict[str, str], receipt: Receipt) -> None:
    take(database, received())

    assert take(database, received(number=2, **change)) is receipt


def test_two_issuers_are_two_patients(database: Database) -> None:
    take(database, received(issuer_of_patient_id="NORTH"))

    assert take(database, received(number=2, issuer_of_patient_id="SOUTH")) is Receipt.HELD


def test_without_any_patient_id_another_name_is_another_patient(database: Database) -> None:
    take(database, received(patient_id=""))

    assert take(database, received(number=2, patient_id="")) is Receipt.NEW
    assert take(database, received(number=3, patient_id="", patient_name="Roe^Jane")) is Receipt.HELD


def test_pixels_are_compared_only_where_a_uid_comes_again_with_other_bytes(database: Database) -> None:
    asked: list[str] = []

    def pixels(of: str, transfer_syntax_uid: str) -> str | None:
        asked.append(of)
        return digest("pixels", of in (first.path, corrected.path))

    def taken(one: ReceivedInstance) -> Receipt:
        with database.write() as session:
            return reception.record(session, None, one, peer="PACS", at=at(), pixel_digest=pixels)

    first = received(pixel_digest=None)
    repeated = replace(first, path=path("x", 2))
    corrected = replace(first, path=path("x", 3), digest=digest("corrected"), patient_name="Doe^Janet")
    other = replace(first, path=path("x", 4), digest=digest("other"))

    assert [taken(first), taken(repeated)] == [Receipt.NEW, Receipt.REPEATED]
    assert asked == []
    assert taken(corrected) is Receipt.CORRECTED
    assert asked == [first.path, corrected.path]
    assert taken(other) is Receipt.REJECTED
    assert asked[2:] == [other.path], "that of the first is known by now"


def test_after_a_purge_nothing_can_be_compared_and_the_object_is_a_correction(database: Database) -> None:
    first = received(pixel_digest=None)
    take(database, first)
    with database.write() as session:
        reception.mark_lost(session, first.path)

    assert take(database, replace(first, path=path("x", 2), digest=digest("other"))) is Receipt.CORRECTED


@pytest.mark.peer
def test_an_object_that_could_not_be_taken_makes_no_file_superfluous(postgres_url: str) -> None:
    """A group commit goes on after one object failed: the file of the row that stays must stay."""
    opened = Database(postgres_url)
    take(opened, received())
    bad = received(patient_id="P2", transfer_syntax_uid="1." * 60, path=path("x", 2))

    with opened.write() as session:
        with pytest.raises(DataError), session.begin_nested():
            reception.record(session, None, bad, peer="PACS", at=at(), pixel_digest=no_pixels)
        receipt = reception.record(session, None, received(number=2), peer="PACS", at=at(), pixel_digest=no_pixels)
        superfluous = reception.files_to_delete(session)

    assert (receipt, superfluous) == (Receipt.NEW, [])
    with opened.read() as session:
        assert session.scalars(select(Instance.path).order_by(Instance.id)).all() == [received().path, received(number=2).path]
    opened.dispose()


def test_same_uid_with_other_pixels_is_rejected_and_kept_aside_once(database: Database) -> None:
    take(database, received())
    other = replace(received(), digest=digest("other"), pixel_digest=digest("other pixels"), path=path("x", 3))

    receipt = take(database, other)
    with database.write() as session:
        again = replace(other, path=path("x", 4))
        repeated = reception.record(session, None, again, peer="PACS", at=at(1), pixel_digest=no_pixels)
        superfluous = reception.files_to_delete(session)

    assert (receipt, repeated) == (Receipt.REJECTED, Receipt.REJECTED)
    assert superfluous == [again.path]
    with database.read() as session:
        assert the_study(session).state == StudyState.QUARANTINED
        assert session.scalars(select(Instance.digest)).all() == [received().digest]
        assert session.scalars(select(Rejected.path)).all() == [other.path]


@pytest.mark.parametrize("state", ["none", "receiving", "settled", "quarantined", "purged"])
def test_passive_objects_never_change_a_study(database: Database, state: str) -> None:
    if state != "none":
        take(database, received())
    if state in ("settled", "purged"):
        settle(database)
    with database.write() as session:
        if state == "purged":
            queue.move_study(session, the_study(session), StudyEvent.EXPIRE, at=at(150))
        elif state == "quarantined":
            queue.move_study(session, the_study(session), StudyEvent.CONFLICT, at=at(150))
        if state != "none":
            queue.count_quiet(session, 3.0)
    with database.read() as session:
        before = None if state == "none" else facts(the_study(session))

    own = received(number=7, passive=True, own=True, modality="SR", patient_id="P5", pixel_digest=None, series_instance_uid="1.9")
    receipts = [take(database, own, seconds=300), take(database, own, seconds=301)]
    coerced = replace(own, digest=digest("coerced"), patient_name="Other", path=path("y", 5))
    receipts.append(take(database, coerced, seconds=302))

    assert receipts == [Receipt.NEW, Receipt.REPEATED, Receipt.CORRECTED]
    with database.read() as session:
        study = the_study(session)
        assert facts(study) == (before or (StudyState.SETTLED, 0, 0.0, 0.0, "P5"))
        assert session.scalars(select(Instance.own).where(Instance.sop_instance_uid == own.sop_instance_uid)).all() == [True]


def facts(study: Study) -> tuple[str, int, float, float, str]:
    return study.state, study.revision, study.quiet_s, study.age_s, study.patient_id


def test_first_image_after_passive_objects_makes_revision_one_under_its_own_patient(database: Database) -> None:
    take(database, received(number=7, passive=True, patient_id="P5", pixel_digest=None))

    receipt = take(database, received())

    assert receipt is Receipt.NEW
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision, study.patient_id) == (StudyState.RECEIVING, 1, "P1")


def test_image_of_a_purged_study_sent_again_is_taken_again(database: Database) -> None:
    take(database, received())
    settle(database)
    with database.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.EXPIRE, at=at(150))
        session.scalars(select(Instance)).one().path = None

    receipt = take(database, replace(received(), path=path("x", 2)), seconds=300)

    assert receipt is Receipt.NEW
    with database.read() as session:
        study = the_study(session)
        assert (study.state, study.revision) == (StudyState.RECEIVING, 2)
        assert session.scalars(select(Instance.path)).one() == path("x", 2)


def test_instance_moved_to_another_study_reopens_both(database: Database) -> None:
    take(database, received("1.2.3", 1))
    take(database, received("1.2.3", 2))
    settle(database, "1.2.3")
    moved = replace(
        received("1.2.3", 2), study_instance_uid="1.2.4", series_instance_uid="1.2.4.1", digest=digest("m"), path=path("m")
    )

    receipt = take(database, moved)

    assert receipt is Receipt.CORRECTED
    with database.read() as session:
        old, new = the_study(session, "1.2.3"), the_study(session, "1.2.4")
        assert (old.state, old.revision, len(old.series[0].instances)) == (StudyState.RECEIVING, 2, 1)
        assert (new.state, new.revision, len(new.series[0].instances)) == (StudyState.RECEIVING, 1, 1)


def test_instance_moved_to_a_study_of_another_patient_is_held(database: Database) -> None:
    take(database, received("1.2.3", 1))
    take(database, received("1.2.4", 1, patient_id="P2"))
    moved = replace(
        received("1.2.3", 1), study_instance_uid="1.2.4", series_instance_uid="1.2.4.1", digest=digest("m"), path=path("m")
    )

    receipt = take(database, moved)

    assert receipt is Receipt.HELD
    with database.read() as session:
        assert the_study(session, "1.2.4").state == StudyState.QUARANTINED
        assert the_study(session, "1.2.4").patient_id == "P2"


def test_released_study_is_received_anew_with_or_without_the_held(database: Database) -> None:
    for uid in ("1.2.3", "1.2.4"):
        take(database, received(uid))
        settle(database, uid)
        take(database, received(uid, 2, patient_id="P9"))

    with database.write() as session:
        reception.release(session, the_study(session, "1.2.3").id, user="ada", include_held=True, at=at(300))
        reception.release(session, the_study(session, "1.2.4").id, user="ada", include_held=False, at=at(300))

    with database.read() as session:
        for uid, held in (("1.2.3", [False, False]), ("1.2.4", [False, True])):
            study = the_study(session, uid)
            assert (study.state, study.revision) == (StudyState.RECEIVING, 2)
            assert [one.held for one in sorted(study.series[0].instances, key=lambda i: i.id)] == held
        users = session.scalars(select(Event.user).where(Event.kind == "study released")).all()
        assert users == ["ada", "ada"]


def test_a_study_released_with_its_held_instances_takes_the_newest_identity(database: Database) -> None:
    """F46: what the archive said last is what the results carry."""
    take(database, received("1.2.3"))
    take(database, received("1.2.3", 2, patient_id="P9"))
    newest = {"patient_id": "P9", "patient_name": "New^Name", "held": "no column of the identity"}

    with database.write() as session:
        study_id = the_study(session, "1.2.3").id
        reception.release(session, study_id, user="ada", include_held=True, at=at(300), identity=newest)

    with database.read() as session:
        study = the_study(session, "1.2.3")
        assert (study.patient_id, study.patient_name, study.accession_number) == ("P9", "New^Name", received().accession_number)


def test_discarded_study_gives_up_its_files_and_keeps_its_rows(database: Database) -> None:
    take(database, received())
    rejected = replace(received(), digest=digest("o"), pixel_digest=digest("op"), path=path("o", 3))
    take(database, rejected)

    with database.write() as session:
        paths = reception.discard(session, the_study(session).id, user="ada", at=at(300))

    assert sorted(paths) == sorted([received().path, rejected.path])
    with database.read() as session:
        assert the_study(session).state == StudyState.PURGED
        assert session.scalars(select(Instance.path)).all() == [None]
    assert kinds(database)[-1] == "study discarded"


def test_association_tells_what_it_brought(database: Database) -> None:
    with database.write() as session:
        number = reception.open_association(session, calling="PACS", called="FOVEA", address="127.0.0.1", listener="one", at=at())
        for one in (received("1.2.3", 1), received("1.2.3", 2), received("1.2.4", 1)):
            reception.record(session, number, one, peer="PACS", at=at(), pixel_digest=no_pixels)

    with database.write() as session:
        reception.close_association(session, number, outcome="released", at=at(9), repeated={"1.2.4": 3})

    with database.read() as session:
        row = session.get_one(Association, number)
        assert (row.outcome, row.closed_at) == ("released", at(9))
        rows = session.scalars(select(Event).where(Event.kind == "instances received").order_by(Event.study_instance_uid)).all()
        assert [(one.study_instance_uid, one.detail["instances"], one.detail["repeated"]) for one in rows] == [
            ("1.2.3", 2, 0),
            ("1.2.4", 1, 3),
        ]
        assert all((one.peer, one.patient_id) == ("PACS", "P1") for one in rows)
    assert kinds(database) == ["association opened", "instances received", "instances received", "association closed"]


def test_associations_left_open_by_a_dead_listener_are_closed_by_the_next(database: Database) -> None:
    with database.write() as session:
        for listener in ("one", "one", "two"):
            reception.open_association(session, calling="PACS", called="FOVEA", address="::1", listener=listener, at=at())

    with database.write() as session:
        closed = reception.close_interrupted(session, "one", at(60))

    assert closed == 2
    with database.read() as session:
        outcomes = session.scalars(select(Association.outcome).order_by(Association.id)).all()
        assert outcomes == ["interrupted", "interrupted", None]


def test_refused_association_is_an_event_with_its_reason(database: Database) -> None:
    with database.write() as session:
        reception.refuse_association(
            session, calling="STRANGER", called="FOVEA", address="192.0.2.1", reason="calling AE title not known", at=at()
        )

    with database.read() as session:
        event = session.scalars(select(Event)).one()
        assert (event.kind, event.outcome, event.peer) == ("association refused", "minor failure", "STRANGER")
        assert event.detail["reason"] == "calling AE title not known"


def test_own_results_are_known_by_their_uid(database: Database) -> None:
    take(database, received())
    with database.write() as session:
        job = add_job(session, the_study(session))
        add_delivery(session, job)
        uid = session.scalars(select(Result.sop_instance_uid)).first()

    with database.read() as session:
        assert uid is not None
        assert reception.is_own_result(session, uid)
        assert not reception.is_own_result(session, "1.2.3.1.1")


def test_hostile_text_is_stored_without_what_a_database_cannot_hold(database: Database) -> None:
    hostile = received(patient_name="A\x00B\ud800", modality="M" * 40, series_description="\x00", header={"name": "\x00"})

    assert take(database, hostile) is Receipt.NEW
    with database.read() as session:
        assert the_study(session).patient_name == "AB?"
        assert session.scalars(select(Series.modality)).one() == "M" * 16


def test_two_senders_interleave_one_study_without_a_lost_update(database: Database) -> None:
    """F30: one study row, every instance, the quiet time of the last one."""
    per_sender, senders = 25, 4
    failures: list[BaseException] = []
    together = threading.Barrier(senders)

    def send(sender: int) -> None:
        try:
            together.wait()
            for number in range(per_sender):
                one = received(number=1000 * sender + number, series_instance_uid=f"1.2.3.{number % 3}")
                assert take(database, one, peer=f"PACS{sender}", seconds=number) is Receipt.NEW
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    with database.read() as session:
        assert session.scalar(select(func.count(Study.id))) == 1
        assert session.scalar(select(func.count(Series.id))) == 3
        assert session.scalar(select(func.count(Instance.id))) == per_sender * senders
        assert the_study(session).state == StudyState.RECEIVING


def test_the_same_object_from_two_senders_at_once_is_one_row(database: Database) -> None:
    receipts: list[Receipt] = []
    together = threading.Barrier(4)

    def send() -> None:
        together.wait()
        receipts.append(take(database, received()))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(receipts) == [Receipt.NEW, Receipt.REPEATED, Receipt.REPEATED, Receipt.REPEATED]
