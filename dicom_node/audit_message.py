"""One event as the audit message of PS3.15 A.5: what happened, who took part, and which study and patient it was about.

Events that the standard has a message for use its codes (CID 400, CID 401); every message names the event's own kind, too, as a
type under the scheme 99FOVEA. Each carries its place and digest in the hash chain, so that a repository can tell a
repetition and a hole. Pure ASCII: other characters are character references.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC
from ipaddress import ip_address
from xml.etree import ElementTree as Xml

from storage.events import EventKind, EventOutcome
from storage.models import Event
from storage.repository import Unsent

SCHEME = "99FOVEA"
LONGEST_DETAIL_BYTES = 12_000
"""Of an event's detail; a longer one is told by its SHA-256, so that a message fits into a datagram of 32 kB."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INDICATORS = {EventOutcome.SUCCESS: "0", EventOutcome.MINOR_FAILURE: "4", EventOutcome.SERIOUS_FAILURE: "8"}
APPLICATION_SERVER = "4"
"""Audit Source Type Code (PS3.15 A.5.1.2.1)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who reports: Audit Source ID, Audit Enterprise Site ID (empty: none) and the node's AE title."""

    source_id: str
    site_id: str
    ae_title: str


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value as the schema writes it."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


APPLICATION_ACTIVITY = _dcm("110100", "Application Activity")
AUDIT_LOG_USED = _dcm("110101", "Audit Log Used")
BEGIN_TRANSFERRING = _dcm("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = _dcm("110104", "DICOM Instances Transferred")
STUDY_DELETED = _dcm("110105", "DICOM Study Deleted")
SECURITY_ALERT = _dcm("110113", "Security Alert")
USER_AUTHENTICATION = _dcm("110114", "User Authentication")
APPLICATION_START = _dcm("110120", "Application Start")
APPLICATION_STOP = _dcm("110121", "Application Stop")
LOGIN = _dcm("110122", "Login")
NODE_AUTHENTICATION = _dcm("110126", "Node Authentication")
SECURITY_CONFIGURATION = _dcm("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = _dcm("110131", "Software Configuration")
AUDIT_RECORDING_STOPPED = _dcm("110133", "Audit Recording Stopped")
AUDIT_RECORDING_STARTED = _dcm("110134", "Audit Recording Started")
APPLICATION_ROLE = _dcm("110150", "Application")
DESTINATION_ROLE = _dcm("110152", "Destination Role ID")
SOURCE_ROLE = _dcm("110153", "Source Role ID")
STUDY_INSTANCE_UID = _dcm("110180", "Study Instance UID")
PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")
URI = Code("12", "RFC-3881", "URI")

# The messages of PS3.15 A.5.3, with their action: C create, R read, U update, D delete, E execute.
_MESSAGES: dict[EventKind, tuple[Code, Code | None, str]] = {
    EventKind.NODE_STARTED: (APPLICATION_ACTIVITY, APPLICATION_START, "E"),
    EventKind.NODE_STOPPED: (APPLICATION_ACTIVITY, APPLICATION_STOP, "E"),
    EventKind.CONFIGURATION_CHANGED: (SECURITY_ALERT, SOFTWARE_CONFIGURATION, "E"),
    EventKind.MODEL_CHANGED: (SECURITY_ALERT, SOFTWARE_CONFIGURATION, "E"),
    EventKind.CERTIFICATES_RELOADED: (SECURITY_ALERT, SECURITY_CONFIGURATION, "E"),
    EventKind.CERTIFICATE_EXPIRING: (SECURITY_ALERT, SECURITY_CONFIGURATION, "E"),
    EventKind.ASSOCIATION_REFUSED: (SECURITY_ALERT, None, "E"),
    EventKind.NODE_NOT_AUTHENTICATED: (SECURITY_ALERT, NODE_AUTHENTICATION, "E"),
    EventKind.SECURITY_ALERT: (SECURITY_ALERT, NODE_AUTHENTICATION, "E"),
    EventKind.AUDIT_STOPPED: (SECURITY_ALERT, AUDIT_RECORDING_STOPPED, "E"),
    EventKind.AUDIT_STARTED: (SECURITY_ALERT, AUDIT_RECORDING_STARTED, "E"),
    EventKind.INSTANCES_RECEIVED: (INSTANCES_TRANSFERRED, None, "C"),
    EventKind.INSTANCE_REFUSED: (INSTANCES_TRANSFERRED, None, "C"),
    EventKind.RESULT_CREATED: (INSTANCES_ACCESSED, None, "C"),
    EventKind.STUDY_VIEWED: (INSTANCES_ACCESSED, None, "R"),
    EventKind.STUDY_PURGED: (STUDY_DELETED, None, "D"),
    EventKind.STUDY_DISCARDED: (STUDY_DELETED, None, "D"),
    EventKind.DELIVERY_ATTEMPTED: (BEGIN_TRANSFERRING, None, "E"),
    EventKind.DELIVERY_SUCCEEDED: (INSTANCES_TRANSFERRED, None, "R"),
    EventKind.DELIVERY_FAILED: (INSTANCES_TRANSFERRED, None, "R"),
    EventKind.AUDIT_QUERIED: (AUDIT_LOG_USED, None, "R"),
    EventKind.AUDIT_EXPORTED: (AUDIT_LOG_USED, None, "R"),
    EventKind.ACCESS_GRANTED: (USER_AUTHENTICATION, LOGIN, "E"),
    EventKind.ACCESS_DENIED: (USER_AUTHENTICATION, LOGIN, "E"),
}
_INWARD = frozenset((EventKind.INSTANCES_RECEIVED, EventKind.INSTANCE_REFUSED))
_OUTWARD = frozenset((EventKind.DELIVERY_ATTEMPTED, EventKind.DELIVERY_SUCCEEDED, EventKind.DELIVERY_FAILED))


def audit_message(chained: Unsent, origin: Origin) -> bytes:
    """The event as XML by the schema of PS3.15 A.5.1."""
    event, kind = chained.event, EventKind(chained.event.kind)
    message = Xml.Element("AuditMessage")
    _add_event(message, event, kind)
    _add_participants(message, event, kind, origin)
    source = Xml.SubElement(message, "AuditSourceIdentification", _filled(AuditEnterpriseSiteID=origin.site_id))
    source.set("AuditSourceID", _text(origin.source_id))
    Xml.SubElement(source, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    _add_objects(message, chained, kind)
    return Xml.tostring(message, encoding="us-ascii", xml_declaration=True)


def is_warning(event: Event) -> bool:
    """True for what is a warning condition to syslog (severity 4) and not merely significant (5)."""
    return event.outcome != EventOutcome.SUCCESS


def _add_event(message: Xml.Element, event: Event, kind: EventKind) -> None:
    own = Code(kind.value.replace(" ", "-"), SCHEME, kind.value)
    identifier, type_code, action = _MESSAGES.get(kind, (own, None, "E"))
    outcome = EventOutcome(event.outcome)
    attributes = {
        "EventActionCode": action,
        "EventDateTime": event.at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": _INDICATORS[outcome],
    }
    element = Xml.SubElement(message, "EventIdentification", attributes)
    _add_code(element, "EventID", identifier)
    for code in (type_code, own if identifier is not own else None):
        if code is not None:
            _add_code(element, "EventTypeCode", code)
    if outcome is not EventOutcome.SUCCESS:
        reason = event.detail.get("reason") or event.detail.get("text") or kind.value
        Xml.SubElement(element, "EventOutcomeDescription").text = _text(str(reason))


def _add_participants(message: Xml.Element, event: Event, kind: EventKind, origin: Origin) -> None:
    """The node, the peer where there is one, and the person where one acted; whoever began it is the requestor."""
    inward, outward = kind in _INWARD, kind in _OUTWARD
    peer = event.peer or (event.address if not event.user else None)
    own_role = DESTINATION_ROLE if inward else SOURCE_ROLE if outward else APPLICATION_ROLE
    began = event.user is None and (outward or peer is None)
    _add_participant(message, origin.source_id, own_role, is_requestor=began, alternative=f"AETITLES={origin.ae_title}")
    if peer is not None:
        role = SOURCE_ROLE if inward else DESTINATION_ROLE if outward else APPLICATION_ROLE
        asked = not outward and event.user is None
        _add_participant(message, peer, role, is_requestor=asked, alternative=f"AETITLES={peer}", address=event.address)
    if event.user is not None:
        _add_participant(message, event.user, None, is_requestor=True, address=None if event.peer else event.address)


def _add_participant(
    message: Xml.Element,
    user_id: str,
    role: Code | None,
    *,
    is_requestor: bool,
    alternative: str = "",
    address: str | None = None,
) -> None:
    attributes = {"UserID": _text(user_id), **_filled(AlternativeUserID=alternative)}
    attributes["UserIsRequestor"] = "true" if is_requestor else "false"
    if address:
        attributes |= {"NetworkAccessPointID": _text(address), "NetworkAccessPointTypeCode": "2" if _is_ip(address) else "1"}
    element = Xml.SubElement(message, "ActiveParticipant", attributes)
    if role is not None:
        _add_code(element, "RoleIDCode", role)


def _add_objects(message: Xml.Element, chained: Unsent, kind: EventKind) -> None:
    event = chained.event
    if event.study_instance_uid:
        study = _add_object(message, event.study_instance_uid, "2", "3", STUDY_INSTANCE_UID, event.study_instance_uid)
        if event.accession_number:
            description = Xml.SubElement(study, "ParticipantObjectDescription")
            Xml.SubElement(description, "Accession", {"Number": _text(event.accession_number)})
    if event.patient_id:
        _add_object(message, event.patient_id, "1", "1", PATIENT_NUMBER, "")
    if _MESSAGES.get(kind, (None,))[0] is AUDIT_LOG_USED:
        _add_object(message, "urn:fovea:audit", "2", "13", URI, "Security Audit Log")
    link = Code("hash-chain", SCHEME, "Place in the hash chain over the audit")
    element = _add_object(message, str(chained.sequence), "2", "13", link, "audit event")
    for name, value in _details(chained).items():
        encoded = base64.b64encode(value.encode()).decode()
        Xml.SubElement(element, "ParticipantObjectDetail", {"type": name, "value": encoded})


def _details(chained: Unsent) -> dict[str, str]:
    event = chained.event
    told = {"digest": chained.digest, "model": event.model, "model digest": event.model_digest, "job": event.job_id}
    found = {name: str(value) for name, value in told.items() if value is not None}
    detail = json.dumps(event.detail, sort_keys=True)
    if len(detail.encode()) > LONGEST_DETAIL_BYTES:
        return {**found, "detail sha256": hashlib.sha256(detail.encode()).hexdigest()}
    return {**found, "detail": detail} if event.detail else found


def _add_object(message: Xml.Element, identifier: str, type_code: str, role: str, id_type: Code, name: str) -> Xml.Element:
    attributes = {
        "ParticipantObjectID": _text(identifier),
        "ParticipantObjectTypeCode": type_code,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = Xml.SubElement(message, "ParticipantObjectIdentification", attributes)
    _add_code(element, "ParticipantObjectIDTypeCode", id_type)
    Xml.SubElement(element, "ParticipantObjectName").text = _text(name)
    return element


def _add_code(parent: Xml.Element, name: str, code: Code) -> None:
    Xml.SubElement(parent, name, {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning})


def _filled(**attributes: str) -> dict[str, str]:
    return {name: _text(value) for name, value in attributes.items() if value}


def _text(value: str) -> str:
    """The text without what XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True
