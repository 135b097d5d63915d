"""The listener's one writer of rows: short pieces of work from many association threads, committed together.

A commit costs one sync of the disk whatever it holds, so everything that waits when the writer is free goes into one
transaction. Work that fails is tried alone once more, so that it cannot take the others' rows with it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session

from storage.database import Database
from storage.reception import files_to_delete
from storage.spool import Spool, SpoolError

T = TypeVar("T")

MAXIMUM_BATCH = 64
"""Pieces of work in one transaction; more associations than this are never served at once by default."""
MAXIMUM_POSTED = 1000
"""Events waiting that nobody waits for; beyond it they are dropped and counted, so that refused strangers cost no memory."""


@dataclass(slots=True)
class _Work(Generic[T]):
    key: str
    do: Callable[[Session], T]
    answer: Future[T] = field(default_factory=Future)


class RowWriter:
    """One thread that runs work in write transactions, several pieces in each."""

    def __init__(self, database: Database, spool: Spool, *, log: Any) -> None:
        self._database = database
        self._spool = spool
        self._log = log
        self._waiting: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="row writer", daemon=True)
        self.dropped = 0
        """Posted events that were dropped."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits and end the thread. Work given later is never done."""
        self._waiting.put(None)
        self._thread.join()

    def call(self, key: str, do: Callable[[Session], T]) -> T:
        """Run `do` in a transaction and return its result once that is committed.

        `key` orders the work within a transaction (the Study Instance UID: rows are locked in that order everywhere).
        Raises what `do` raised, or DatabaseBusy; nothing of it is in the database then, except for CommitUnknown.
        """
        work = _Work(key, do)
        self._waiting.put(work)
        return work.answer.result()

    def post(self, do: Callable[[Session], object]) -> None:
        """Run `do` in a transaction some time soon; a failure is logged."""
        if self._waiting.qsize() >= MAXIMUM_POSTED:
            self.dropped += 1
            return
        work = _Work("", do)
        work.answer.add_done_callback(self._log_failure)
        self._waiting.put(work)

    def _log_failure(self, answer: Future[object]) -> None:
        error = answer.exception()
        if error is not None:
            self._log.error("event not written", error=type(error).__name__)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            stopping = False
            while len(batch) < MAXIMUM_BATCH and not self._waiting.empty():
                work = self._waiting.get()
                if work is None:
                    stopping = True
                    break
                batch.append(work)
            self._commit(sorted(batch, key=lambda one: one.key))
            if stopping:
                return

    def _commit(self, batch: list[_Work[Any]]) -> None:
        """One transaction for all; where a piece of work fails, one for each."""
        begun = False
        results: list[Any] = []
        try:
            with self._database.write() as session:
                for work in batch:
                    begun = True
                    results.append(work.do(session))
                session.flush()
                begun = False
        except Exception as error:  # the loop's rim: each piece of work gets its answer
            if begun and len(batch) > 1:
                for work in batch:
                    self._commit([work])
            else:
                for work in batch:
                    work.answer.set_exception(error)
            return
        for work, result in zip(batch, results, strict=True):
            work.answer.set_result(result)
        self._delete(files_to_delete(session))

    def _delete(self, paths: list[str]) -> None:
        for path in paths:
            try:
                self._spool.delete(path)
            except SpoolError:
                self._log.error("file not deleted", path=path)
