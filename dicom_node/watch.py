"""What the listener tells of strangers and certificates: rows through its one writer, counted, never more than configured."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dicom_node import strangers
from dicom_node.admission import Caller, Rejection
from dicom_node.metrics import ListenerMetrics
from dicom_node.rows import RowWriter
from dicom_node.settings_doors import Alerts, Tls
from dicom_node.strangers import Intrusion, Strangers, Told
from dicom_node.tls import ServerCredentials
from dicom_node.tls_server import Handshaking
from storage.associations import refuse_association
from storage.events import EventKind, EventOutcome, append

TRANSIENT = 2
"""Result of an A-ASSOCIATE-RJ that invites another try (PS3.8 9.3.4)."""


class Watch:
    """The listener's gatehouse book."""

    def __init__(
        self, alerts: Alerts, rows: RowWriter, *, log: Any, metrics: ListenerMetrics, now: Callable[[], datetime]
    ) -> None:
        self._alerts, self._rows, self._log, self._metrics, self._now = alerts, rows, log, metrics, now
        self._strangers = Strangers(alerts)

    def note(self, address: str, what: Intrusion, *, peer: str | None = None) -> Told:
        """Count an intrusion; the alert is written here where it is due."""
        if what is Intrusion.SILENT and self._strangers.is_probe(address):
            return Told.COUNTED
        self._metrics.stranger(what.value)
        told = self._strangers.note(address, what)
        if told is Told.ALERT:
            at, per_minute = self._now(), self._alerts.per_minute
            self._log.error("security alert", address=address, reason=what.value)
            self._rows.post(
                lambda session: strangers.write_alert(
                    session, address=address, what=what, per_minute=per_minute, peer=peer, at=at
                )
            )
        return told

    def refused(self, caller: Caller, rejection: Rejection) -> None:
        """An association that was refused: its row, and a second one where somebody came as another node."""
        is_for_now = rejection.result == TRANSIENT
        if is_for_now and not self._strangers.may_repeat(caller.address):
            return
        if not is_for_now and self.note(caller.address, Intrusion.REFUSED, peer=caller.calling) is not Told.ROW:
            return
        self._log.warning("association refused", peer=caller.calling, address=caller.address, reason=rejection.text)
        at = self._now()
        self._rows.post(
            lambda session: refuse_association(
                session, calling=caller.calling, called=caller.called, address=caller.address, reason=rejection.text, at=at
            )
        )
        if rejection.is_unauthenticated:
            self._not_authenticated(caller.address, rejection.text, caller.calling)

    def handshake_failed(self, address: str, reason: str) -> None:
        """A TLS handshake that came to nothing."""
        if self.note(address, Intrusion.NOT_AUTHENTICATED) is Told.ROW:
            self._log.warning("TLS handshake failed", address=address, reason=reason)
            self._not_authenticated(address, reason, None)

    def credentials(self, tls: Tls) -> ServerCredentials:
        """The TLS port's files, watched. Raises TlsFilesError."""
        return ServerCredentials(tls, on_change=self._files_changed, on_fault=self._files_unusable)

    def handshaking(self, credentials: ServerCredentials, timeout_s: float) -> Handshaking:
        """How the TLS port shakes hands."""
        return Handshaking(credentials, timeout_s, self.handshake_failed, self._said_nothing)

    def tell(self) -> None:
        """Write down what the minutes of the alerts came to."""
        closed, unwritten, at = self._strangers.closed(), self._strangers.unwritten, self._now()
        self._strangers.unwritten = 0
        if closed or unwritten:
            self._rows.post(lambda session: strangers.write_closed(session, closed, unwritten, at=at))

    def _said_nothing(self, address: str) -> None:
        self.note(address, Intrusion.SILENT)

    def _not_authenticated(self, address: str, reason: str, peer: str | None) -> None:
        at = self._now()
        self._rows.post(
            lambda session: strangers.write_not_authenticated(session, address=address, reason=reason, peer=peer, at=at)
        )

    def _files_changed(self, text: str) -> None:
        self._log.info(text)
        self._reloaded(text, EventOutcome.SUCCESS)

    def _files_unusable(self, text: str) -> None:
        self._log.error("certificate files cannot be used, the former ones stay", reason=text)
        self._reloaded(text, EventOutcome.SERIOUS_FAILURE)

    def _reloaded(self, text: str, outcome: EventOutcome) -> None:
        at = self._now()
        self._rows.post(
            lambda session: append(session, EventKind.CERTIFICATES_RELOADED, at=at, outcome=outcome, detail={"reason": text})
        )
