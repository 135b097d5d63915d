"""Storage commitment as SCP, push model (PS3.4 J.3): what a peer may ask of this node, and how it is told the outcome.

Only what is on disk now, with the digest that was taken when it was received, is committed; the row alone is never believed. The
report goes out on the request's own association while that stands, otherwise on a new one with the roles reversed, again and
again until it is taken.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role

from dicom_node.calling import NotSecured, associate
from dicom_node.commitment import ALL_COMMITTED, PUSH_MODEL, PUSH_MODEL_INSTANCE, REQUEST_ACTION, SOME_FAILED, referenced
from dicom_node.intake import is_uid
from dicom_node.kept_file import HEAD_BYTES, data_set_offset
from dicom_node.scu import association_error, end_association
from dicom_node.settings import Destination, Settings
from storage import pledges
from storage.database import Database, DatabaseBusy
from storage.models import Pledge
from storage.pledges import Kept
from storage.spool import Spool, SpoolError

log = structlog.get_logger(__name__)

SUCCESS = 0x0000
# PS3.7 C.4 and C.5, as answers to N-ACTION.
PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT, NO_SUCH_ACTION, NOT_AUTHORIZED, RESOURCE_LIMITATION = (
    0x0110, 0x0112, 0x0115, 0x0123, 0x0124, 0x0213,
)  # fmt: skip
# Failure Reason (0008,1197), PS3.3 C.14.1.1.
CLASS_INSTANCE_CONFLICT, DUPLICATE_TRANSACTION = 0x0119, 0x0131

MAXIMUM_OBJECTS = 20_000
"""Objects of one request; a study has a few thousand."""
HOLD_S = 120.0
"""For how long a claimed report is nobody else's: longer than hashing a large study and one association take."""
LOOK_S = 1.0
GIVE_UP_AFTER = timedelta(days=2)
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is committed (SOP Instance UID to class), and what is not, with its Failure Reason."""

    committed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


def outcome_of(database: Database, spool: Spool, items: Mapping[str, str]) -> Outcome:
    """Check each object (SOP Instance UID to class) against its file. Raises DatabaseBusy."""
    with database.read() as session:
        known = pledges.kept(session, items)
    outcome = Outcome()
    for uid, sop_class_uid in items.items():
        reason = _failure(spool, known.get(uid), sop_class_uid)
        if reason is None:
            outcome.committed[uid] = sop_class_uid
        else:
            outcome.failed[uid] = reason
            if reason == PROCESSING_FAILURE:
                log.error("an acknowledged instance is not on disk as it was received", sop_instance_uid=uid)
    return outcome


def _failure(spool: Spool, kept: Kept | None, sop_class_uid: str) -> int | None:
    if kept is None or kept.path is None:
        return NO_SUCH_INSTANCE
    if kept.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    try:
        return None if _digest(spool, kept.path) == kept.digest else PROCESSING_FAILURE
    except (OSError, SpoolError):
        return PROCESSING_FAILURE


def _digest(spool: Spool, path: str) -> str:
    """SHA-256 (hex) of the data set in a file that the node wrote, behind its file meta information. Raises OSError, SpoolError.

    The file is synced first: its row may stand before its sender was answered.
    """
    spool.sync(path)
    digest = hashlib.sha256()
    with spool.path(path).open("rb") as file:
        file.seek(data_set_offset(file.read(HEAD_BYTES)))
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def report_of(transaction_uid: str, items: Mapping[str, str], outcome: Outcome) -> tuple[int, Dataset]:
    """Event Type ID and Event Information of the report (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    if outcome.committed:
        information.ReferencedSOPSequence = [referenced(sop_class, uid) for uid, sop_class in outcome.committed.items()]
    if outcome.failed:
        information.FailedSOPSequence = [_failed(items[uid], uid, reason) for uid, reason in outcome.failed.items()]
    return SOME_FAILED if outcome.failed else ALL_COMMITTED, information


def _failed(sop_class_uid: str, sop_instance_uid: str, reason: int) -> Dataset:
    item = referenced(sop_class_uid, sop_instance_uid)
    item.FailureReason = reason
    return item


@dataclass(frozen=True, slots=True)
class _Owed:
    """A report to be made, outside any transaction."""

    pledge_id: int
    peer: str
    address: str
    transaction_uid: str
    items: dict[str, str]
    is_duplicate: bool
    attempt: int
    requested_at: datetime

    @classmethod
    def of(cls, pledge: Pledge) -> _Owed:
        return cls(
            pledge.id, pledge.peer, pledge.address, pledge.transaction_uid, dict(pledge.items), pledge.is_duplicate,
            pledge.attempt, pledge.requested_at,
        )  # fmt: skip


class CommitmentScp:
    """Takes requests from the listener's associations, and one thread that checks and reports."""

    def __init__(self, settings: Settings, database: Database, spool: Spool, *, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._now = now
        self._numbers = itertools.count()
        self._fresh: list[tuple[float, int, _Owed, Any]] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitment reports", daemon=True)

    def start(self) -> None:
        """Begin to report, also what the last process still owed."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread once it has told the peer it is just telling; what is owed is reported after the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def on_request(self, event: Any, *, may_ask: Callable[[Any], bool]) -> tuple[int, None]:
        """Answer an N-ACTION: 0x0000 once the request is in the database."""
        try:
            return self._taken(event, may_ask), None
        except DatabaseBusy:
            return PROCESSING_FAILURE, None
        except Exception as error:  # pynetdicom would answer 0x0110 without a word in our log
            log.exception("commitment request not taken", error=type(error).__name__)
            return PROCESSING_FAILURE, None

    def _taken(self, event: Any, may_ask: Callable[[Any], bool]) -> int:
        if not may_ask(event.assoc):
            return NOT_AUTHORIZED
        if event.request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            return NO_SUCH_INSTANCE
        if event.action_type != REQUEST_ACTION:
            return NO_SUCH_ACTION
        information = event.action_information
        references = information.get("ReferencedSOPSequence") or []
        if len(references) > MAXIMUM_OBJECTS:
            return RESOURCE_LIMITATION
        items = {str(one.get("ReferencedSOPInstanceUID", "")): str(one.get("ReferencedSOPClassUID", "")) for one in references}
        transaction_uid = str(information.get("TransactionUID", ""))
        if not items or not all(map(is_uid, (transaction_uid, *items, *items.values()))):
            return INVALID_ARGUMENT
        peer = str(event.assoc.requestor.ae_title).strip()
        with self._database.write() as session:
            pledge = pledges.request(
                session, peer=peer, address=event.assoc.requestor.address, transaction_uid=transaction_uid, items=items,
                hold_s=HOLD_S, at=self._now(),
            )  # fmt: skip
            owed = _Owed.of(pledge)
        due = time.monotonic() + self._settings.receive.commitment_settle_s
        with self._wake:
            heapq.heappush(self._fresh, (due, next(self._numbers), owed, event.assoc))
            self._wake.notify()
        return SUCCESS

    # ------------------------------------------------------------------------------------------- reporting

    def _run(self) -> None:
        owed = None
        while not self._stopping:
            try:
                owed, association = self._next()
                if owed is not None and not self._stopping:
                    self._report(owed, association)
                    owed = None
            except DatabaseBusy as error:
                log.warning("commitment report put off: database busy", error=str(error))
            except Exception as error:  # the loop's rim: one report must not end all others
                log.exception("commitment report failed", error=type(error).__name__)
        self._let_go(owed)

    def _next(self) -> tuple[_Owed | None, Any]:
        """What is to be reported now, with the association it was asked on; (None, None) where nothing is."""
        with self._wake:
            wait_s = min(LOOK_S, max(0.0, self._fresh[0][0] - time.monotonic())) if self._fresh else LOOK_S
            if not self._stopping:
                self._wake.wait(wait_s)
            if self._stopping:
                return None, None
            if self._fresh and self._fresh[0][0] <= time.monotonic():
                _, _, owed, association = heapq.heappop(self._fresh)
                return owed, association
        with self._database.write() as session:
            pledge = pledges.claim_due(session, hold_s=HOLD_S, at=self._now())
            return (None if pledge is None else _Owed.of(pledge)), None

    def _let_go(self, claimed: _Owed | None) -> None:
        """Leave what was taken and not reported to the next start; where the database is away, once its hold is over."""
        with self._wake:
            held = [owed.pledge_id for _, _, owed, _ in self._fresh]
        if claimed is not None:
            held.append(claimed.pledge_id)
        if not held:
            return
        try:
            with self._database.write() as session:
                pledges.let_go(session, held, at=self._now())
        except DatabaseBusy as error:
            log.warning("commitment requests stay held: database busy", requests=len(held), error=str(error))

    def _report(self, owed: _Owed, association: Any) -> None:
        if owed.is_duplicate:
            outcome = Outcome(failed=dict.fromkeys(owed.items, DUPLICATE_TRANSACTION))
        else:
            outcome = outcome_of(self._database, self._spool, owed.items)
        event_type, information = report_of(owed.transaction_uid, owed.items, outcome)
        how, error = "same association", "the association was released"
        if association is not None and association.is_established:
            error = _sent(association, event_type, information)
        else:
            association = None
        if association is None or error:
            how, error = "new association", self._sent_anew(owed, event_type, information)
        with self._database.write() as session:
            if not error:
                pledges.note_reported(
                    session, owed.pledge_id, committed=len(outcome.committed), failed=outcome.failed, how=how, at=self._now()
                )
                return
            log.warning("commitment report not taken", peer=owed.peer, reason=error)
            pledges.note_not_reported(session, owed.pledge_id, reason=error, not_before=self._not_before(owed), at=self._now())

    def _not_before(self, owed: _Owed) -> datetime | None:
        at, delivering = self._now(), self._settings.delivering
        if at - owed.requested_at > GIVE_UP_AFTER:
            return None
        wait_s = min(delivering.retry_at_most_s, delivering.retry_after_s * 2 ** min(owed.attempt, 20))
        return at + timedelta(seconds=wait_s * random.uniform(0.75, 1.25))

    def _sent_anew(self, owed: _Owed, event_type: int, information: Dataset) -> str:
        """Empty where the peer took the report on an association that we opened, else why not."""
        target = self._address_of(owed)
        if target is None:
            return "no address of the peer is configured"
        try:
            association = associate(
                target,
                self._settings.node.ae_title,
                [build_context(PUSH_MODEL, [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)])],
                roles=[build_role(PUSH_MODEL, scu_role=False, scp_role=True)],
            )
        except NotSecured as failure:
            return str(failure)
        error = association_error(association, target)
        if error is not None:
            return error.text
        if not association.accepted_contexts:
            return "the peer accepts no storage commitment report"
        try:
            return _sent(association, event_type, information)
        finally:
            end_association(association)

    def _address_of(self, owed: _Owed) -> Destination | None:
        """Where the peer is called: its own entry where that has a port, else a destination of its AE title."""
        for peer in self._settings.peers:
            if peer.ae_title == owed.peer and peer.port:
                return Destination(name="report", ae_title=peer.ae_title, host=peer.host or owed.address, port=peer.port)
        named = (one for one in self._settings.destinations if one.kind == "dimse" and one.ae_title == owed.peer)
        return next(named, None)


def _sent(association: Any, event_type: int, information: Dataset) -> str:
    """Empty where the peer took the report, else why not."""
    try:
        status, _ = association.send_n_event_report(information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    except (RuntimeError, ValueError):  # pynetdicom's words for an association that ended meanwhile
        return "the association ended before the report"
    if "Status" not in status:
        return "no answer to the report"
    return "" if status.Status == SUCCESS else f"the report was answered with 0x{status.Status:04X}"
