"""Proving that what an archive acknowledged is there: storage commitment first where it is asked for, a query otherwise.

Every request is a row (`storage.commitments`), so a restart forgets none. An archive that answers Success and keeps another
object, or none, is found out here: what it has not kept is sent again, and after a few times becomes a dead letter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from dicom_node import archive, commitment, dicomweb, ledger
from dicom_node.arrival import Finding, Sought, Verdict
from dicom_node.scu import SendError
from dicom_node.settings import Destination
from dicom_node.workflow import Site, utc_now
from storage import circuits, commitments
from storage.commitments import CommitmentKind, CommitmentState
from storage.models import Commitment

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request as it is asked, outside any transaction."""

    transaction_uid: str
    kind: CommitmentKind
    items: tuple[Sought, ...]


def prove(site: Site, destination: Destination) -> bool:
    """Ask for one proof of arrival that is due; False where none was."""
    with site.database.write() as session:
        if circuits.is_open(session, destination.name):
            return False
        request = _claim(site, session, destination, at=utc_now())
    if request is None:
        return False
    if not request.items:
        return True
    match request.kind:
        case CommitmentKind.COMMITMENT:
            _ask(site, destination, request)
        case CommitmentKind.QUERY:
            _query(site, destination, request)
    return True


def _claim(site: Site, session: Session, destination: Destination, *, at: datetime) -> _Request | None:
    """The request that is due, or an empty one where nothing is to be asked any more."""
    due = commitments.claim_due(session, destination.name, hold_s=site.settings.delivering.lease_s, at=at)
    if due is None:
        return None
    if not commitments.is_open(due):
        return _Request(due.transaction_uid, CommitmentKind(due.kind), ())
    if due.state == CommitmentState.ASKED:
        commitments.turn_to_query(
            session, due, timeout_s=destination.proof_timeout_s, reason="no-report", at=at,
            detail=f"no commitment report within {destination.proof_timeout_s:.0f} s",
        )  # fmt: skip
        due.not_before = at + timedelta(seconds=site.settings.delivering.lease_s)
    items = ledger.sought_items(due.delivery, site.spool)
    return _Request(due.transaction_uid, CommitmentKind(due.kind), items)


# ------------------------------------------------------------------------------------------------- commitment


def _ask(site: Site, destination: Destination, request: _Request) -> None:
    delivering = site.settings.delivering

    def take(report: commitment.Report) -> int:
        return commitment.take_report(site.database, delivering, report, peer=destination.name, at=utc_now())

    error = commitment.ask(
        destination, site.settings.node.ae_title, request.transaction_uid, request.items, take,
        report_wait_s=delivering.report_wait_s,
    )  # fmt: skip
    with site.database.write() as session:
        row = commitments.find(session, request.transaction_uid)
        if row is not None and commitments.is_open(row) and row.kind == CommitmentKind.COMMITMENT:
            _asked(site, session, destination, row, error, at=utc_now())


def _asked(
    site: Site, session: Session, destination: Destination, row: Commitment, error: SendError | None, *, at: datetime
) -> None:
    if error is None:
        commitments.note_asked(session, row, at=at)
    elif error.permanent or row.deadline <= at:
        commitments.turn_to_query(
            session, row, timeout_s=destination.proof_timeout_s, reason=error.code, detail=error.text, at=at
        )
    else:
        commitments.ask_later(row, not_before=_next(site, row, at), reason=error.code, detail=error.text)


# ------------------------------------------------------------------------------------------------- query


def _query(site: Site, destination: Destination, request: _Request) -> None:
    if destination.kind == "stow":
        findings = dicomweb.find(destination, request.items)
    else:
        findings = archive.find(destination, site.settings.node.ae_title, request.items)
    with site.database.write() as session:
        row = commitments.find(session, request.transaction_uid)
        if row is not None and commitments.is_open(row):
            _found(site, session, row, findings, at=utc_now())


def _found(site: Site, session: Session, row: Commitment, findings: Sequence[Finding], *, at: datetime) -> None:
    """Draw the conclusion: the worst verdict decides."""
    by_verdict = {verdict: [one for one in findings if one.verdict is verdict] for verdict in Verdict}
    different, missing = by_verdict[Verdict.DIFFERENT], by_verdict[Verdict.MISSING]
    unsettled = by_verdict[Verdict.UNKNOWN]
    if by_verdict[Verdict.UNPROVABLE]:
        commitments.give_up_proof(session, row, reason="no-query", detail=by_verdict[Verdict.UNPROVABLE][0].detail, at=at)
    elif different or (missing and not unsettled and row.deadline <= at):
        lost = [*different, *missing]
        log.warning("archive has not kept what it acknowledged", delivery=row.delivery_id, objects=len(lost))
        commitment.not_kept(
            session, site.settings.delivering, row, [one.sought.result_id for one in lost],
            reason="content-differs" if different else "not-found", detail=_told(lost), at=at,
        )  # fmt: skip
    elif missing or unsettled:
        first = (unsettled or missing)[0]
        commitments.ask_later(row, not_before=_next(site, row, at), reason=first.verdict.value, detail=first.detail)
    else:
        commitments.confirm(session, row, how=f"query: {findings[0].detail}", at=at)


def _told(findings: Sequence[Finding]) -> str:
    return "; ".join(f"instance {one.sought.sop_instance_uid}: {one.detail}" for one in findings)


def _next(site: Site, row: Commitment, at: datetime) -> datetime:
    delivering = site.settings.delivering
    wait_s = min(delivering.retry_at_most_s, delivering.retry_after_s * 2 ** min(row.attempt - 1, 20))
    return at + timedelta(seconds=wait_s * random.uniform(0.75, 1.25))
