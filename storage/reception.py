"""Rows of what came in: associations, and for each object received its study, series and instance.

`record` is the node's decision what a received object means: new, repeated, corrected, of another patient, or in conflict
with one that has the same SOP Instance UID. It works in the caller's transaction; files are deleted only after the commit
(`files_to_delete`). Callers that record several objects in one transaction sort them by Study Instance UID: studies are locked
in that order, and two listeners cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from storage.arrival import (
    FILES_TO_DELETE,
    OTHER_CONTENT,
    OTHER_PATIENT,
    Arrival,
    Receipt,
    locked_study,
)
from storage.associations import close_association, close_interrupted, open_association, refuse_association
from storage.events import storable
from storage.models import Instance, Result, Study
from storage.moves import move_study
from storage.received import IDENTITY, ReceivedInstance
from storage.reconcile import Reconciled, mark_lost, mark_unfinished, reconcile
from storage.retention import forget_files
from storage.states import StudyEvent

__all__ = [
    "OTHER_CONTENT",
    "OTHER_PATIENT",
    "Receipt",
    "ReceivedInstance",
    "Reconciled",
    "close_association",
    "close_interrupted",
    "discard",
    "files_to_delete",
    "held_instances",
    "is_own_result",
    "kept_path",
    "mark_lost",
    "mark_unfinished",
    "open_association",
    "reconcile",
    "record",
    "refuse_association",
    "release",
]


PixelDigest: TypeAlias = Callable[[str, str], str | None]
"""SHA-256 (hex) of the pixel data in the spool's file of this path and transfer syntax; None without any."""


def record(
    session: Session,
    association_id: int | None,
    received: ReceivedInstance,
    *,
    peer: str,
    at: datetime,
    pixel_digest: PixelDigest,
) -> Receipt:
    """Take the received object into study, series and instance rows; what it was taken for.

    `pixel_digest` is asked where its SOP Instance UID is known with other bytes, and only then: pixels seldom come twice.
    Call `files_to_delete` after the commit: a repeated object's file and a corrected object's former file are no longer needed.
    Raises DatabaseBusy where another transaction is receiving the same SOP Instance UID in another study.
    """
    marked = len(session.info.get(FILES_TO_DELETE, []))
    try:
        receipt = _record(session, association_id, received, peer, at, pixel_digest)
        session.flush()
    except BaseException:
        # The caller may roll back to a savepoint and go on: what was not taken makes no file superfluous.
        del session.info.get(FILES_TO_DELETE, [])[marked:]
        raise
    return receipt


def release(
    session: Session, study_id: int, *, user: str, include_held: bool, at: datetime, identity: Mapping[str, str] | None = None
) -> None:
    """Let a quarantined study go on, with or without the instances held in it. Raises InvalidMove.

    `identity` is what the newest of its instances says of patient and study, where that is a held one taken in now: the newest
    identity wins.
    """
    study = session.get_one(Study, study_id, with_for_update={"key_share": True}, populate_existing=True)
    move_study(session, study, StudyEvent.RELEASE, at=at, user=user, detail={"held included": include_held})
    if not include_held:
        return
    for instance in held_instances(study):
        instance.held = False
    for name, value in (identity or {}).items():
        if name in IDENTITY:
            setattr(study, name, storable(value))


def held_instances(study: Study) -> list[Instance]:
    """The instances held in the study, newest last."""
    held = [instance for series in study.series for instance in series.instances if instance.held]
    return sorted(held, key=lambda one: (one.received_at, one.id))


def discard(session: Session, study_id: int, *, user: str, at: datetime) -> list[str]:
    """Give a quarantined study up; the paths to delete after the commit. Rows and events stay. Raises InvalidMove."""
    study = session.get_one(Study, study_id, with_for_update={"key_share": True}, populate_existing=True)
    paths = forget_files(session, study)
    move_study(session, study, StudyEvent.DISCARD, at=at, user=user, detail={"files": len(paths)})
    return paths


def files_to_delete(session: Session) -> list[str]:
    """Spool paths that the session's committed transaction made superfluous; each is told once."""
    paths: list[str] = session.info.pop(FILES_TO_DELETE, [])
    return paths


def is_own_result(session: Session, sop_instance_uid: str) -> bool:
    """True where this node made the object."""
    return session.scalar(select(Result.id).where(Result.sop_instance_uid == sop_instance_uid)) is not None


def kept_path(session: Session, sop_instance_uid: str) -> str | None:
    """Where the file of a known object is, relative to the spool."""
    return session.scalar(select(Instance.path).where(Instance.sop_instance_uid == sop_instance_uid))


def _record(
    session: Session, association_id: int | None, received: ReceivedInstance, peer: str, at: datetime, pixel_digest: PixelDigest
) -> Receipt:
    study, is_new_study = locked_study(session, received, peer, at)
    arrival = Arrival(session, association_id, received, peer, at, study)
    known_id = session.connection().execute(_FIND_INSTANCE, {"uid": received.sop_instance_uid}).scalar()
    if known_id is None:
        return arrival.take_new(is_new_study)
    known = session.get_one(Instance, known_id, populate_existing=True)
    if known.digest == received.digest:
        return arrival.take_repeated(known)
    if _has_other_pixels(known, received, pixel_digest):
        return arrival.reject(known)
    return arrival.take_corrected(known)


def _has_other_pixels(known: Instance, received: ReceivedInstance, pixel_digest: PixelDigest) -> bool:
    """Compare the pixel data; where the first file was purged before anybody asked for its digest, nothing can be compared."""
    if known.pixel_digest is None and known.path is not None:
        known.pixel_digest = pixel_digest(known.path, known.transfer_syntax_uid)
    if known.pixel_digest is None and known.path is None:
        return False
    return known.pixel_digest != (received.pixel_digest or pixel_digest(received.path, received.transfer_syntax_uid))


# Made once: it runs for every object received.
_FIND_INSTANCE = select(Instance.id).where(Instance.sop_instance_uid == bindparam("uid"))
