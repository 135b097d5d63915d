"""One received object on its way into the rows: what it is taken for, and what that does to its study.

The rules are those of the design's table of states: a late image reopens, a correction wins, another patient or other pixels
under the same UID put the study in quarantine, and passive objects change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from storage.database import DatabaseBusy
from storage.events import EventKind, EventOutcome, append, plain_json, storable
from storage.jobs import cancel_open_deliveries, cancel_open_jobs
from storage.models import Instance, Rejected, Series, Study
from storage.moves import move_study
from storage.received import IDENTITY, ReceivedInstance, digest_of, identity, insert_unless_there, instance_row
from storage.states import StudyEvent, StudyState

OTHER_PATIENT = "an instance of another patient has this Study Instance UID"
OTHER_CONTENT = "another object with the same SOP Instance UID and other pixels was received"
FILES_TO_DELETE = "fovea_files_to_delete"
"""Where a session keeps the paths to delete after its commit."""


class Receipt(StrEnum):
    """What a received object was taken for. Every one of them is kept and acknowledged except REJECTED."""

    NEW = "new"
    REPEATED = "repeated"
    """Known already, or different only in what nobody looks at: the first file stays, this one goes."""
    CORRECTED = "corrected"
    """Same pixels, other header: this file replaces the first."""
    HELD = "held"
    """Of another patient than its study: kept, not analysed; the study is quarantined."""
    REJECTED = "rejected"
    """Same SOP Instance UID, other pixels: the first stays, this one is kept aside; the study is quarantined."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One received object on its way into the rows; the study's row is locked."""

    session: Session
    association_id: int | None
    received: ReceivedInstance
    peer: str
    at: datetime
    study: Study

    def take_new(self, is_new_study: bool) -> Receipt:
        """An object whose SOP Instance UID nobody has sent before."""
        held = not self.received.passive and self._is_other_patient()
        self._insert_instance(held)
        if self.received.passive:
            return Receipt.NEW
        if held:
            self._quarantine(OTHER_PATIENT, self.received.patient_id)
            self._touch()
            return Receipt.HELD
        if not is_new_study:
            self._take_identity(only_filled=self.study.revision > 0)
            self._reopen("images arrived after the study had settled")
        self._touch()
        return Receipt.NEW

    def take_repeated(self, known: Instance) -> Receipt:
        """The same object once more; taken again where its file was purged."""
        if known.path is None:  # purged: as good as new
            known.path = self.received.path
            known.association_id = self.association_id
            known.received_at = self.at
            if not self.received.passive and not known.held:
                self._reopen("images of a purged study were sent again")
                self._touch()
            return Receipt.NEW
        if self.received.path != known.path:
            _delete_later(self.session, self.received.path)
        if not self.received.passive and self.study.state == StudyState.RECEIVING:
            self._touch()  # the sender is still at it
        return Receipt.REPEATED

    def take_corrected(self, known: Instance) -> Receipt:
        """Same SOP Instance UID and pixels, other bytes: a correction, a move to another study, or nothing that matters."""
        series = known.series
        moved_from = series.study if series.study_id != self.study.id else None
        if moved_from is None and known.path is not None and self._says_the_same(known):
            return self.take_repeated(known)
        if known.path is not None:
            _delete_later(self.session, known.path)
        self._replace(known)
        if self.received.passive:
            return Receipt.CORRECTED
        if moved_from is not None and moved_from.state in (StudyState.SETTLED, StudyState.RECEIVING):
            self._correct(moved_from, "an instance was moved to another study")
        is_guest = moved_from is not None or self.study.state == StudyState.QUARANTINED
        known.held = is_guest and self._is_other_patient()
        if known.held:
            self._quarantine(OTHER_PATIENT, self.received.patient_id)
        elif self.study.state != StudyState.QUARANTINED:
            self._take_corrected_identity(is_moved=moved_from is not None)
        self._touch()
        return Receipt.HELD if known.held else Receipt.CORRECTED

    def reject(self, known: Instance) -> Receipt:
        """Same SOP Instance UID, other pixels: kept aside once, the first one stays."""
        received = self.received
        again = self.session.scalar(
            select(Rejected.id).where(
                Rejected.sop_instance_uid == received.sop_instance_uid,
                Rejected.digest == received.digest,
                Rejected.path.is_not(None),
            )
        )
        if again is not None:
            _delete_later(self.session, received.path)
            return Receipt.REJECTED
        self.session.add(
            Rejected(
                study_id=self.study.id,
                association_id=self.association_id,
                sop_instance_uid=received.sop_instance_uid,
                path=received.path,
                size=received.size,
                digest=received.digest,
                reason=OTHER_CONTENT,
                received_at=self.at,
            )
        )
        detail = {"sop instance uid": received.sop_instance_uid, "reason": OTHER_CONTENT, "digest": received.digest}
        append(
            self.session,
            EventKind.INSTANCE_REFUSED,
            at=self.at,
            outcome=EventOutcome.SERIOUS_FAILURE,
            study=self.study,
            patient_id=received.patient_id,
            peer=self.peer,
            detail=detail,
        )
        if not received.passive:
            for study in {self.study.id: self.study, known.series.study_id: known.series.study}.values():
                _quarantine(self.session, study, OTHER_CONTENT, at=self.at, peer=self.peer)
        return Receipt.REJECTED

    def _is_other_patient(self) -> bool:
        """Other Patient ID or issuer; without any Patient ID, other name or birth date. Passive objects alone tell no patient."""
        study, received = self.study, self.received
        if study.revision == 0:
            return False
        if study.patient_id.strip() != storable(received.patient_id).strip():
            return True
        if received.patient_id.strip():
            issuers = {study.issuer_of_patient_id.strip(), storable(received.issuer_of_patient_id).strip()} - {""}
            return len(issuers) > 1
        mine = (study.patient_name.strip(), study.patient_birth_date)
        return mine != (storable(received.patient_name).strip(), storable(received.patient_birth_date))

    def _says_the_same(self, known: Instance) -> bool:
        """Same patient, study and series, same header facts: only what nobody here looks at differs."""
        same_identity = known.identity_digest == digest_of(identity(self.received))
        same_series = known.series.series_instance_uid == self.received.series_instance_uid
        same_facts = known.header == plain_json(self.received.header)
        return same_identity and same_series and same_facts and not known.held

    def _insert_instance(self, held: bool) -> None:
        row = instance_row(self.received, series_id=self._series_id(), association_id=self.association_id, held=held, at=self.at)
        if not insert_unless_there(self.session.connection(), Instance, row):
            raise DatabaseBusy(f"instance {self.received.sop_instance_uid} is being received in another study")

    def _replace(self, known: Instance) -> None:
        received = self.received
        known.series_id = self._series_id()
        known.association_id = self.association_id
        known.sop_class_uid = received.sop_class_uid
        known.transfer_syntax_uid = received.transfer_syntax_uid
        known.path = received.path
        known.size = received.size
        known.digest = received.digest
        known.identity_digest = digest_of(identity(received))
        known.own = received.own
        known.received_at = self.at
        known.header = plain_json(received.header)
        self.session.flush()
        self.session.expire(known, ["series"])

    def _series_id(self) -> int:
        received = self.received
        wanted = {"study_id": self.study.id, "uid": received.series_instance_uid}
        known: int | None = self.session.connection().execute(_FIND_SERIES, wanted).scalar()
        if known is not None:
            return known
        series = Series(
            study_id=self.study.id,
            series_instance_uid=received.series_instance_uid,
            modality=storable(received.modality)[:16],
            series_number=received.series_number,
            description=storable(received.series_description),
        )
        self.session.add(series)
        self.session.flush()
        return series.id

    def _touch(self) -> None:
        """Something was received: the quiet time begins anew."""
        values = {"quiet_s": 0.0, "last_received_at": self.at, "received_from": storable(self.peer)}
        self.session.connection().execute(_TOUCH, {"touched_id": self.study.id, **values})
        for name, value in values.items():
            set_committed_value(self.study, name, value)

    def _take_identity(self, *, only_filled: bool) -> bool:
        """Copy the newest identity to the study, or only what of it is not empty; True where it changed."""
        changed = False
        for name in IDENTITY:
            value = storable(getattr(self.received, name))
            if getattr(self.study, name) != value and not (only_filled and not value):
                setattr(self.study, name, value)
                changed = True
        return changed

    def _take_corrected_identity(self, *, is_moved: bool) -> None:
        """The newest identity wins; jobs under the old one are cancelled."""
        state = StudyState(self.study.state)
        first_image = self.study.revision == 0
        changed = self._take_identity(only_filled=False)
        if state is StudyState.PURGED or first_image:
            self._reopen("an instance was sent again with a corrected header")
        elif state is StudyState.SETTLED or changed:
            self._correct(self.study, "an instance was moved here from another study" if is_moved else "header corrected")

    def _correct(self, study: Study, reason: str) -> None:
        move_study(self.session, study, StudyEvent.CORRECT_IDENTITY, at=self.at, reason=reason, peer=self.peer)
        cancel_open_jobs(self.session, study, at=self.at)

    def _reopen(self, reason: str) -> None:
        """Back to RECEIVING with a new revision, from SETTLED and PURGED; the old revision's open jobs are cancelled."""
        if self.study.state in (StudyState.SETTLED, StudyState.PURGED):
            move_study(self.session, self.study, StudyEvent.LATE_INSTANCE, at=self.at, reason=reason, peer=self.peer)
            cancel_open_jobs(self.session, self.study, at=self.at)

    def _quarantine(self, reason: str, other_patient_id: str) -> None:
        """Quarantine the study, with a second event that a query for the other patient finds."""
        if _quarantine(self.session, self.study, reason, at=self.at, peer=self.peer):
            append(
                self.session,
                EventKind.STUDY_QUARANTINED,
                at=self.at,
                outcome=EventOutcome.SERIOUS_FAILURE,
                study=self.study,
                patient_id=other_patient_id,
                peer=self.peer,
                detail={"reason": reason, "sop instance uid": self.received.sop_instance_uid},
            )


def _quarantine(session: Session, study: Study, reason: str, *, at: datetime, peer: str) -> bool:
    """Nothing leaves any more: open jobs and open deliveries are cancelled. False where it is in quarantine already."""
    if study.state == StudyState.QUARANTINED:
        return False
    move_study(session, study, StudyEvent.CONFLICT, at=at, reason=reason, peer=peer)
    cancel_open_jobs(session, study, at=at)
    cancel_open_deliveries(session, study, at=at)
    return True


def _delete_later(session: Session, path: str) -> None:
    session.info.setdefault(FILES_TO_DELETE, []).append(path)


def locked_study(session: Session, received: ReceivedInstance, peer: str, at: datetime) -> tuple[Study, bool]:
    """The study's row, locked until the transaction ends, and whether it was made now."""
    wanted = {"uid": received.study_instance_uid}
    session.flush()
    study = session.scalars(_LOCK_STUDY, wanted).one_or_none()
    if study is not None:
        return study, False
    values = {
        "study_instance_uid": received.study_instance_uid,
        "state": (StudyState.SETTLED if received.passive else StudyState.RECEIVING).value,
        "revision": 0 if received.passive else 1,
        **{name: storable(getattr(received, name)) for name in IDENTITY},
        "received_from": storable(peer),
        "first_received_at": at,
        "last_received_at": at,
        "quiet_s": 0.0,
        "age_s": 0.0,
        "settled_at": at if received.passive else None,
    }
    is_new = insert_unless_there(session.connection(), Study, values)
    return session.scalars(_LOCK_STUDY, wanted).one(), is_new


_FIND_SERIES = select(Series.id).where(Series.study_id == bindparam("study_id"), Series.series_instance_uid == bindparam("uid"))
_LOCK_STUDY = (
    select(Study)
    .where(Study.study_instance_uid == bindparam("uid"))
    .with_for_update(key_share=True)
    .execution_options(populate_existing=True)
)
_TOUCH = (
    update(Study)
    .where(Study.id == bindparam("touched_id"))
    .values(
        quiet_s=bindparam("quiet_s"),
        last_received_at=bindparam("last_received_at"),
        received_from=bindparam("received_from"),
    )
)
