"""The short way for the common case: one more image of a study that is being received, from the same patient.

A writer remembers the studies it recorded last. Where nothing about the study has changed since, which one UPDATE both asks and
notes, a new image is one INSERT; whatever is unusual is left to `storage.arrival`. Nothing here decides what an object means.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Dialect, bindparam, select, update

from storage.database import Transaction
from storage.events import storable
from storage.models import Instance, JsonObject, Series, Study
from storage.prepared import Prepared
from storage.received import IDENTITY, ReceivedInstance, identity, insertion, instance_row
from storage.states import StudyState

CAPACITY = 256
"""Studies remembered; each takes less than 2 kB."""


@dataclass(frozen=True, slots=True)
class _Known:
    study: JsonObject
    """The study row's id, revision and identity, as parameters of the UPDATE."""
    identity: tuple[str, ...]
    """The same identity, in the order of IDENTITY."""
    series: dict[str, int]
    """Row ids by Series Instance UID."""


class KnownStudies:
    """The memory of one writer; used by one thread. What it remembers is checked against the database at each use."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._statements: tuple[Prepared, Prepared] | None = None

    def forget(self) -> None:
        """Forget everything: a transaction failed, and with it what was learned in it."""
        self._known.clear()

    def take(
        self, transaction: Transaction, association_id: int | None, received: ReceivedInstance, *, peer: str, at: datetime
    ) -> bool:
        """Record a new image of a known study and series; False where that is not what it is, and nothing was recorded."""
        known = self._known.get(received.study_instance_uid)
        series_id = known.series.get(received.series_instance_uid) if known is not None else None
        if known is None or series_id is None or received.passive or received.own:
            return False
        if known.identity != identity(received):
            return False
        touch, insert = self._statements or self._prepared(transaction.dialect)
        noted = {**known.study, "receiving": StudyState.RECEIVING.value, "quiet": 0.0, "at": at, "peer": storable(peer)}
        if touch.run(transaction.cursor, noted) != 1:
            del self._known[received.study_instance_uid]
            return False
        row = instance_row(received, series_id=series_id, association_id=association_id, held=False, at=at)
        return insert.run(transaction.cursor, row) == 1

    def _prepared(self, dialect: Dialect) -> tuple[Prepared, Prepared]:
        columns = [column.name for column in Instance.__table__.columns if column.name != "id"]
        insert = Prepared(insertion(dialect.name, Instance), dialect, columns)
        self._statements = Prepared(_TOUCH_AS_KNOWN, dialect), insert
        return self._statements

    def learn(self, connection: Connection, received: ReceivedInstance) -> None:
        """Remember the study and series of an object that was just recorded in this transaction."""
        study = connection.execute(_FIND_STUDY, {"uid": received.study_instance_uid}).mappings().first()
        if study is None:
            return
        series = connection.execute(_FIND_ALL_SERIES, {"study_id": study["row_id"]}).all()
        uid = received.study_instance_uid
        spelled = tuple(study[f"known_{name}"] for name in IDENTITY)
        self._known[uid] = _Known(dict(study), spelled, {row.series_instance_uid: row.id for row in series})
        self._known.move_to_end(uid)
        if len(self._known) > CAPACITY:
            self._known.popitem(last=False)


_AS_KNOWN = [getattr(Study, name).label(f"known_{name}") for name in IDENTITY]
_FIND_STUDY = select(Study.id.label("row_id"), Study.revision.label("known_revision"), *_AS_KNOWN).where(
    Study.study_instance_uid == bindparam("uid"), Study.state == StudyState.RECEIVING.value
)
_FIND_ALL_SERIES = select(Series.id, Series.series_instance_uid).where(Series.study_id == bindparam("study_id"))
_TOUCH_AS_KNOWN = (
    update(Study)
    .where(
        Study.id == bindparam("row_id"),
        Study.state == bindparam("receiving"),
        Study.revision == bindparam("known_revision"),
        *(getattr(Study, name) == bindparam(f"known_{name}") for name in IDENTITY),
    )
    .values(quiet_s=bindparam("quiet"), last_received_at=bindparam("at"), received_from=bindparam("peer"))
)
