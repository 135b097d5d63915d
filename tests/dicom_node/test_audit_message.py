"""Audit messages by the schema of PS3.15 A.5.1, and the syslog messages around them (RFC 5424)."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime
from xml.etree import ElementTree as Xml

import pytest

from dicom_node import syslog
from dicom_node.audit_message import Origin, audit_message, is_warning
from dicom_node.settings_audit import Audit
from storage.events import EventKind, EventOutcome
from storage.models import Event
from storage.repository import Unsent
from tests.receiver import Receiver, details, xml_of

pytestmark = pytest.mark.feature("A2")

AT = datetime(2026, 3, 1, 9, 30, 12, 345678, tzinfo=UTC)
ORIGIN = Origin("FOVEA-1", "Hospital", "FOVEA")
REQUIRED_OF_A_CODE = {"csd-code", "codeSystemName", "originalText"}


def event(kind: EventKind = EventKind.INSTANCES_RECEIVED, **values: object) -> Event:
    told = {
        "outcome": EventOutcome.SUCCESS.value, "peer": "MODALITY", "address": "10.1.2.3", "user": None,
        "model": "brain-flair 0.1", "model_digest": "ab" * 32, "job_id": 7, "study_instance_uid": "1.2.3",
        "patient_id": "TEST-1", "accession_number": "ACC1", "detail": {"instances": 3},
    }  # fmt: skip
    return Event(id=5, at=AT, kind=kind.value, **{**told, **values})


def written(of: Event) -> Xml.Element:
    return Xml.fromstring(audit_message(Unsent(17, "cd" * 32, of), ORIGIN))


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_has_what_the_schema_asks_for(kind: EventKind) -> None:
    message = written(event(kind))

    assert [child.tag for child in message][:2] == ["EventIdentification", "ActiveParticipant"]
    order = ["EventIdentification", "ActiveParticipant", "AuditSourceIdentification", "ParticipantObjectIdentification"]
    places = [order.index(child.tag) for child in message]
    assert places == sorted(places)
    identification = message[0]
    assert identification[0].tag == "EventID"
    assert identification.attrib["EventActionCode"] in "CRUDE"
    assert identification.attrib["EventDateTime"] == "2026-03-01T09:30:12.345+00:00"
    for code in [*message.iter("EventID"), *message.iter("EventTypeCode"), *message.iter("RoleIDCode")]:
        assert code.attrib.keys() >= REQUIRED_OF_A_CODE
    participants = message.findall("ActiveParticipant")
    assert all({"UserID", "UserIsRequestor"} <= one.attrib.keys() for one in participants)
    assert [one.get("UserIsRequestor") for one in participants].count("true") == 1
    for one in message.findall("ParticipantObjectIdentification"):
        assert one[0].tag == "ParticipantObjectIDTypeCode"
        assert one[1].tag == "ParticipantObjectName"


def test_a_reception_names_source_destination_study_and_patient() -> None:
    message = written(event())

    assert message.find("EventIdentification/EventID[@csd-code='110104']") is not None
    sender, node = (message.find(f"ActiveParticipant[@UserID='{name}']") for name in ("MODALITY", "FOVEA-1"))
    assert sender is not None
    assert node is not None
    assert (sender.get("NetworkAccessPointID"), sender.get("NetworkAccessPointTypeCode")) == ("10.1.2.3", "2")
    assert [one.find("RoleIDCode").get("csd-code") for one in (sender, node)] == ["110153", "110152"]  # type: ignore[union-attr]
    objects = {one.get("ParticipantObjectID"): one for one in message.findall("ParticipantObjectIdentification")}
    assert objects["1.2.3"].find("ParticipantObjectIDTypeCode[@csd-code='110180']") is not None
    assert objects["1.2.3"].find("ParticipantObjectDescription/Accession[@Number='ACC1']") is not None
    assert objects["TEST-1"].find("ParticipantObjectIDTypeCode[@csd-code='2']") is not None
    assert "17" in objects


def test_a_failure_says_why() -> None:
    message = written(event(EventKind.DELIVERY_FAILED, outcome=EventOutcome.SERIOUS_FAILURE.value, detail={"reason": "0xA700"}))

    assert message[0].get("EventOutcomeIndicator") == "8"
    assert message.findtext("EventIdentification/EventOutcomeDescription") == "0xA700"


@pytest.mark.parametrize("text", ["a\x00b", "a\x1bb", "a\ud800b", "<&\"'>", "山田", "\U0001f600"])
def test_what_strangers_sent_makes_no_other_message(text: str) -> None:
    message = written(event(peer=text, detail={"reason": text}))

    peer = message.findall("ActiveParticipant")[1].get("UserID")
    assert peer == re.sub("[\x00\x1b\ud800]", "\N{REPLACEMENT CHARACTER}", text)


def test_a_long_detail_is_told_by_its_digest_and_the_message_fits_into_a_datagram() -> None:
    body = audit_message(Unsent(1, "0" * 64, event(detail={str(n): "x" * 100 for n in range(1000)})), ORIGIN)
    message = syslog.syslog_message(body, at=AT, is_warning=False)

    assert len(message) < 32_768
    assert len(details(message)["detail sha256"]) == 64


def test_the_header_is_that_of_rfc_5424() -> None:
    alert = event(EventKind.SECURITY_ALERT, outcome=EventOutcome.SERIOUS_FAILURE.value)
    message = syslog.syslog_message(b"<x/>", at=AT, is_warning=is_warning(alert))

    assert re.fullmatch(rb"<84>1 2026-03-01T09:30:12\.345Z [\x21-\x7e]+ fovea \d+ DICOM\+RFC3881 - <x/>", message)
    assert syslog.syslog_message(b"", at=AT, is_warning=is_warning(event())).startswith(b"<85>1 ")


def test_messages_go_over_tcp_by_octet_counting() -> None:
    receiver = Receiver()
    receiver.start()
    messages = [
        syslog.syslog_message(audit_message(Unsent(n, "0" * 64, event()), ORIGIN), at=AT, is_warning=False) for n in (1, 2)
    ]
    try:
        syslog.send(Audit(repository=f"tcp://127.0.0.1:{receiver.port}"), messages)
    finally:
        receiver.stop()

    assert receiver.received == messages


def test_messages_go_over_udp_one_in_a_datagram() -> None:
    message = syslog.syslog_message(audit_message(Unsent(1, "0" * 64, event()), ORIGIN), at=AT, is_warning=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)

        syslog.send(Audit(repository=f"udp://127.0.0.1:{receiver.getsockname()[1]}"), [message])
        taken = receiver.recv(65536)

    assert taken == message
    assert xml_of(taken).tag == "AuditMessage"


def test_a_repository_that_keeps_its_side_open_has_taken_what_it_acknowledged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        audit = Audit(repository=f"tcp://127.0.0.1:{listener.getsockname()[1]}", repository_timeout_s=0.5)

        syslog.send(audit, [b"one"])

        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b"3 one"


@pytest.mark.parametrize("url", ["syslog://a:1", "tls://a", "tls://a:0", "tls://a:65536", "tls://user@a:1", "tls://a:1/x"])
def test_a_repository_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="looks like"):
        Audit(repository=url)


def test_work_is_not_stopped_sooner_than_events_are_sent() -> None:
    with pytest.raises(ValueError, match="longer than twice"):
        Audit(repository="tls://a:1", stop_work_after_s=5)
