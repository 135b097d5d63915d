"""Whether a destination is worth calling: its circuit breaker, and the probe that finds out when it is back.

The counts are rows (`storage.circuits`). Only what keeps everything from a destination counts, never one object's refusal.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from dicom_node import dicomweb, scu
from dicom_node.scu import SendError
from dicom_node.settings import Delivering, Destination
from storage import circuits
from storage.database import Database

log = structlog.get_logger(__name__)

CONNECTION_FAILURES = (
    "connection-failed", "tls-failed", "association-rejected", "association-aborted", "no-answer", "credentials",
)  # fmt: skip
"""Codes of what keeps everything from a destination, not one object: these open its circuit."""


def is_reachable(
    database: Database, settings: Delivering, destination: Destination, calling_ae_title: str, *, at: datetime
) -> bool:
    """True where the destination's circuit is closed, or where the probe that is due now closes it."""
    with database.read() as session:
        if not circuits.is_open(session, destination.name):
            return True
    with database.write() as session:
        if not circuits.claim_probe(session, destination.name, every_s=_probe_every_s(settings), at=at):
            return False
    error = probe(destination, calling_ae_title)
    with database.write() as session:
        note_connection(session, settings, destination, error, at=at)
    return error is None or error.code not in CONNECTION_FAILURES


def probe(destination: Destination, calling_ae_title: str) -> SendError | None:
    """None where the destination answers: a C-ECHO, or a query that wants nothing."""
    return dicomweb.probe(destination) if destination.kind == "stow" else scu.echo(destination, calling_ae_title)


def note_connection(
    session: Session, settings: Delivering, destination: Destination, error: SendError | None, *, at: datetime
) -> None:
    """Count a failure of the connection itself; any answer at all closes the circuit."""
    if error is None or error.code not in CONNECTION_FAILURES:
        if circuits.note_success(session, destination.name, retry_reasons=CONNECTION_FAILURES, at=at):
            log.info("destination answers again", destination=destination.name)
        return
    every_s = _probe_every_s(settings)
    opens_after = settings.circuit_opens_after
    if circuits.note_failure(session, destination.name, reason=error.code, opens_after=opens_after, every_s=every_s, at=at):
        log.warning("destination is down; only a probe goes out", destination=destination.name, every_s=every_s)


def _probe_every_s(settings: Delivering) -> float:
    return min(settings.probe_every_s, settings.retry_at_most_s)
