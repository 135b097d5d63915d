"""The listener's one writer of rows: short pieces of work from many association threads, committed together.

A commit costs one sync of the disk whatever it holds, so everything that waits when the writer is free goes into one
transaction. Work that fails is tried alone once more, so that it cannot take the others' rows with it. A received object's row is
committed while its file is being synced; who asked for the row waits for both.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.orm import Session

from dicom_node.intake import Examined
from dicom_node.kept_file import pixel_digest
from dicom_node.promise import Promise
from storage.database import Database, Transaction
from storage.known import KnownStudies
from storage.reception import Receipt, files_to_delete, is_own_result, kept_path, mark_lost, record
from storage.spool import Spool, SpoolError

T = TypeVar("T")

MAXIMUM_BATCH = 64
"""Pieces of work in one transaction; more associations than this are never served at once by default."""
MAXIMUM_POSTED = 1000
"""Events waiting that nobody waits for; beyond it they are dropped and counted, so that refused strangers cost no memory."""
NUMBERS = "fovea_association_numbers"
"""Where a session keeps the associations that it made rows for, by source."""


class Numbered(Protocol):
    """Who sends: an association that has a row, or is about to."""

    association_id: int | None
    peer: str
    open: Callable[[Session], int] | None
    """Makes the association's row; None where there is none to make."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a received object's row."""

    receipt: Receipt
    may_precede_sync: bool
    """True where the row was committed without waiting for the file: if the file's sync fails, the row is to be marked lost."""
    kept_path: str | None = None
    """For a repeated object: the file that stays."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A received object whose file has its final name, and whose sync is under way."""

    examined: Examined
    path: str
    source: Numbered
    at: datetime
    synced: Promise[None]


@dataclass(slots=True)
class _Work(Generic[T]):
    key: str
    do: Callable[[Transaction], T]
    answer: Promise[T] = field(default_factory=Promise)
    is_posted: bool = False
    """True where nobody waits for the answer."""

    def fail(self, error: Exception, log: Any) -> None:
        """It is not done."""
        self.answer.fail(error)
        if self.is_posted:
            log.error("event not written", error=type(error).__name__)


class RowWriter:
    """One thread that runs work in write transactions, several pieces in each."""

    def __init__(self, database: Database, spool: Spool, *, log: Any) -> None:
        self._database = database
        self._spool = spool
        self._log = log
        self._known = KnownStudies()
        self._waiting: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="row writer", daemon=True)
        self.dropped = 0
        """Posted events that were dropped."""
        self.is_failing = False
        """True from a transaction that failed until one that did not."""

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
        return self.submit(key, do).result()

    def submit(self, key: str, do: Callable[[Session], T]) -> Promise[T]:
        """As `call`, without waiting."""
        return self._put(key, lambda transaction: do(transaction.session))

    def post(self, do: Callable[[Session], object]) -> None:
        """Run `do` in a transaction some time soon; a failure is logged."""
        if self._waiting.qsize() >= MAXIMUM_POSTED:
            self.dropped += 1
            return
        self._waiting.put(_Work("", lambda transaction: do(transaction.session), is_posted=True))

    def record(self, arrived: Arrived) -> Promise[Recorded]:
        """Record a received object; the same errors as `call`, or what `arrived.synced` failed with."""
        return self._put(arrived.examined.study_instance_uid, lambda transaction: self._record(transaction, arrived))

    def _put(self, key: str, do: Callable[[Transaction], T]) -> Promise[T]:
        work = _Work(key, do)
        self._waiting.put(work)
        return work.answer

    def _record(self, transaction: Transaction, arrived: Arrived) -> Recorded:
        examined, source = arrived.examined, arrived.source
        number = source.association_id
        if number is None:
            number = association_number(transaction.session, source)
        if not examined.passive:
            received = examined.received(arrived.path, own=False)
            if self._known.take(transaction, number, received, peer=source.peer, at=arrived.at):
                return Recorded(Receipt.NEW, may_precede_sync=True)
        session = transaction.session
        uid = examined.command.sop_instance_uid
        kept = kept_path(session, uid)
        if kept is not None and not self._spool.path(kept).exists():
            mark_lost(session, kept)
        own = examined.own_equipment or (examined.passive and is_own_result(session, uid))
        received = examined.received(arrived.path, own=own)
        receipt = record(
            session,
            number,
            received,
            peer=source.peer,
            at=arrived.at,
            pixel_digest=partial(pixel_digest, self._spool),
        )
        if receipt is Receipt.REPEATED:
            return Recorded(receipt, may_precede_sync=False, kept_path=kept)
        self._known.learn(transaction.connection, received)
        arrived.synced.result()  # it may replace another file, or carry a decision: not before it is on the disk
        return Recorded(receipt, may_precede_sync=False)

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
            with self._database.transaction() as transaction:
                for work in batch:
                    begun = True
                    results.append(work.do(transaction))
                if transaction.has_session:
                    transaction.session.flush()
                begun = False
        except Exception as error:  # the loop's rim: each piece of work gets its answer
            self._known.forget()
            if begun and len(batch) > 1:
                for work in batch:
                    self._commit([work])
            else:
                self.is_failing = True
                for work in batch:
                    work.fail(error, self._log)
            return
        self.is_failing = False
        superfluous: list[str] = []
        if transaction.has_session:
            for source, number in transaction.session.info.pop(NUMBERS, {}).items():
                source.association_id = number
            superfluous = files_to_delete(transaction.session)
        for work, result in zip(batch, results, strict=True):
            work.answer.tell(result)
        self._delete(superfluous)

    def _delete(self, paths: list[str]) -> None:
        for path in paths:
            try:
                self._spool.delete(path)
            except SpoolError:
                self._log.error("file not deleted", path=path)


def association_number(session: Session, source: Numbered) -> int | None:
    """The row id of the association, which is made in this transaction where there is none yet."""
    if source.association_id is not None or source.open is None:
        return source.association_id
    numbers: dict[Numbered, int] = session.info.setdefault(NUMBERS, {})
    if source not in numbers:
        numbers[source] = source.open(session)
    return numbers[source]
