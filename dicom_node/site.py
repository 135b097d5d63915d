"""Opens what every role stands on: the database at its newest schema, the spool, the installed models; and notes changes.

Called at the edge (command line, tests); everything below gets the opened things as arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.catalog import InstalledModel, installed_models
from dicom_node.settings import Settings
from storage import events
from storage.database import Database
from storage.events import EventKind
from storage.models import Event
from storage.spool import Spool

MEGABYTE = 1024 * 1024


def utc_now() -> datetime:
    """The time that rows carry."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """What every step needs: the configuration, the rows, the files and the installed models."""

    settings: Settings
    database: Database
    spool: Spool
    models: dict[str, InstalledModel]


@contextmanager
def open_site(settings: Settings) -> Iterator[Site]:
    """The site of these settings, its schema upgraded. Raises BundleError, DatabaseBusy or SpoolError where it cannot be."""
    models = installed_models(settings.models)
    spool = Spool(settings.storage.spool, int(settings.storage.reserve_mb * MEGABYTE))
    database = Database(settings.storage.url())
    try:
        database.upgrade()
        yield Site(settings, database, spool, models)
    finally:
        database.dispose()


def note_start(site: Site, role: str) -> None:
    """Events for the start of a role and for a configuration or model that differs from the last one noted."""
    configuration = hashlib.sha256(site.settings.model_dump_json().encode()).hexdigest()
    with site.database.write() as session:
        at = utc_now()
        events.append(session, EventKind.NODE_STARTED, at=at, detail={"role": role})
        last = session.scalars(
            select(Event).where(Event.kind == EventKind.CONFIGURATION_CHANGED).order_by(Event.id.desc()).limit(1)
        ).first()
        if last is None or last.detail.get("sha256") != configuration:
            events.append(session, EventKind.CONFIGURATION_CHANGED, at=at, detail={"sha256": configuration})
        for model in site.models.values():
            _note_model(session, model)


def _note_model(session: Session, model: InstalledModel) -> None:
    changes = session.scalars(select(Event).where(Event.kind == EventKind.MODEL_CHANGED).order_by(Event.id.desc()).limit(1000))
    last = next((one for one in changes if one.detail.get("name") == model.name), None)
    if last is None or last.model_digest != model.digest:
        events.append(
            session, EventKind.MODEL_CHANGED, at=utc_now(), model=f"{model.card.name} {model.card.version}",
            model_digest=model.digest, detail={"name": model.name},
        )  # fmt: skip


def note_stop(site: Site, role: str) -> None:
    """The event for the orderly end of a role."""
    with site.database.write() as session:
        events.append(session, EventKind.NODE_STOPPED, at=utc_now(), detail={"role": role})
