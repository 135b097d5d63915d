"""Storage commitment, push model (PS3.4 J.3): asking an archive to take responsibility, and taking its report.

A report may come on the association of the request, on a new one that the archive opens to the listener with the roles reversed,
late, twice, or for a transaction that nobody asked for. It is looked up by its Transaction UID and counts once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from sqlalchemy.orm import Session

from dicom_node.arrival import word
from dicom_node.calling import NotSecured, associate
from dicom_node.scu import SendError, association_error, end_association, not_secured
from dicom_node.settings import Delivering, Destination
from storage import commitments
from storage.commitments import CommitmentKind
from storage.database import Database, DatabaseBusy
from storage.events import EventKind, append
from storage.models import Commitment

log = structlog.get_logger(__name__)

PUSH_MODEL, PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST_ACTION, ALL_COMMITTED, SOME_FAILED = 1, 1, 2
SUCCESS, UNKNOWN_TRANSACTION, PROCESSING_FAILURE = 0x0000, 0x0115, 0x0110

# Failure Reason (0008,1197) of PS3.3 C.14.1.1 by which sending again is no use: the archive cannot commit this at all, or
# already knows the transaction. Every other reason means that the object is not there.
ASK_BY_QUERY = {0x0122: "the archive does not commit this SOP class", 0x0131: "the archive knows the transaction already"}


class Committable(Protocol):
    """One object to commit."""

    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT's content: SOP Instance UIDs committed, and those that failed with their reason."""

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, information: Dataset) -> Report:
        """The report in an Event Information data set; what it lacks is empty."""
        done = information.get("ReferencedSOPSequence") or []
        failed = information.get("FailedSOPSequence") or []
        return cls(
            str(information.get("TransactionUID", "")),
            frozenset(str(one.get("ReferencedSOPInstanceUID", "")) for one in done),
            {str(one.get("ReferencedSOPInstanceUID", "")): int(one.get("FailureReason") or 0x0110) for one in failed},
        )


# ------------------------------------------------------------------------------------------------- asking


def ask(
    destination: Destination,
    calling_ae_title: str,
    transaction_uid: str,
    items: Sequence[Committable],
    take: Callable[[Report], int],
    *,
    report_wait_s: float,
) -> SendError | None:
    """Request commitment of the items; None once the archive took the request.

    A report on the same association goes to `take`; the association stays open for it `report_wait_s`. A permanent error means
    that this archive does not do storage commitment.
    """
    reported = threading.Event()
    try:
        association = _associate(destination, calling_ae_title, take, reported)
    except NotSecured as failure:
        return not_secured(failure)
    error = association_error(association, destination)
    if error is not None:
        return error
    if not association.accepted_contexts:
        return SendError("no-commitment", f"{destination.address} accepts no storage commitment", permanent=True)
    try:
        try:
            status, _ = association.send_n_action(
                request_of(transaction_uid, items), REQUEST_ACTION, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except (RuntimeError, ValueError):  # pynetdicom's words for an association that ended meanwhile
            return SendError("association-aborted", f"association with {destination.address} was aborted", permanent=False)
        if "Status" not in status:
            return SendError("no-answer", f"{destination.address} did not answer the commitment request", permanent=False)
        if status.Status != SUCCESS:
            text = f"{destination.address} answered the commitment request with 0x{status.Status:04X}"
            return SendError("commitment-refused", text, permanent=status.Status not in (0x0213, 0x0110))
        reported.wait(report_wait_s)
        return None
    finally:
        end_association(association)


def request_of(transaction_uid: str, items: Sequence[Committable]) -> Dataset:
    """The Action Information of a request (PS3.4 table J.3-1)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [referenced(one.sop_class_uid, one.sop_instance_uid) for one in items]
    return information


def referenced(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """An item of a Referenced SOP Sequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _associate(destination: Destination, calling_ae_title: str, take: Callable[[Report], int], reported: threading.Event) -> Any:
    taken = threading.Event()

    def on_report(event: Any) -> tuple[int, None]:
        try:
            return take(Report.of(event.event_information)), None
        except DatabaseBusy:
            return PROCESSING_FAILURE, None
        finally:
            taken.set()

    def on_sent(_event: Any) -> None:
        if taken.is_set():  # the answer is out; a release before would cross it
            reported.set()

    return associate(
        destination,
        calling_ae_title,
        [build_context(PUSH_MODEL, [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)])],
        handlers=[(evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_PDU_SENT, on_sent)],
    )


# ------------------------------------------------------------------------------------------------- the report


def on_report(event: Any, database: Database, settings: Delivering, now: Callable[[], datetime]) -> tuple[int, None]:
    """Answer an N-EVENT-REPORT that came to the listener: 0x0000 once its outcome is in the database."""
    peer = str(event.assoc.requestor.ae_title).strip()
    try:
        report = Report.of(event.event_information)
        return take_report(database, settings, report, peer=peer, at=now()), None
    except DatabaseBusy:
        return PROCESSING_FAILURE, None
    except Exception as error:  # pynetdicom would answer 0x0110 without a word in our log
        log.exception("commitment report not taken", peer=peer, error=type(error).__name__)
        return PROCESSING_FAILURE, None


def take_report(database: Database, settings: Delivering, report: Report, *, peer: str, at: datetime) -> int:
    """Move the delivery by the report; the status to answer. A second report on a transaction changes nothing."""
    with database.write() as session:
        commitment = commitments.find(session, report.transaction_uid)
        if commitment is None:
            log.warning("commitment report of an unknown transaction", peer=peer)
            return UNKNOWN_TRANSACTION
        if not commitments.is_open(commitment):
            return SUCCESS
        _apply(session, settings, commitment, report, peer=peer, at=at)
    return SUCCESS


def _apply(session: Session, settings: Delivering, commitment: Commitment, report: Report, *, peer: str, at: datetime) -> None:
    objects = {item.result.sop_instance_uid: item.result_id for item in commitment.delivery.items}
    missing = {uid: report.failed.get(uid) for uid in objects if uid not in report.committed}
    job = commitment.delivery.job
    facts = {
        "delivery": commitment.delivery_id,
        "transaction uid": commitment.transaction_uid,
        "committed": len(objects) - len(missing),
        "failed": {uid: "not mentioned" if reason is None else f"0x{reason:04X}" for uid, reason in missing.items()},
    }
    append(session, EventKind.COMMITMENT_REPORTED, at=at, study=job.study, peer=peer, job_id=job.id, detail=facts)
    if not missing:
        commitments.confirm(session, commitment, how=CommitmentKind.COMMITMENT.value, at=at)
        return
    unsure = [text for reason, text in ASK_BY_QUERY.items() if reason in missing.values()]
    if unsure and all(reason in ASK_BY_QUERY for reason in missing.values()):
        timeout_s = (commitment.deadline - commitment.requested_at).total_seconds()
        commitments.turn_to_query(
            session, commitment, timeout_s=timeout_s, reason="commitment-refused", detail=word(unsure[0]), at=at
        )
        return
    detail = "; ".join(f"{uid}: {'not mentioned' if reason is None else f'0x{reason:04X}'}" for uid, reason in missing.items())
    not_kept(session, settings, commitment, [objects[uid] for uid in missing], reason="commitment-failed", detail=detail, at=at)


def not_kept(
    session: Session,
    settings: Delivering,
    commitment: Commitment,
    missing: Sequence[int],
    *,
    reason: str,
    detail: str,
    at: datetime,
) -> None:
    """Send the result ids in `missing` again after a growing wait, or give up where this happened too often."""
    failures = commitments.failed_proofs(session, commitment.delivery) + 1
    wait_s = min(settings.retry_at_most_s, settings.retry_after_s * 2 ** min(failures - 1, 20)) * random.uniform(0.75, 1.25)
    is_last = failures >= settings.give_up_after_failed_proofs
    not_before = None if is_last else at + timedelta(seconds=wait_s)
    commitments.fail(session, commitment, missing, reason=reason, detail=detail, not_before=not_before, at=at)
