"""Templates, escaped by default, with the few words and formats that pages share."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dicom_node.web import presentation

_FOLDER = Path(__file__).parent
STYLE = _FOLDER / "static" / "style.css"
TITLES = {"studies": "Studies", "queue": "Queue and health", "audit": "Audit"}


@cache
def environment() -> Environment:
    """The one template environment; everything is escaped and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        utc=presentation.utc,
        person_name=presentation.person_name,
        dicom_date=presentation.dicom_date,
        file_size=presentation.file_size,
        detail_text=presentation.detail_text,
        duration=presentation.duration,
        words=presentation.words,
    )
    made.globals.update(
        standing_badge=presentation.standing_badge,
        job_badge=presentation.job_badge,
        study_badges=presentation.study_badges,
        delivery_badge=presentation.delivery_badge,
        outcome_badge=presentation.outcome_badge,
        job_reason=presentation.job_reason,
        style_version=hashlib.sha256(STYLE.read_bytes()).hexdigest()[:12],
        sections=TITLES,
    )
    return made


def page(
    request: Request,
    template: str,
    *,
    status: int = 200,
    section: str = "",
    refresh_s: int | None = None,
    **values: object,
) -> Response:
    """The filled template; with `refresh_s` the browser asks again, unless paused by `?refresh=off`."""
    paused = request.query_params.get("refresh") == "off"
    now = datetime.now(UTC)
    body = environment().get_template(template).render(
        values,
        now=now,
        since=lambda value: presentation.since(value, now),
        section=section,
        refresh_s=None if paused else refresh_s,
        paused=paused and refresh_s is not None,
        pause_url=request.url.include_query_params(refresh="off").replace(scheme="", netloc=""),
        resume_url=request.url.remove_query_params("refresh").replace(scheme="", netloc=""),
        user=getattr(request.state, "user", None),
    )  # fmt: skip
    return HTMLResponse(body, status)


def message(request: Request, status: int, title: str, sentence: str) -> Response:
    """A page with one sentence: an error, or the door."""
    return page(request, "message.html", status=status, title=title, sentence=sentence, asks_token=status == 401)
