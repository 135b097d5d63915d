"""A received object as the rows hold it: its facts, whose it is, and the INSERT that takes it unless it is there.

Values are what every database can hold; `storage.arrival` and `storage.known` decide what the object means.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from storage.events import storable
from storage.models import Instance, JsonObject, Study

IDENTITY = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "study_date",
    "study_description",
)
"""What a study's row says of patient and study, and a received object too."""
_IDENTITY_OF = attrgetter(*IDENTITY)


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One object whose file is in the spool already."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_description: str
    modality: str
    series_number: int | None
    series_description: str
    path: str
    """Relative to the spool."""
    size: int
    digest: str
    """SHA-256 (hex) of the data set."""
    pixel_digest: str | None
    """SHA-256 (hex) of the pixel data; None without any, and where nobody has asked yet."""
    header: JsonObject
    passive: bool
    """An object that starts nothing: own result, SR, SEG, PR, KO, SC, PM."""
    own: bool
    """One of this node's own results, come back."""


def identity(received: ReceivedInstance) -> tuple[str, ...]:
    """What it says of patient and study, as the database holds it, in the order of IDENTITY."""
    return tuple(map(storable, _IDENTITY_OF(received)))


@lru_cache(maxsize=256)  # the same for all images of a study
def digest_of(identity: tuple[str, ...]) -> str:
    """SHA-256 (hex) over what `identity` gives."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def instance_row(
    received: ReceivedInstance, *, series_id: int, association_id: int | None, held: bool, at: datetime
) -> JsonObject:
    """The columns of a received object's row."""
    return {
        "series_id": series_id,
        "association_id": association_id,
        "sop_instance_uid": received.sop_instance_uid,
        "sop_class_uid": received.sop_class_uid,
        "transfer_syntax_uid": received.transfer_syntax_uid,
        "path": received.path,
        "size": received.size,
        "digest": received.digest,
        "pixel_digest": received.pixel_digest,
        "identity_digest": digest_of(identity(received)),
        "held": held,
        "own": received.own,
        "received_at": at,
        "header": received.header,
    }


def insert_unless_there(connection: Connection, table: type[Study | Instance], values: JsonObject) -> bool:
    """Insert the row; False where another transaction was faster. Waits for one that is just at it."""
    return connection.execute(_INSERTS[connection.dialect.name, table], values).first() is not None


def insertion(dialect: str, table: type[Study | Instance]) -> postgresql.Insert | sqlite.Insert:
    """INSERT of a row unless there is one of this study or instance."""
    columns = ["sop_instance_uid" if table is Instance else "study_instance_uid"]
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=columns)
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=columns)


# Made once: these run for every object received, and building a statement costs as much as running it.
_INSERTS = {
    (dialect, table): insertion(dialect, table).returning(table.id)
    for dialect in ("postgresql", "sqlite")
    for table in (Study, Instance)
}
