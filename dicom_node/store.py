"""From the bytes of one object to the answer its sender gets: check, keep, record, and only then Success.

`begin` takes the command, `Incoming.write` the bytes as they come, `Incoming.finish` decides. Small objects are held in memory
and checked before they touch the disk; large ones go to the spool at once and are checked there through a memory map. No
DICOM network in here: C-STORE and STOW-RS come to the same place.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.intake import Command, Examined, Refused, Status, check_command, examine, is_uid
from dicom_node.kept_file import file_meta
from dicom_node.metrics import ListenerMetrics
from dicom_node.promise import Promise
from dicom_node.rows import Arrived, RowWriter, association_number
from dicom_node.scan import Buffer
from storage.database import CommitUnknown, DatabaseBusy
from storage.events import EventKind, EventOutcome, append
from storage.models import JsonObject, Rejected
from storage.ready import ReadyFiles
from storage.reception import OTHER_CONTENT, Receipt, mark_lost
from storage.spool import Area, NoRoom, Spool, SpoolError, SpoolFile

HELD_IN_MEMORY_BYTES = 1024 * 1024
"""Up to this size an object stays in memory until it is checked: most images, and 32 of them at once are 32 MB."""
PROCESSING_FAILURE = 0x0110
"""PS3.7 C.5.6: what a sender gets for a bug of ours; it may try again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told (PS3.7 9.1.1.1): a status, and for a failure why."""

    status: int
    comment: str = ""
    """At most 64 characters reach the sender (VR LO)."""
    offending: int | None = None
    """Tag for Offending Element (0000,0901)."""


@dataclass(slots=True, eq=False)
class Source:
    """Who sends: one association, or one HTTP request."""

    association_id: int | None
    """The row's id, once it is committed."""
    peer: str
    address: str
    open: Callable[[Session], int] | None = None
    """Makes the association's row, where it has none yet."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Objects known already, by Study Instance UID."""
    begun: int = 0
    """Objects whose command came."""
    stored: int = 0
    refused: int = 0
    reports_only: bool = False
    """True for a destination that may report on storage commitment and store nothing."""
    study_instance_uid: str = ""
    """The only study it may store into; empty: any."""


class StoreService:
    """Keeps received objects durably and tells what became of them."""

    def __init__(
        self,
        spool: Spool,
        rows: RowWriter,
        *,
        maximum_object_bytes: int,
        ready: ReadyFiles | None = None,
        log: Any,
        metrics: ListenerMetrics | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Small objects go into `ready` files where there are any: started and stopped by the caller."""
        self._spool = spool
        self._rows = rows
        self._maximum_object_bytes = maximum_object_bytes
        self._log = log
        self._metrics = metrics
        self._now = now
        self._ready = ready
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        """How often each status was answered since start."""

    def begin(self, command: Command, source: Source) -> Incoming:
        """Take an object whose bytes follow."""
        source.begun += 1
        return Incoming(self, command, source)

    def decide(self, incoming: Incoming) -> Answer:
        """Check, keep and record a complete object; the answer is Success only when bytes and row are on disk."""
        began = time.monotonic()
        try:
            answer = self._stored(incoming)
        except Refused as refusal:
            answer = Answer(int(refusal.status), str(refusal), refusal.offending)
            self._note_refusal(incoming, refusal)
        except NoRoom:
            answer = Answer(Status.OUT_OF_RESOURCES, "no room on the disk, try again later")
        except (DatabaseBusy, SpoolError) as error:
            self._log.warning("instance not stored", error=type(error).__name__)
            answer = Answer(Status.OUT_OF_RESOURCES, "storage is busy, try again later")
        except Exception:  # the loop's rim: a bug must not cost the association, and never answers Success
            self._log.exception("instance not stored")
            answer = Answer(PROCESSING_FAILURE, "processing failure")
        finally:
            incoming.discard()
        self._count(incoming, answer.status, time.monotonic() - began)
        return answer

    def _stored(self, incoming: Incoming) -> Answer:
        incoming.raise_failure()
        examined = self._examined(incoming)
        if incoming.source.study_instance_uid not in ("", examined.study_instance_uid):
            raise Refused(Status.DOES_NOT_MATCH, "Study Instance UID is not that of the request", offending=0x0020000D)
        with self._file(incoming) as file:
            receipt = self._durable(file, incoming, examined)
        if receipt is Receipt.REPEATED:
            incoming.source.repeated[examined.study_instance_uid] += 1
        if receipt is Receipt.REJECTED:
            return Answer(Status.DOES_NOT_MATCH, OTHER_CONTENT[:64], 0x00080018)
        return Answer(Status.SUCCESS)

    def _examined(self, incoming: Incoming) -> Examined:
        """The facts of an object, in memory or in its temporary file."""
        if incoming.file is None:
            return examine(incoming.held, incoming.command, incoming.digest)
        offset = incoming.file.size - incoming.size
        with (
            incoming.file.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[offset:] as data_set,
        ):
            return examine(data_set, incoming.command, incoming.digest)

    def _file(self, incoming: Incoming) -> SpoolFile:
        """The object's file, complete; in a ready file where that is how it is to be kept."""
        if incoming.file is not None:
            return incoming.file
        file = self._spool.new_file() if self._ready is None else self._ready.take()
        try:
            file.write(file_meta(incoming.command, incoming.source.peer), incoming.held)
        except BaseException:
            file.discard()
            raise
        return file

    def _durable(self, file: SpoolFile, incoming: Incoming, examined: Examined) -> Receipt:
        """Have the file, its name and its row on the disk; what the object was taken for.

        A ready file has its name there already, and its bytes are synced while the row is committed. Raises where one of them
        failed; nothing of the object is left then, except after CommitUnknown: the row may be there, the file must stay, and
        the next start decides.
        """
        is_ready = file.is_in(Area.INSTANCES)
        if is_ready:
            file.check_there()
        else:
            file.place(Area.INSTANCES, incoming.command.sop_instance_uid)
        arrived = Arrived(examined, file.relative, incoming.source, self._now(), Promise())
        row = self._rows.record(arrived)
        failure = self._synced(file) if is_ready else None
        if failure is None:
            arrived.synced.tell(None)
        else:
            arrived.synced.fail(failure)
        try:
            recorded = row.result()
        except CommitUnknown:
            file.close()
            raise
        if failure is not None:
            if recorded.may_precede_sync:
                self._rows.call(examined.study_instance_uid, lambda session: mark_lost(session, arrived.path))
            raise failure
        file.close()
        if recorded.receipt is Receipt.REPEATED and recorded.kept_path is not None:
            self._spool.sync(recorded.kept_path)  # another association may be at it just now
        return recorded.receipt

    def _synced(self, file: SpoolFile) -> NoRoom | SpoolError | None:
        try:
            file.sync()
        except (NoRoom, SpoolError) as failure:
            return failure
        return None

    def _note_refusal(self, incoming: Incoming, refusal: Refused) -> None:
        """An event for every refusal; a copy where a person should look at the object."""
        uid = incoming.command.sop_instance_uid
        detail: JsonObject = {
            "sop instance uid": uid if is_uid(uid) else uid.encode("utf-8", "replace")[:80].hex(),
            "status": f"0x{refusal.status:04X}",
            "reason": str(refusal),
        }
        at = self._now()
        rejected = self._copy_kept(incoming, refusal) if refusal.keep else None

        def work(session: Session) -> None:
            number = detail["association"] = association_number(session, incoming.source)
            if rejected is not None:
                rejected.association_id = number
                session.add(rejected)
            append(
                session,
                EventKind.INSTANCE_REFUSED,
                at=at,
                outcome=EventOutcome.MINOR_FAILURE,
                peer=incoming.source.peer,
                address=incoming.source.address,
                detail=detail,
            )

        self._log.warning("instance refused", status=detail["status"], reason=str(refusal))
        try:
            self._rows.call("", work)
        except Exception as error:  # the refusal stands, and its sender is told, whether its event is written or not
            self._log.error("event not written", error=type(error).__name__)

    def _copy_kept(self, incoming: Incoming, refusal: Refused) -> Rejected | None:
        uid = incoming.command.sop_instance_uid
        try:
            with self._file(incoming) as file:
                path = file.keep(Area.REJECTED, uid)
        except (NoRoom, SpoolError):
            return None
        return Rejected(
            study_id=None,
            association_id=None,
            sop_instance_uid=uid,
            path=path,
            size=incoming.size,
            digest=incoming.digest.hexdigest(),
            reason=str(refusal),
            received_at=self._now(),
        )

    def new_file(self, command: Command, peer: str) -> SpoolFile:
        """A temporary file that holds the file meta information already. Raises NoRoom, SpoolError."""
        file = self._spool.new_file()
        try:
            file.write(file_meta(command, peer))
        except BaseException:
            file.discard()
            raise
        return file

    @property
    def maximum_object_bytes(self) -> int:
        """Largest data set taken."""
        return self._maximum_object_bytes

    def _count(self, incoming: Incoming, status: int, seconds: float) -> None:
        source = incoming.source
        with self._lock:
            self.statuses[status] += 1
        if self._metrics is not None:
            self._metrics.instance_answered(status, size=incoming.size, seconds=seconds)
        if status == Status.SUCCESS:
            source.stored += 1
        else:
            source.refused += 1


class Incoming:
    """One object on its way in."""

    def __init__(self, service: StoreService, command: Command, source: Source) -> None:
        self.command = command
        self.source = source
        self.held = bytearray()
        self.file: SpoolFile | None = None
        """The object itself once it is larger than HELD_IN_MEMORY_BYTES."""
        self.size = 0
        self.digest = hashlib.sha256()
        """Over the data set, as far as it came."""
        self._service = service
        self._failure: Exception | None = None
        try:
            check_command(command.sop_class_uid, command.sop_instance_uid)
        except Refused as refusal:
            self._failure = refusal

    def write(self, fragment: Buffer) -> None:
        """Take more bytes. Never raises: what went wrong is told by `finish`, and the rest is not kept."""
        self.size += len(fragment)
        if self._failure is not None:
            return
        self.digest.update(fragment)
        try:
            self._take(fragment)
        except (Refused, NoRoom, SpoolError) as failure:
            self._failure = failure
            self.discard()

    def _take(self, fragment: Buffer) -> None:
        limit = self._service.maximum_object_bytes
        if self.size > limit:
            raise Refused(Status.OUT_OF_RESOURCES, f"object exceeds limit of {limit} bytes")
        if self.file is None and self.size > HELD_IN_MEMORY_BYTES:
            self.file = self._service.new_file(self.command, self.source.peer)
            self.file.write(memoryview(self.held))
            self.held = bytearray()
        if self.file is None:
            self.held += fragment
        else:
            self.file.write(memoryview(fragment))

    def refuse(self, refusal: Refused) -> None:
        """Make `finish` answer this refusal; bytes that come meanwhile are not kept."""
        self._failure = refusal
        self.discard()

    def finish(self) -> Answer:
        """All bytes are here: what the sender is told."""
        return self._service.decide(self)

    def raise_failure(self) -> None:
        """Raise what went wrong before the last byte came, if anything."""
        if self._failure is not None:
            raise self._failure

    def discard(self) -> None:
        """Forget the bytes; harmless after the object was kept."""
        self.held = bytearray()
        if self.file is not None:
            self.file.discard()
