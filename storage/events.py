"""Events: one row for each thing that happened, written in the transaction of the thing itself.

History, audit messages (PS3.15 A.5) and the hash chain are all made from these rows. Details are small JSON objects: UIDs,
counts, codes; never pixel data, and of the patient only the ID and the accession number, each in its own column.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum

from sqlalchemy.orm import Session

from storage.models import Event, JsonObject, Study


class EventKind(StrEnum):
    """What happened."""

    NODE_STARTED = "node started"
    NODE_STOPPED = "node stopped"
    CONFIGURATION_CHANGED = "configuration changed"
    MODEL_CHANGED = "model changed"
    ASSOCIATION_OPENED = "association opened"
    ASSOCIATION_REFUSED = "association refused"
    ASSOCIATION_CLOSED = "association closed"
    NODE_NOT_AUTHENTICATED = "node not authenticated"
    SECURITY_ALERT = "security alert"
    CERTIFICATES_RELOADED = "certificates reloaded"
    CERTIFICATE_EXPIRING = "certificate expiring"
    INSTANCES_RECEIVED = "instances received"
    INSTANCE_REFUSED = "instance refused"
    STUDY_SETTLED = "study settled"
    STUDY_KEPT_OPEN = "study kept open"
    STUDY_REOPENED = "study reopened"
    STUDY_CORRECTED = "study corrected"
    STUDY_QUARANTINED = "study quarantined"
    STUDY_RELEASED = "study released"
    STUDY_DISCARDED = "study discarded"
    STUDY_PURGED = "study purged"
    RULE_DECIDED = "rule decided"
    JOB_CREATED = "job created"
    JOB_STARTED = "job started"
    JOB_ENDED = "job ended"
    JOB_RETRIED = "job retried"
    JOB_CANCELED = "job canceled"
    JOB_RESUBMITTED = "job resubmitted"
    RESULT_CREATED = "result created"
    DELIVERY_ATTEMPTED = "delivery attempted"
    DELIVERY_SUCCEEDED = "delivery succeeded"
    DELIVERY_FAILED = "delivery failed"
    DELIVERY_REPLACED = "delivery replaced"
    DELIVERY_CANCELED = "delivery canceled"
    DELIVERY_RESUBMITTED = "delivery resubmitted"
    COMMITMENT_REQUESTED = "commitment requested"
    COMMITMENT_REPORTED = "commitment reported"
    PLEDGE_REQUESTED = "pledge requested"
    PLEDGE_REPORTED = "pledge reported"
    CIRCUIT_OPENED = "circuit opened"
    CIRCUIT_CLOSED = "circuit closed"
    AUDIT_STOPPED = "audit recording stopped"
    AUDIT_STARTED = "audit recording started"
    AUDIT_QUERIED = "audit queried"
    AUDIT_EXPORTED = "audit exported"
    ACCESS_GRANTED = "access granted"
    ACCESS_DENIED = "access denied"
    STUDY_VIEWED = "study viewed"


class EventOutcome(StrEnum):
    """How it ended (PS3.15 A.5 EventOutcomeIndicator 0, 4, 8)."""

    SUCCESS = "success"
    MINOR_FAILURE = "minor failure"
    SERIOUS_FAILURE = "serious failure"


def append(
    session: Session,
    kind: EventKind,
    *,
    at: datetime,
    outcome: EventOutcome = EventOutcome.SUCCESS,
    study: Study | None = None,
    patient_id: str | None = None,
    peer: str | None = None,
    address: str | None = None,
    user: str | None = None,
    model: str | None = None,
    model_digest: str | None = None,
    job_id: int | None = None,
    detail: JsonObject | None = None,
) -> Event:
    """Add one event to the caller's transaction; `study` fills the study, patient and accession columns.

    `patient_id` stands in for the study's where the event is about another patient (an identity conflict). Raises TypeError or
    ValueError where `detail` is not plain JSON (bytes, NaN).
    """
    event = Event(
        at=at,
        kind=kind.value,
        outcome=outcome.value,
        study_instance_uid=study.study_instance_uid if study else None,
        patient_id=storable(patient_id) if patient_id is not None else (study.patient_id if study else None),
        accession_number=study.accession_number if study else None,
        peer=_optional(peer),
        address=_optional(address),
        user=_optional(user),
        model=_optional(model),
        model_digest=_optional(model_digest),
        job_id=job_id,
        detail=plain_json(detail or {}),
    )
    session.add(event)
    return event


def plain_json(value: JsonObject) -> JsonObject:
    """The object as JSON reads it back (tuples as lists). Raises TypeError or ValueError where it is not plain JSON."""
    parsed: JsonObject = json.loads(json.dumps(value, allow_nan=False))
    return parsed


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL characters and lone surrogates."""
    if text.isascii() and "\x00" not in text:  # nearly always
        return text
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _optional(text: str | None) -> str | None:
    return None if text is None else storable(text)
