"""The read-only web page: its routes, and the server that shows it.

One starlette application without any script or resource from elsewhere, for people beside the PACS and for
the machines that watch the node. Whoever wants to change something uses the command line.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from dicom_node.metrics import ListenerMetrics, exposition
from dicom_node.settings import Settings
from dicom_node.tls import page_context
from dicom_node.web.access import load_or_create_token, token_path
from dicom_node.web.doorkeeper import Doorkeeper, add_security_headers
from dicom_node.web.forms import FormError
from dicom_node.web.health import readiness
from dicom_node.web.pages import Pages
from dicom_node.web.stow import StowDoor
from dicom_node.web.templating import STYLE, message
from storage.database import Database, DatabaseBusy
from storage.spool import Spool

log = structlog.get_logger(__name__)

CONNECTIONS_AT_ONCE = 100
KEEP_ALIVE_S = 10
STOP_WITHIN_S = 5
_TITLES = {
    400: ("Not understood", "The address or the form holds something this page cannot use."),
    404: ("Not here", "There is no such page, study or picture; its files may have been deleted."),
    405: ("Read only", "This page only shows; nothing can be sent to it."),
}


def create_app(settings: Settings, database: Database, spool: Spool, token: str) -> Starlette:
    """The application; `token` is what a reader must show (`load_or_create_token`)."""
    ready = partial(readiness, settings, database, spool)
    pages = Pages(database, spool, ready)
    stow = ListenerMetrics("stow")

    def readyz(_request: Request) -> Response:
        found = ready()
        return JSONResponse(found.as_json(), 200 if found.ready else 503)

    def metrics(_request: Request) -> Response:
        body, content_type = exposition(settings, database, stow)
        return Response(body, headers={"Content-Type": content_type})

    routes = [
        Route("/", lambda _request: RedirectResponse("/studies", 303)),
        Route("/studies", pages.studies),
        Route("/studies/{study_id:int}", pages.study),
        Route("/pictures/{job_id:int}/{index:int}", pages.picture),
        Route("/queue", pages.queue),
        Route("/audit", pages.audit),
        Route("/audit.csv", pages.audit_csv),
        Route("/audit.json", pages.audit_json),
        Route("/healthz", lambda _request: PlainTextResponse("alive\n")),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/static/style.css", _style),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(StowDoor, settings=settings, database=database, spool=spool, metrics=stow),
            Middleware(Doorkeeper, web=settings.web, database=database, token=token, speak=message),
        ],
        exception_handlers={
            HTTPException: _http_error,
            FormError: _form_error,
            DatabaseBusy: _busy,
            Exception: _broken,
        },
    )


def web_server(settings: Settings, database: Database, spool: Spool, token: str) -> tuple[uvicorn.Server, socket.socket]:
    """The server and its bound socket; `server.run([socket])` serves until told to stop. Raises OSError, TlsFilesError."""
    web = settings.web
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    listener = socket.create_server((web.host, web.port), family=family, backlog=CONNECTIONS_AT_ONCE)
    config = uvicorn.Config(
        create_app(settings, database, spool, token),
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=CONNECTIONS_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_WITHIN_S,
        lifespan="off",
    )
    if web.certificate_file is not None:
        config.load()
        config.ssl = page_context(web)
    return uvicorn.Server(config), listener


def serve_web(settings: Settings, database: Database, spool: Spool) -> None:
    """Show the page until the process is told to stop (SIGTERM, SIGINT), then return; for the main thread.

    Raises OSError where the address is taken, SettingsError where the token cannot be read, TlsFilesError as `page_context`.
    """
    token = load_or_create_token(settings)
    server, listener = web_server(settings, database, spool, token)
    host, port = listener.getsockname()[:2]
    address = f"{settings.web.scheme}://{_bracketed(host)}:{port}/"
    log.info("web page is up", address=address, token_file=str(token_path(settings)))
    with listener, _signals_stop(server):
        server.run([listener])


def sign_in_address(host: str, port: int, token: str) -> str:
    """The address that opens the page in a browser; it holds the token, so show it only to a person."""
    return f"http://{_bracketed(host)}:{port}/studies?token={token}"


@contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the server only: uvicorn raises them again afterwards, and the caller has more to do."""

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _style(_request: Request) -> Response:
    return FileResponse(STYLE, media_type="text/css", headers={"Cache-Control": "public, max-age=31536000"})


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title, sentence = _TITLES.get(status, ("Something is wrong", "The page cannot be shown."))
    answer = message(request, status, title, sentence)
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    return answer


def _form_error(request: Request, error: Exception) -> Response:
    return message(request, 400, "Not understood", str(error))


def _busy(request: Request, _error: Exception) -> Response:
    return message(request, 503, "The database does not answer", "Nothing is lost; try again in a moment.")


def _broken(request: Request, error: Exception) -> Response:
    log.error("web page failed", path=request.url.path, error=type(error).__name__)
    answer = message(request, 500, "An error of the program", "It was logged; the node itself goes on.")
    add_security_headers(answer.headers)  # this handler stands outside the doorkeeper
    return answer
