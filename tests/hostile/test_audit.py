"""F44: the audit repository is down, breaks off, or is somebody else; events wait in order, and work stops if asked to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node import expiry, repository, sealing, syslog
from dicom_node.engine import Engine
from dicom_node.schedule import Schedule
from dicom_node.settings import Audit
from dicom_node.workflow import utc_now
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.models import Seal
from storage.spool import Spool
from tests import studies
from tests.authority import Authority, Pair
from tests.hostile.house import REFUSED, House, living
from tests.hostile.test_admission import rejection
from tests.network import Wire
from tests.receiver import Receiver, server_context, xml_of
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("A2", "S1")

ACCEPT = 2


@dataclass(frozen=True, slots=True)
class Trust:
    """An authority, the repository's certificate and the node's."""

    authority: Authority
    server: Pair
    node: Pair

    def settings(self, receiver: Receiver, **more: Any) -> dict[str, Any]:
        """The audit section for a repository over TLS."""
        return {
            "repository": f"tls://127.0.0.1:{receiver.port}",
            "repository_ca_file": str(self.authority.certificate),
            "repository_certificate_file": str(self.node.certificate),
            "repository_key_file": str(self.node.key),
            "seal_every_s": 0.1,
            "repository_every_s": 0.1,
            **more,
        }


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Made once."""
    authority = Authority(tmp_path_factory.mktemp("trust") / "ca").start()
    return Trust(authority, authority.issue("audit.example"), authority.issue("fovea.example"))


@pytest.fixture
def receiver(trust: Trust) -> Iterator[Receiver]:
    """A repository over TLS that is down; its port is known."""
    made = Receiver(server_context(trust.authority, trust.server))
    made.start()
    made.stop()
    yield made
    made.stop()


def forward(house: House, *, after_s: float = 0.0) -> None:
    """Chain what happened and send it, as the ticks do."""
    at = utc_now() + timedelta(seconds=after_s)
    sealing.seal(house.where.database, at=at)
    while repository.forward(house.where.settings, house.where.database, at=at):
        continue


def chain(house: House) -> list[str]:
    """The digests of the hash chain."""
    with house.where.database.read() as session:
        return list(session.scalars(select(Seal.digest).order_by(Seal.sequence)))


def test_f44_events_wait_in_order_for_a_repository_that_is_down_and_the_chain_holds(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    with living(tmp_path, sqlite_database, spool, engine, audit=trust.settings(receiver)) as house:
        house.send(studies.series(REFUSED))
        forward(house)
        quiet = house.events(EventKind.AUDIT_STOPPED)
        forward(house, after_s=61)
        forward(house, after_s=62)
        house.send(studies.series(replace(REFUSED, study="F44 meanwhile")))

        receiver.start()
        forward(house, after_s=63)
        forward(house, after_s=64)
        (stopped,), (started,) = house.events(EventKind.AUDIT_STOPPED), house.events(EventKind.AUDIT_STARTED)
        digests = chain(house)

    assert quiet == [], "no alert before audit.alert_after_s"
    assert (stopped.outcome, stopped.detail["reason"]) == (EventOutcome.SERIOUS_FAILURE, "Connection refused")
    assert started.id > stopped.id
    assert receiver.sequences == list(range(1, len(digests) + 1)), "all of them, once each, in order"
    assert receiver.digests == digests
    assert sealing.verify(sqlite_database, house.where.settings.audit) == []
    codes = [one.get("csd-code") for message in receiver.received for one in xml_of(message).iter("EventTypeCode")]
    assert codes.index("110133") < codes.index("110134")


def test_f44_batch_that_breaks_off_goes_again_and_leaves_no_hole(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    receiver.breaks_after = 6000
    receiver.start()
    with living(tmp_path, sqlite_database, spool, engine, audit=trust.settings(receiver)) as house:
        for number in range(5):
            house.send(studies.series(replace(REFUSED, study=f"F44 {number}", slices=1)))
        forward(house)
        taken_before = len(receiver.received)
        forward(house)
        digests = chain(house)

    assert 0 < taken_before < len(digests)
    assert receiver.sequences == [*range(1, taken_before + 1), *range(1, len(digests) + 1)]


def test_f44_stranger_on_the_repositorys_port_gets_nothing(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust
) -> None:
    other = Authority(tmp_path / "other").start()
    stranger = Receiver(server_context(other, other.issue("audit.example")))
    stranger.start()
    try:
        with living(tmp_path, sqlite_database, spool, engine, audit=trust.settings(stranger, alert_after_s=0)) as house:
            house.send(studies.series(REFUSED)[:1])
            forward(house)
            (stopped,) = house.events(EventKind.AUDIT_STOPPED)
    finally:
        stranger.stop()

    assert "certificate not accepted" in stopped.detail["reason"]
    assert stranger.received == []


def test_f44_node_without_its_certificate_is_told_so_and_loses_nothing(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    receiver.start()
    audit = trust.settings(receiver, alert_after_s=0, repository_certificate_file=None, repository_key_file=None)
    with living(tmp_path, sqlite_database, spool, engine, audit=audit) as house:
        house.send(studies.series(REFUSED)[:1])
        forward(house)
        (stopped,) = house.events(EventKind.AUDIT_STOPPED)
        with sqlite_database.read() as session:
            waiting = repository.repository.count_unsent(session)

    assert stopped.outcome == EventOutcome.SERIOUS_FAILURE
    assert (receiver.received, waiting > 0) == ([], True)


@pytest.mark.parametrize("tickets", [1, 0])
@pytest.mark.parametrize("is_curt", [False, True])
def test_f44_receiver_that_lets_us_in_gets_all_and_one_that_does_not_is_never_taken_for_one_that_did(
    trust: Trust, receiver: Receiver, tickets: int, is_curt: bool
) -> None:
    """TLS 1.3: what is sent before the receiver has refused our certificate is lost without a word, one time in three."""
    assert receiver.context is not None
    receiver.context.num_tickets = tickets
    receiver.is_curt = is_curt
    receiver.start()
    known = Audit(**trust.settings(receiver, repository_tls_name="audit.example"))
    unknown = known.model_copy(update={"repository_certificate_file": None, "repository_key_file": None})

    for _ in range(20):
        with pytest.raises(syslog.NotTaken):
            syslog.send(unknown, [b"lost"])
    syslog.send(known, [b"one", b"two"])

    wait_until("both are read", lambda: receiver.received == [b"one", b"two"], 10)


def test_f44_work_stops_while_the_audit_cannot_be_kept_and_goes_on_by_itself(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    audit = trust.settings(receiver, stop_work_after_s=1.0)
    with living(tmp_path, sqlite_database, spool, engine, audit=audit) as house:
        images = studies.series(REFUSED)
        assert set(house.send(images[:1])) == {"0x0000"}

        wait_until("associations are refused", lambda: asked(house)[0] != ACCEPT, 20)
        with Wire(house.port) as wire:
            refusal = rejection(wire.associate())
        receiver.start()
        wait_until("associations are taken", lambda: taken(house), 20)
        answers = house.send(images)

    assert refusal == (2, 3, 1)
    assert set(answers) == {"0x0000"}
    assert house.events(EventKind.ASSOCIATION_REFUSED)[0].detail["reason"] == "audit cannot be kept"


def asked(house: House) -> tuple[int, bytes]:
    """The answer to a request for an association."""
    with Wire(house.port) as wire:
        return wire.associate()


def taken(house: House) -> bool:
    """True where an association is taken once everything was sent."""
    forward(house)
    return asked(house)[0] == ACCEPT


def test_f44_worker_sends_what_happens_by_itself(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    receiver.start()
    with living(tmp_path, sqlite_database, spool, engine, audit=trust.settings(receiver)) as house:
        schedule = Schedule(house.where)
        schedule.start()
        try:
            house.send(studies.series(REFUSED)[:1])
            wait_until("the reception is in the repository", lambda: b"ACC" in b"".join(receiver.received), 30)
        finally:
            schedule.stop()

    assert receiver.sequences == sorted(set(receiver.sequences))


def test_f44_expiring_certificate_for_the_repository_is_an_event(
    tmp_path: Path, sqlite_database: Database, spool: Spool, engine: Engine, trust: Trust, receiver: Receiver
) -> None:
    with living(tmp_path, sqlite_database, spool, engine, audit=trust.settings(receiver)) as house:
        expiry.watch(house.where.settings, sqlite_database, at=utc_now() + timedelta(days=10))
        files = {event.detail["file"] for event in house.events(EventKind.CERTIFICATE_EXPIRING)}

    assert {"audit.repository_certificate_file", "audit.repository_ca_file"} <= files
