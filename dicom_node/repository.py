"""Sends every chained event to the audit repository, in order, and shuts the door while the audit cannot be kept there.

What the repository does not take stays where it is, in the database under its hash chain, and goes later. The gate reads how long
the oldest event waits, whoever should have sent it: a worker that is down keeps the audit from the repository as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from dicom_node import syslog
from dicom_node.audit_message import Origin, audit_message, is_warning
from dicom_node.settings import Settings
from storage import repository
from storage.database import Database, DatabaseBusy
from storage.repository import Unsent

log = structlog.get_logger(__name__)

BATCH = 200
"""Events sent over one connection."""
LOOK_EVERY_S = 1.0


def forward(settings: Settings, database: Database, *, at: datetime) -> bool:
    """Send the next batch; True where there may be more at once, False where all is there or the repository takes nothing."""
    with database.read() as session:
        batch = repository.unsent(session, limit=BATCH)
    if not batch:
        return False
    try:
        syslog.send(settings.audit, [_message(one, origin_of(settings)) for one in batch])
    except syslog.NotTaken as failure:
        with database.write() as session:
            told = repository.note_refused(session, str(failure), alert_after_s=settings.audit.alert_after_s, at=at)
        if told:
            log.error("audit repository takes nothing; events are kept here, in order", reason=str(failure))
        return False
    with database.write() as session:
        repository.note_taken(session, batch[-1].sequence, at=at)
    return len(batch) == BATCH


def origin_of(settings: Settings) -> Origin:
    """Who reports, in every message."""
    audit = settings.audit
    return Origin(audit.source_id or settings.node.ae_title, audit.enterprise_site_id, settings.node.ae_title)


def _message(one: Unsent, origin: Origin) -> bytes:
    return syslog.syslog_message(audit_message(one, origin), at=one.event.at, is_warning=is_warning(one.event))


class AuditGate:
    """Shut while an event has waited for the repository longer than `audit.stop_work_after_s`; safe to ask from any thread."""

    def __init__(self, settings: Settings, database: Database, now: Callable[[], datetime]) -> None:
        self._after_s = settings.audit.stop_work_after_s
        self._database, self._now = database, now
        self._lock = threading.Lock()
        self._looked, self._shut = float("-inf"), False

    @property
    def is_shut(self) -> bool:
        """True where nobody may come in; looked up at most once a second, and left as it was while the database is busy."""
        if not self._after_s:
            return False
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._looked = time.monotonic()
                self._look()
            return self._shut

    def _look(self) -> None:
        try:
            with self._database.read() as session:
                since = repository.waiting_since(session)
        except DatabaseBusy:
            return
        shut = since is not None and (self._now() - since).total_seconds() > self._after_s
        if shut != self._shut:
            log.error("associations are refused: the audit cannot be kept") if shut else log.info("associations are taken again")
        self._shut = shut
