"""Spool and rows compared, at start-up and now and then: files that nobody acknowledged go, rows whose file is gone are told.

A file without a row is what a crash between the file's rename and the row's commit leaves (F26): its sender never got Success and
sends it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.models import Instance, Job, Rejected, Result
from storage.spool import Area, Spool

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found: files removed because no row names them, and paths of rows whose file is missing."""

    removed: int
    lost: tuple[str, ...]


def reconcile(session: Session, spool: Spool, *, grace_s: float = 60.0) -> Reconciled:
    """Remove the files that no row names, and tell the rows that name no file; rows are not changed.

    A file younger than `grace_s` may be another process's whose row is about to be committed: it stays until the next time.
    Only a caller that knows nobody else is writing passes 0. A read session is enough.
    """
    pictures = set(_picture_paths(session))
    removed = 0
    for area in Area:
        for some in _batches(_old_files(spool, area, grace_s)):
            named = pictures if area is Area.PICTURES else _named(session, some)
            for path in some:
                if path not in named:
                    spool.delete(path)
                    removed += 1
    lost = tuple(path for path in _all_paths(session, pictures) if not spool.path(path).exists())
    return Reconciled(removed, lost)


def _old_files(spool: Spool, area: Area, grace_s: float) -> Iterator[str]:
    for path in spool.files(area):
        try:
            written_at = spool.path(path).stat().st_mtime
        except FileNotFoundError:  # deleted meanwhile
            continue
        if abs(time.time() - written_at) >= grace_s:
            yield path


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


def _batches(paths: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(paths)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
