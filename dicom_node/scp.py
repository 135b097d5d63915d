"""The listener: who may open an association, what it may then do, and the rows that tell of it.

pynetdicom negotiates and serves C-ECHO; C-STORE is taken by `dicom_node.dimse` or, by a setting, by `dicom_node.plain`, and
decided by `dicom_node.store`. Refusals follow PS3.8 9.3.4: called AE title (1,1,7), calling AE title or its address (1,1,3), too
many associations (2,3,2), and no room or no database (2,3,1), each with its event.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.pdu import A_ASSOCIATE_AC
from sqlalchemy.orm import Session

from dicom_node import commitment
from dicom_node.admission import Admission, Caller, Rejection
from dicom_node.ae import Acceptance, acceptor, calm_libraries
from dicom_node.commitment_scp import CommitmentScp
from dicom_node.dimse import StoreDimse
from dicom_node.guard import INVALID_PDU_PARAMETER, GuardedSocket, GuardedStateMachine, PduLimits, PendingConnections, shut
from dicom_node.listeners import Place, start_server, start_tls_server
from dicom_node.metrics import ListenerMetrics, listener_file
from dicom_node.plain import PlainStore
from dicom_node.repository import AuditGate
from dicom_node.request import is_well_formed
from dicom_node.rows import RowWriter, association_number
from dicom_node.settings import MAXIMUM_LISTENERS, Settings
from dicom_node.store import Source, StoreService
from dicom_node.strangers import Intrusion
from dicom_node.tls import certificate_of
from dicom_node.tls_server import TlsAssociationServer
from dicom_node.upper_layer import StreamDul
from dicom_node.watch import Watch
from storage.database import Database, DatabaseBusy
from storage.ready import ReadyFiles
from storage.reception import close_association, close_interrupted, mark_unfinished, open_association
from storage.reconcile import reconcile
from storage.spool import Area, Spool, SpoolError

MEGABYTE = 1024 * 1024
PDU_MARGIN_BYTES = 1024
"""Some senders count the headers into the length we announce, some do not."""
PENDING_CONNECTIONS = 128
"""Connections without association at once; a hospital's probes and a burst of modalities stay far below."""
SWEEP_S = 0.5
RECONCILE_S = 3600.0
SAVE_S = 10.0
STOP_S = 5.0
"""How long `stop` waits for aborted associations to end."""

ALONE = Place()
LIMIT_REACHED = Rejection(2, 3, 2, "limit of associations reached")
PEER_LIMIT_REACHED = Rejection(2, 3, 2, "limit of associations for one address reached")
NO_ROOM = Rejection(2, 3, 1, "disk is below its reserve")
NO_AUDIT = Rejection(2, 3, 1, "audit cannot be kept")
NO_DATABASE = Rejection(2, 3, 1, "database is busy")
FAULT = Rejection(2, 3, 1, "processing failure")


class Listener:
    """The DICOM port of the node. `start` and `stop` once each."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        spool: Spool,
        *,
        place: Place = ALONE,
        log: Any = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._log = log or structlog.get_logger()
        self._now = now
        self._place = place
        self._name = place.name(settings.node.ae_title)
        self._acceptance = Acceptance.installed()
        self._rows = RowWriter(database, spool, log=self._log)
        self._metrics = ListenerMetrics()
        self._ready = ReadyFiles(spool, Area.INSTANCES)
        limit = int(settings.receive.maximum_object_mb * MEGABYTE)
        self.service = StoreService(
            spool,
            self._rows,
            maximum_object_bytes=limit,
            ready=self._ready,
            log=self._log,
            metrics=self._metrics,
            now=now,
        )
        self._pending = PendingConnections(place.share(PENDING_CONNECTIONS), self._metrics.connection_ended)
        self._admission = Admission(settings)
        self._audit = AuditGate(settings, database, now)
        alerts = settings.alerts.model_copy(update={"rows_per_minute": place.share(settings.alerts.rows_per_minute)})
        self._watch = Watch(alerts, self._rows, log=self._log, metrics=self._metrics, now=now)
        self._commitments = CommitmentScp(settings, database, spool, now=now)
        self._open: dict[Any, Source] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server: Any = None
        self._tls_server: TlsAssociationServer | None = None
        self._sweeper = threading.Thread(target=self._sweep_until_stopped, name="association sweeper", daemon=True)

    def start(self) -> int:
        """Close what the last process left open, then listen; the port.

        Raises OSError where a port is taken, TlsFilesError where the TLS port's files cannot be used.
        """
        interrupted = unfinished = 0
        with self._database.write() as session:
            for name in self._names():
                unfinished += mark_unfinished(session, self._spool, name)
                interrupted += close_interrupted(session, name, self._now())
        removed = self._spool.remove_temporaries()
        calm_libraries()
        self._rows.start()
        self._ready.start()
        self._commitments.start()
        node = self._settings.node
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_CONN_CLOSE, self._on_connection_closed),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_PDU_SENT, self._on_pdu_sent),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_N_EVENT_REPORT, commitment.on_report, [self._database, self._settings.delivering, self._now]),
            (evt.EVT_N_ACTION, lambda event: self._commitments.on_request(event, may_ask=self._may_store)),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
        ]
        if self._settings.receive.path == "plain":
            handlers += PlainStore(self.service, self._source_of).handlers()
        entity = acceptor(self._settings)
        credentials = self._watch.credentials(self._settings.tls) if self._settings.tls.is_open else None
        self._server = start_server(entity, self._place, (node.host, node.port), handlers)
        if credentials is not None:
            handshaking = self._watch.handshaking(credentials, self._settings.tls.handshake_timeout_s)
            where = (self._settings.tls.host or node.host, self._settings.tls.port)
            self._tls_server = start_tls_server(entity, self._place, where, handlers, handshaking)
        self._sweeper.start()
        self._log.info(
            "listening",
            ae_title=node.ae_title,
            port=self.port,
            tls_port=self.tls_port,
            interrupted=interrupted,
            unfinished=unfinished,
            removed=removed,
        )
        return self.port

    def _names(self) -> list[str]:
        """The listeners whose left-over associations this one closes: its own and, as number 0, those that are no more."""
        ae_title = self._settings.node.ae_title
        gone = range(self._place.count, MAXIMUM_LISTENERS) if self._place.number == 0 else ()
        return [self._name, *(Place(number).name(ae_title) for number in gone if number)]

    @property
    def port(self) -> int:
        """The port listened on, also where the settings say 0."""
        return int(self._server.server_address[1])

    @property
    def tls_port(self) -> int | None:
        """The DICOM TLS port; None where it is shut."""
        return None if self._tls_server is None else int(self._tls_server.server_address[1])

    @property
    def associations(self) -> int:
        """Associations open now."""
        with self._lock:
            return len(self._open)

    def stop(self) -> None:
        """Stop listening, abort what is open, and finish the rows that wait."""
        self._stopping.set()
        servers = [server for server in (self._server, self._tls_server) if server is not None]
        associations = [association for server in servers for association in server.active_associations]
        for server in servers:
            server.shutdown()
        established = [association for association in associations if association.is_established]
        for association in associations:
            if association.is_established:
                association.abort(block=False)
            else:
                shut(association)
                association.dul.kill_dul()
        deadline = time.monotonic() + STOP_S
        for association in established:
            association.join(timeout=max(0.0, deadline - time.monotonic()))
        self._sweeper.join()
        self._commitments.stop()
        with self._lock:
            left = list(self._open)
        for association in left:
            self._close(association, "interrupted")
        self._watch.tell()
        self._rows.stop()
        self._ready.stop()
        self._save_metrics()
        self._log.info("stopped listening")

    def _on_connection(self, event: Any) -> None:
        """Put the guard and our DIMSE provider in place before the association's threads start; without them, no service."""
        association = event.assoc
        receive = self._settings.receive
        try:
            limits = PduLimits(receive.maximum_pdu_bytes + PDU_MARGIN_BYTES, receive.acse_timeout_s)
            connection = GuardedSocket(association.dul.socket, limits, self._metrics.connection_ended)
            if receive.path == "stream":
                association.dul = StreamDul(association, connection)
                association.dimse = StoreDimse(association, self.service, self._source_of, association.dul)
            else:
                association.dul.socket = connection
                association.dul.state_machine = GuardedStateMachine(association.dul)
            self._pending.add(association)
        except Exception:  # pynetdicom would log this and serve the connection unguarded
            self._log.exception("connection not guarded")
            shut(association)

    def _on_connection_closed(self, event: Any) -> None:
        """Note a connection that ended before it asked for an association."""
        association = event.assoc
        if self._pending.remove(association):
            unreadable = bool(getattr(association.dul.socket, "refused_pdus", 0))
            self._watch.note(association.requestor.address, Intrusion.UNREADABLE if unreadable else Intrusion.SILENT)

    def _source_of(self, association: Any) -> Source | None:
        with self._lock:
            return self._open.get(association)

    def _on_request(self, event: Any) -> None:
        """Accept or refuse; runs before pynetdicom's own negotiation, in the association's thread."""
        association = event.assoc
        self._pending.remove(association)
        if not is_well_formed(association.requestor.primitive.presentation_context_definition_list):
            association.dul.socket.refuse(INVALID_PDU_PARAMETER)
            association.is_aborted = True
            association.kill()
            return
        try:
            rejection = self._admitted(association)
        except Exception:  # pynetdicom would log this and go on to accept
            self._log.exception("association not admitted")
            rejection = FAULT
        if rejection is not None:
            association.acse.send_reject(rejection.result, rejection.source, rejection.reason)
            association.kill()  # waits until the answer is out and the connection is closed

    def _admitted(self, association: Any) -> Rejection | None:
        """Make the association ready to be accepted, or say (and note) why it is not."""
        request = association.requestor.primitive
        caller = Caller(
            str(request.calling_ae_title).strip(" "),
            str(request.called_ae_title).strip(" "),
            association.requestor.address,
            certificate_of(association.dul.socket.socket),
        )
        verdict = self._admission.judge(caller)
        if isinstance(verdict, Rejection):
            return self._refused(caller, verdict)
        source = Source(None, caller.calling, caller.address, reports_only=verdict.reports_only)
        rejection = self._no_room() or self._opened(association, source, caller.called)
        if rejection is not None:
            return self._refused(caller, rejection)
        association.dul.socket.has_association = True
        proposed = (str(context.abstract_syntax) for context in request.presentation_context_definition_list)
        acceptance = self._acceptance.for_reports() if verdict.reports_only else self._acceptance
        association.acceptor.supported_contexts = acceptance.contexts(proposed)
        return None

    def _may_store(self, association: Any) -> bool:
        """True for a peer, False for a destination that may only report."""
        source = self._source_of(association)
        return source is not None and not source.reports_only

    def _refused(self, caller: Caller, rejection: Rejection) -> Rejection:
        self._metrics.association_refused()
        self._watch.refused(caller, rejection)
        return rejection

    def _no_room(self) -> Rejection | None:
        if self._audit.is_shut:
            return NO_AUDIT
        try:
            return None if self._spool.has_room() else NO_ROOM
        except SpoolError:
            return NO_ROOM

    def _opened(self, association: Any, source: Source, called: str) -> Rejection | None:
        """Take a place among the open associations, with its row; or why there is none."""
        receive, at = self._settings.receive, self._now()
        with self._lock:
            if len(self._open) >= self._place.share(receive.maximum_associations):
                return LIMIT_REACHED
            per_address = Counter(one.address for one in self._open.values())
            if per_address[source.address] >= self._place.share(receive.maximum_associations_per_peer):
                return PEER_LIMIT_REACHED
            self._open[association] = source
        source.open = lambda session: open_association(
            session, calling=source.peer, called=called, address=source.address, listener=self._name, at=at
        )
        if self._rows.is_failing:  # else the peer need not wait, see `_on_pdu_sent`
            try:
                self._rows.call("", lambda session: association_number(session, source))
            except DatabaseBusy:
                with self._lock:
                    del self._open[association]
                return NO_DATABASE
        self._metrics.association_opened()
        return None

    def _on_pdu_sent(self, event: Any) -> None:
        """Make the association's row once the peer has its answer; the first object's row comes after it, or makes it itself."""
        if isinstance(event.pdu, A_ASSOCIATE_AC):
            source = self._source_of(event.assoc)
            if source is not None:
                self._rows.post(lambda session: association_number(session, source))

    def _on_released(self, event: Any) -> None:
        self._close(event.assoc, "released")

    def _on_aborted(self, event: Any) -> None:
        self._close(event.assoc, "interrupted" if self._stopping.is_set() else "aborted")

    def _close(self, association: Any, outcome: str) -> None:
        """Give the place back and note the end; a second call does nothing."""
        with self._lock:
            source = self._open.pop(association, None)
        if source is None:
            return
        if isinstance(association.dimse, StoreDimse):
            association.dimse.discard()
        self._metrics.association_closed(outcome)
        at = self._now()
        self._log.info("association closed", peer=source.peer, outcome=outcome, stored=source.stored, refused=source.refused)
        try:
            self._rows.call(
                "~",  # after the objects of the same transaction, which it counts
                lambda session: self._note_end(session, source, outcome, at),
            )
        except DatabaseBusy:
            self._log.warning("end of association not written; the next start does it", association=source.association_id)

    def _note_end(self, session: Session, source: Source, outcome: str, at: datetime) -> None:
        number = association_number(session, source)
        if number is not None:
            repeated = dict(source.repeated)
            close_association(session, number, outcome=outcome, at=at, repeated=repeated, is_empty=not source.begun)

    def _save_metrics(self) -> None:
        """Save the counters for the web process to show. A full disk must not stop the sweeper."""
        try:
            self._metrics.save(listener_file(self._settings, self._place.number))
        except OSError as error:
            self._log.warning("metrics not saved", error=error.strerror)

    def _reconcile(self) -> None:
        """Remove files that a crash left without row; they were never acknowledged, and their senders send them again."""
        try:
            with self._database.read() as session:
                found = reconcile(session, self._spool)
        except (DatabaseBusy, SpoolError, OSError) as error:  # a disk that fails must not stop the sweeper
            self._log.warning("spool not reconciled", error=type(error).__name__)
            return
        if found.removed or found.lost:
            self._log.warning("spool reconciled", removed=found.removed, lost=len(found.lost))

    def _sweep_until_stopped(self) -> None:
        """Close what ended without telling: a broken connection, a failed negotiation."""
        reconcile_at = save_at = time.monotonic()
        while not self._stopping.wait(SWEEP_S):
            if time.monotonic() >= save_at:
                self._watch.tell()
                self._save_metrics()
                save_at = time.monotonic() + SAVE_S
            if self._place.number == 0 and time.monotonic() >= reconcile_at:
                self._reconcile()
                reconcile_at = time.monotonic() + RECONCILE_S
            with self._lock:
                ended = [association for association in self._open if association.ident and not association.is_alive()]
            for association in ended:
                shut(association)
                association.dul.kill_dul()
                self._close(association, "aborted")
