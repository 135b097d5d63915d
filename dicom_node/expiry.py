"""Certificates that are about to expire: a word in the log and an event a day, so that nobody finds out by a silent modality."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from sqlalchemy import select

from dicom_node.certificates import Expiry, NoCertificate, configured_files, first_expiry
from dicom_node.settings import Settings
from storage.database import Database
from storage.events import EventKind, EventOutcome, append
from storage.models import Event

log = structlog.get_logger(__name__)

TOLD_EVERY = timedelta(days=1)


def watch(settings: Settings, database: Database, *, at: datetime) -> int:
    """Tell of every configured file that expires within `tls.warn_days` or cannot be read; how many events that made."""
    found = {key: _trouble(settings, key, at) for key in configured_files(settings)}
    troubles = {key: text for key, text in found.items() if text}
    if not troubles:
        return 0
    with database.read() as session:
        recent = session.scalars(
            select(Event).where(Event.kind == EventKind.CERTIFICATE_EXPIRING.value, Event.at > at - TOLD_EVERY)
        )
        told = {str(event.detail.get("file")) for event in recent}
    news = {key: text for key, text in troubles.items() if key not in told}
    for key, text in news.items():
        log.warning("certificate needs attention", file=key, reason=text)
    if news:
        with database.write() as session:
            for key, text in news.items():
                detail = {"file": key, "reason": text}
                append(session, EventKind.CERTIFICATE_EXPIRING, at=at, outcome=EventOutcome.SERIOUS_FAILURE, detail=detail)
    return len(news)


def _trouble(settings: Settings, key: str, at: datetime) -> str:
    """Empty where all is well."""
    try:
        expiry = Expiry(key, first_expiry(configured_files(settings)[key]))
    except NoCertificate as error:
        return str(error)
    return sentence(expiry, at) if expiry.days_left(at) <= settings.tls.warn_days else ""


def sentence(expiry: Expiry, at: datetime) -> str:
    """How long a file is still good."""
    days = expiry.days_left(at)
    when = expiry.at.strftime("%Y-%m-%d %H:%M UTC")
    return f"expired on {when}" if days <= 0 else f"expires in {days:.0f} days, on {when}"
