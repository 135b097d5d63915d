"""STOW-RS in: POST /dicom-web/studies and /dicom-web/studies/{study} (PS3.18 10.5), in front of the page's own doorkeeper.

Every client has a token and addresses of its own; without any client the door does not exist. A request is read in pieces, under
a limit of size, time, rate and number, and everything in it goes the way of a C-STORE.
"""

from __future__ import annotations

import asyncio
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.admission import comes_from
from dicom_node.ae import Acceptance
from dicom_node.intake import is_uid
from dicom_node.metrics import ListenerMetrics
from dicom_node.multipart import NotMultipart, Splitter, boundary_of
from dicom_node.repository import AuditGate
from dicom_node.rows import RowWriter
from dicom_node.settings import Settings
from dicom_node.settings_doors import StowClient
from dicom_node.store import Source, StoreService
from dicom_node.stow import DICOM, StowRequest, response_of
from dicom_node.web.access import MINIMUM_TOKEN_LENGTH, FailureLimit, same_secret
from storage.associations import close_association, close_interrupted, open_association
from storage.database import Database, DatabaseBusy
from storage.events import EventKind, EventOutcome, append
from storage.reconcile import mark_unfinished
from storage.spool import Spool, SpoolError

log = structlog.get_logger(__name__)

PATH = "/dicom-web/studies"
JSON = "application/dicom+json"
MEGABYTE = 1024 * 1024
RETRY_AFTER_S = 30
_TAKEN = ("", "*/*", "application/*", JSON, "application/json")


class _Refused(Exception):
    """Raised when a request as a whole is not served: HTTP status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Gone(Exception):
    """Raised when the client closed the connection."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the head of a request says, once it was found good."""

    client: StowClient
    address: str
    boundary: str
    study_instance_uid: str
    """Empty where any study may come."""


class StowDoor:
    """ASGI middleware; requests that are no STOW-RS go on to the application."""

    def __init__(self, app: ASGIApp, *, settings: Settings, database: Database, spool: Spool, metrics: ListenerMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._settings, self._database, self._spool = settings, database, spool
        self._acceptance = Acceptance.installed()
        self._failures = FailureLimit()
        self._audit = AuditGate(settings, database, _now)
        self._name = f"{settings.node.ae_title} stow"
        self._lock = threading.Lock()
        self._in_progress = 0
        self._is_first = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a POST to the studies resource where there is any client."""
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        is_ours = path == PATH or path.startswith(f"{PATH}/")
        if not is_ours or scope["method"] != "POST" or not self._settings.stow_clients:
            await self._app(scope, receive, send)
            return
        try:
            response = await self._served(Request(scope), path, receive)
        except _Gone:
            return
        except _Refused as refusal:
            self._metrics.association_refused()
            response = _refusal(refusal)
        except DatabaseBusy:
            response = _refusal(_Refused(503, "the database is busy"))
        await response(scope, receive, send)

    async def _served(self, request: Request, path: str, receive: Receive) -> Response:
        asked = await run_in_threadpool(self._asked, request, path)
        with self._lock:
            if self._in_progress >= self._settings.stow.requests_at_once:
                raise _Refused(503, "too many requests at once")
            self._in_progress += 1
        try:
            return await self._stored(asked, receive)
        finally:
            with self._lock:
                self._in_progress -= 1

    # ------------------------------------------------------------------------------------------- the head

    def _asked(self, request: Request, path: str) -> _Asked:
        """Judge everything that can be judged before the body. Raises _Refused, DatabaseBusy."""
        address = request.client.host if request.client else "unknown"
        client = self._client(request, address)
        study = path[len(PATH) :].strip("/")
        if study and not is_uid(study):
            raise _Refused(404, "no such resource")
        try:
            boundary = boundary_of(request.headers.get("content-type", ""), DICOM)
        except NotMultipart as error:
            raise _Refused(415, f'multipart/related; type="{DICOM}" is taken, but this is {error}') from error
        accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("accept", "").split(",")]
        if not any(one in _TAKEN for one in accepted):
            raise _Refused(406, f"the answer is {JSON}")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._settings.stow.maximum_request_mb * MEGABYTE:
            raise _Refused(413, f"a request has at most {self._settings.stow.maximum_request_mb:g} MB")
        if self._audit.is_shut:
            raise _Refused(503, "the audit cannot be kept")
        try:
            if not self._spool.has_room():
                raise _Refused(503, "no room on the disk")
        except SpoolError as error:
            raise _Refused(503, "the disk cannot be used") from error
        return _Asked(client, address, boundary, study)

    def _client(self, request: Request, address: str) -> StowClient:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = bearer.strip() if scheme.lower() == "bearer" else ""
        client = next((one for one in self._settings.stow_clients if shown and same_secret(shown, _token(one))), None)
        if client is not None and comes_from(address, client.addresses):
            return client
        reason = "no token" if not shown else "wrong token" if client is None else "address is not the client's"
        if self._failures.count(address):
            self._note_denied(address, reason, client)
        raise _Refused(401, "a token of this node is needed, from the address it was given for")

    def _note_denied(self, address: str, reason: str, client: StowClient | None) -> None:
        log.warning("STOW-RS refused", address=address, reason=reason)
        name = None if client is None else client.name
        with self._database.write() as session:
            append(
                session, EventKind.NODE_NOT_AUTHENTICATED, at=_now(), outcome=EventOutcome.SERIOUS_FAILURE, peer=name,
                address=address, detail={"reason": reason, "path": PATH},
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------- the body

    async def _stored(self, asked: _Asked, receive: Receive) -> Response:
        reception = await run_in_threadpool(self._opened, asked)
        self._metrics.association_opened()
        outcome = "aborted"
        try:
            await self._read(receive, reception)
            results = await run_in_threadpool(reception.finish)
            outcome = "released"
        except NotMultipart as error:
            raise _Refused(400, str(error)) from error
        finally:
            await run_in_threadpool(reception.close, outcome)
            self._metrics.association_closed(outcome)
        if not results:
            raise _Refused(400, "no object in the request")
        status, body = response_of(results)
        response = JSONResponse(body, status, media_type=JSON)
        _add_headers(response, status)
        return response

    async def _read(self, receive: Receive, reception: _Reception) -> None:
        """Feed the body as it comes. Raises _Refused, _Gone, NotMultipart."""
        stow = self._settings.stow
        began = time.monotonic()
        received = 0
        while True:
            try:
                message: Message = await asyncio.wait_for(receive(), stow.idle_timeout_s)
            except TimeoutError:
                raise _Refused(408, f"nothing came for {stow.idle_timeout_s:g} s") from None
            if message["type"] == "http.disconnect":
                raise _Gone
            piece = message.get("body", b"")
            received += len(piece)
            elapsed_s = time.monotonic() - began
            if received > stow.maximum_request_mb * MEGABYTE:
                raise _Refused(413, f"a request has at most {stow.maximum_request_mb:g} MB")
            if elapsed_s > stow.request_timeout_s:
                raise _Refused(408, f"the request took more than {stow.request_timeout_s:g} s")
            if elapsed_s > stow.idle_timeout_s and received < stow.minimum_rate_kb_s * 1000 * elapsed_s:
                raise _Refused(408, f"slower than {stow.minimum_rate_kb_s:g} kB a second")
            if piece:
                await run_in_threadpool(reception.feed, piece)
            if not message.get("more_body", False):
                return

    def _opened(self, asked: _Asked) -> _Reception:
        """Rows and a writer of them for this request. Raises DatabaseBusy."""
        with self._lock:
            is_first, self._is_first = self._is_first, False
        with self._database.write() as session:
            if is_first:
                mark_unfinished(session, self._spool, self._name)
                close_interrupted(session, self._name, _now())
            number = open_association(
                session, calling=asked.client.name, called=self._settings.node.ae_title, address=asked.address,
                listener=self._name, at=_now(),
            )  # fmt: skip
        source = Source(number, asked.client.name, asked.address, study_instance_uid=asked.study_instance_uid)
        return _Reception(
            self._settings, self._database, self._spool, self._acceptance, source, Splitter(asked.boundary), self._metrics
        )


class _Reception:
    """One request's way to the disk; its methods block and run in worker threads, one at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        spool: Spool,
        acceptance: Acceptance,
        source: Source,
        splitter: Splitter,
        metrics: ListenerMetrics,
    ) -> None:
        self._database, self._source, self._splitter = database, source, splitter
        self._rows = RowWriter(database, spool, log=log)
        self._rows.start()
        limit = int(settings.receive.maximum_object_mb * MEGABYTE)
        self._service = StoreService(spool, self._rows, maximum_object_bytes=limit, log=log, metrics=metrics)
        self._request = StowRequest(self._service, source, acceptance, maximum_parts=settings.stow.maximum_parts)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body. Raises NotMultipart."""
        for event in self._splitter.feed(piece):
            self._request.take(event)

    def finish(self) -> list[Any]:
        """The body is over: what became of each part."""
        self._request.end(is_complete=self._splitter.is_complete)
        return self._request.results

    def close(self, outcome: str) -> None:
        """Finish the rows and note the end."""
        self._request.discard()
        self._rows.stop()
        number = self._source.association_id
        log.info(
            "STOW-RS request ended", peer=self._source.peer, outcome=outcome, stored=self._source.stored,
            refused=self._source.refused,
        )  # fmt: skip
        if number is None:
            return
        try:
            with self._database.write() as session:
                close_association(session, number, outcome=outcome, at=_now(), repeated=dict(self._source.repeated))
        except DatabaseBusy:
            log.warning("end of STOW-RS request not written; the next start does it", association=number)


def _token(client: StowClient) -> str:
    """The client's token, read anew each time; one that nobody can show where the file cannot be used."""
    path = client.token_file
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            log.error("STOW-RS token may be read by others, expected mode 0600", client=client.name)
            return ""
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        log.error("STOW-RS token cannot be read", client=client.name, error=type(error).__name__)
        return ""
    if len(token) < MINIMUM_TOKEN_LENGTH:
        log.error("STOW-RS token is too short", client=client.name, minimum=MINIMUM_TOKEN_LENGTH)
        return ""
    return token


def _refusal(refusal: _Refused) -> Response:
    response = Response(f"{refusal}\n", refusal.status, media_type="text/plain")
    _add_headers(response, refusal.status)
    response.headers["Connection"] = "close"  # what is left of the body is not read
    return response


def _add_headers(response: Response, status: int) -> None:
    headers: MutableHeaders = response.headers
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fovea"'
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)


def _now() -> datetime:
    return datetime.now(UTC)
