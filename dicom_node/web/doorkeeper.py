"""What stands in front of every page: host name, method, token, and the headers that go with every answer.

Rules: `/healthz` and the style sheet are open. `/readyz` and `/metrics` carry no patient data; they need
the token unless the caller is on this machine and no proxy stands between. Everything else needs a session
cookie or the token. Wrong tokens are audited as ACCESS_DENIED and limited; a right one always passes, so
nobody can lock others out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.settings import Web
from dicom_node.web.access import COOKIE, SESSION_S, FailureLimit, Sessions, same_secret
from storage import events
from storage.database import Database, DatabaseBusy
from storage.events import EventKind, EventOutcome

OPEN_PATHS = frozenset({"/healthz", "/static/style.css"})
MACHINE_PATHS = frozenset({"/readyz", "/metrics"})
_FORWARDING = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

Speaks = Callable[[Request, int, str, str], Response]
"""Makes a page out of request, status, title and sentence."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may go on; `user` is what the audit calls the person."""

    user: str


class Doorkeeper:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, *, web: Web, database: Database, token: str, speak: Speaks) -> None:
        self._app = app
        self._database = database
        self._token = token
        self._speak = speak
        self._sessions = Sessions(token)
        self._failures = FailureLimit()
        self._hosts = host_names(web)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the request through with `request.state.user` set."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        request = Request(scope)
        try:
            verdict = await run_in_threadpool(self._judge, request)
        except DatabaseBusy:
            verdict = self._speak(request, 503, "The database does not answer", "Try again in a moment.")
        if isinstance(verdict, Response):
            await verdict(scope, receive, send_with_headers)
            return
        scope.setdefault("state", {})["user"] = verdict.user
        await self._app(scope, receive, send_with_headers)

    def _judge(self, request: Request) -> Response | Admitted:
        if host_of(request.headers.get("host", "")) not in self._hosts:
            return self._speak(request, 421, "Unknown host name", "Ask the administrator to add this name to web.host_names.")
        if request.method not in ("GET", "HEAD"):
            refused = self._speak(request, 405, "Read only", "This page only shows; nothing can be sent to it.")
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        path = request.url.path
        if path in OPEN_PATHS or (path in MACHINE_PATHS and is_direct_loopback(request)):
            return Admitted("anonymous")
        if session := self._sessions.name(request.cookies.get(COOKIE, "")):
            return Admitted(f"session {session}")
        return self._by_token(request)

    def _by_token(self, request: Request) -> Response | Admitted:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        shown = request.query_params.get("token")
        if scheme.lower() == "bearer" and same_secret(bearer.strip(), self._token):
            return Admitted("token")
        if shown is not None and same_secret(shown, self._token):
            return self._open_session(request)
        if shown is None and not bearer:
            return self._unknown(request, "Open the page with the access token that the node made at its start.")
        if not self._failures.count(address_of(request)):
            limited = self._speak(request, 429, "Too many tries", "Wait a minute before trying another token.")
            limited.headers["Retry-After"] = "60"
            return limited
        self._audit(EventKind.ACCESS_DENIED, request, EventOutcome.MINOR_FAILURE, None, "wrong token")
        return self._unknown(request, "This is not the access token of this node.")

    def _unknown(self, request: Request, sentence: str) -> Response:
        answer = self._speak(request, 401, "Access token needed", sentence)
        answer.headers["WWW-Authenticate"] = 'Bearer realm="fovea"'
        return answer

    def _open_session(self, request: Request) -> Response:
        """Give the browser its cookie, and take the token out of its address line."""
        cookie = self._sessions.issue()
        name = self._sessions.name(cookie)
        self._audit(EventKind.ACCESS_GRANTED, request, EventOutcome.SUCCESS, f"session {name}", "session opened")
        rest = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != "token"])
        path = "/" + request.url.path.lstrip("/\\")
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _audit(self, kind: EventKind, request: Request, outcome: EventOutcome, user: str | None, text: str) -> None:
        detail = {"text": text, "path": request.url.path[:200]}
        with self._database.write() as session:
            events.append(
                session,
                kind,
                at=datetime.now(UTC),
                outcome=outcome,
                user=user,
                address=address_of(request),
                detail=detail,
            )


def host_names(web: Web) -> frozenset[str]:
    """The names under which the page answers; a page fetched under another name is a trick on the browser."""
    names = {web.host, socket.gethostname(), socket.getfqdn(), *web.host_names, *_LOOPBACK_NAMES}
    return frozenset(name.lower() for name in names if name not in ("0.0.0.0", "::", ""))  # noqa: S104


def host_of(header: str) -> str:
    """The host in a Host header, without port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def address_of(request: Request) -> str:
    """The network address the request came from."""
    return request.client.host if request.client else "unknown"


def is_direct_loopback(request: Request) -> bool:
    """True where the caller is on this machine and did not pass on somebody else's request."""
    if any(name in request.headers for name in _FORWARDING):
        return False
    try:
        return ip_address(address_of(request)).is_loopback
    except ValueError:
        return False


def add_security_headers(headers: MutableHeaders) -> None:
    """What every answer says to the browser; an answer that says nothing of caching is not to be kept."""
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
