"""Spool and rows compared, at start-up and now and then: files that nobody acknowledged go, rows whose file is gone are told.

File and row of an object are made durable at the same time, so a crash may leave either without the other; its sender never got
Success and sends it again. A file without a row is removed. A row without a file is marked lost: its path is emptied, as after
a purge, and the object is taken as new when it comes again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from os import SEEK_END, stat_result

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.models import Association, Instance, Job, Rejected, Result
from storage.spool import Area, Spool

_AT_ONCE = 500
EMPTY_GRACE_S = 5.0
"""Between making a file and locking it lies less than a millisecond."""
IN_FLIGHT = 16
"""Objects of one association looked at after a crash; C-STORE has one at a time, an HTTP request a few."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found: files removed because no row names them, and paths of rows whose file is missing."""

    removed: int
    lost: tuple[str, ...]


def reconcile(session: Session, spool: Spool, *, grace_s: float = 60.0) -> Reconciled:
    """Remove the files that no row names, and tell the rows that name no file; rows are not changed.

    A file younger than `grace_s` may be another process's whose row is about to be committed: it stays until the next time.
    An empty one (`storage.ready`) waits for no row, and only has to be older than EMPTY_GRACE_S.
    Only a caller that knows nobody else is writing passes 0. A file that somebody holds open for writing stays in any case. A
    read session is enough.
    """
    pictures = set(_picture_paths(session))
    removed = 0
    for area in Area:
        for some in _batches(_old_files(spool, area, grace_s)):
            named = pictures if area is Area.PICTURES else _named(session, [path for path, _ in some])
            removed += sum(spool.delete_abandoned(path, seen) for path, seen in some if path not in named)
    lost = tuple(path for path in _all_paths(session, pictures) if not spool.path(path).exists())
    return Reconciled(removed, lost)


def mark_lost(session: Session, path: str) -> None:
    """Empty the path of the row that names this file, whose bytes are not on the disk."""
    session.execute(update(Instance).where(Instance.path == path).values(path=None))


def mark_unfinished(session: Session, spool: Spool, listener: str) -> int:
    """Mark lost what the named listener was recording when it was stopped, where the file is not whole; how many.

    Call it before `close_interrupted`: only the newest rows of associations that are still open can be without their Success.
    """
    lost = 0
    left_open = select(Association.id).where(Association.listener == listener, Association.closed_at.is_(None))
    for association_id in session.scalars(left_open).all():
        newest = (
            select(Instance.path, Instance.size, Instance.digest)
            .where(Instance.association_id == association_id, Instance.path.is_not(None))
            .order_by(Instance.id.desc())
            .limit(IN_FLIGHT)
        )
        for path, size, digest in session.execute(newest).all():
            if path is not None and _data_set_digest(spool, path, size) != digest:
                mark_lost(session, path)
                lost += 1
    return lost


def _data_set_digest(spool: Spool, path: str, size: int) -> str | None:
    """SHA-256 (hex) of the last `size` bytes of a file; None where it is missing or shorter."""
    try:
        with spool.path(path).open("rb") as file:
            if file.seek(0, SEEK_END) < size:
                return None
            file.seek(-size, SEEK_END)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _old_files(spool: Spool, area: Area, grace_s: float) -> Iterator[tuple[str, stat_result]]:
    """Path and state of the files that nobody may be about to record."""
    for path in spool.files(area):
        try:
            found = spool.path(path).stat()
        except FileNotFoundError:  # deleted meanwhile
            continue
        grace = grace_s if found.st_size else min(grace_s, EMPTY_GRACE_S)
        if abs(time.time() - found.st_mtime) >= grace:
            yield path, found


def _named(session: Session, paths: list[str]) -> set[str]:
    """Those of the paths that a row names."""
    found: set[str] = set()
    for column in (Instance.path, Rejected.path, Result.path):
        found.update(path for path in session.scalars(select(column).where(column.in_(paths))) if path is not None)
    return found


def _all_paths(session: Session, pictures: set[str]) -> Iterator[str]:
    for column in (Instance.path, Rejected.path, Result.path):
        statement = select(column).where(column.is_not(None)).execution_options(yield_per=5000)
        yield from (path for path in session.scalars(statement) if path is not None)
    yield from sorted(pictures)


def _picture_paths(session: Session) -> Iterator[str]:
    statement = select(Job.summary).where(Job.summary.is_not(None)).execution_options(yield_per=500)
    for summary in session.scalars(statement):
        yield from (picture["path"] for picture in (summary or {}).get("pictures", []))


def _batches(files: Iterable[tuple[str, stat_result]]) -> Iterator[list[tuple[str, stat_result]]]:
    rest = iter(files)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
