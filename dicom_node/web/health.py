"""Whether the node can do its work: `/healthz` says that the process lives, `/readyz` that everything it
needs is there.

No check looks at a patient; every answer is one sentence that says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.catalog import installed_model
from dicom_node.certificates import Expiry, NoCertificate, configured_files, first_expiry
from dicom_node.expiry import sentence
from dicom_node.settings import Model, Settings
from inference.card import BundleError
from storage import repository
from storage.database import Database, DatabaseBusy
from storage.spool import NoRoom, Spool, SpoolError

_TRIAL = b"readiness"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the node needs, whether it is there, and a sentence about it."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """All checks together."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """True where nothing is missing."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, object]:
        """For `/readyz`."""
        checks = {check.name: {"ok": check.ok, "text": check.text} for check in self.checks}
        return {"ready": self.ready, "checks": checks}


def readiness(settings: Settings, database: Database, spool: Spool) -> Readiness:
    """Check database, spool and every configured model; nothing stays of the trial file."""
    checks = [_check_database(database), _check_spool(spool)]
    checks += [_check_model(model) for model in settings.models]
    checks += [_check_certificate(key, path) for key, path in configured_files(settings).items()]
    if settings.audit.repository:
        checks.append(_check_repository(database))
    return Readiness(tuple(checks))


def _check_database(database: Database) -> Check:
    try:
        found, expected = database.revision(), database.head_revision()
    except (SQLAlchemyError, DatabaseBusy) as error:
        return Check("database", False, f"not reachable: {type(error).__name__}")
    if found != expected:
        return Check("database", False, f"schema revision {found}, this program expects {expected}")
    return Check("database", True, f"reachable, schema revision {found}")


def _check_repository(database: Database) -> Check:
    try:
        with database.read() as session:
            failing, waiting = repository.is_failing(session), repository.count_unsent(session)
    except (SQLAlchemyError, DatabaseBusy) as error:
        return Check("audit repository", False, f"not known: {type(error).__name__}")
    return Check("audit repository", not failing, f"{'takes nothing' if failing else 'takes events'}, {waiting} waiting")


def _check_spool(spool: Spool) -> Check:
    try:
        if not spool.has_room():
            return Check("spool", False, "less free space than storage.reserve_mb")
        with spool.new_file() as trial:
            trial.write(_TRIAL)
    except (OSError, SpoolError, NoRoom) as error:
        return Check("spool", False, f"not writable: {_without_path(error)}")
    return Check("spool", True, "writable, with room")


def _check_model(model: Model) -> Check:
    name = f"model {model.name}"
    try:
        installed = installed_model(model)
    except BundleError as error:
        return Check(name, False, str(error))
    return Check(name, True, f"version {installed.card.version}, card {installed.digest[:12]}")


def _check_certificate(key: str, path: Path) -> Check:
    try:
        expiry = Expiry(key, first_expiry(path))
    except NoCertificate as error:
        return Check(key, False, str(error))
    now = datetime.now(UTC)
    return Check(key, expiry.days_left(now) > 0, sentence(expiry, now))


def _without_path(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


Ready = Callable[[], Readiness]
