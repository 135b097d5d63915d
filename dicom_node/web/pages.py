"""The pages: studies, one study's story, its pictures, the queue, and the audit search with its exports.

Each page reads in one short transaction. Who looked at a study, and who searched the audit, is written
before the answer leaves; where that cannot be written, nothing is shown.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from dicom_node import audit_view
from dicom_node.web import forms
from dicom_node.web.doorkeeper import address_of
from dicom_node.web.health import Ready
from dicom_node.web.presentation import DISPLAY_ORDER, series_fates, shown_job
from dicom_node.web.templating import page
from storage import audit_search, events, queries
from storage.audit_search import AuditFilter
from storage.database import Database
from storage.events import EventKind
from storage.models import Job, Study
from storage.read_models import Standing
from storage.spool import Area, Spool, SpoolError

STUDIES_PER_PAGE = 50
EVENTS_PER_PAGE = 100
EVENTS_OF_A_STUDY = 300
REFRESH_S = 15
VIEW_COUNTS_FOR_S = 300.0
_VIEWS_REMEMBERED = 4096
_PNG = b"\x89PNG\r\n\x1a\n"


class Views:
    """Which reader looked at which study lately: a page that renews itself is one view, not hundreds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: OrderedDict[tuple[str, int], float] = OrderedDict()

    def is_new(self, user: str, study_id: int) -> bool:
        """True where this view must be audited."""
        last = self._seen.get((user, study_id))
        return last is None or self._now() - last > VIEW_COUNTS_FOR_S

    def note(self, user: str, study_id: int) -> None:
        """Remember an audited view."""
        self._seen.pop((user, study_id), None)
        self._seen[user, study_id] = self._now()
        if len(self._seen) > _VIEWS_REMEMBERED:
            self._seen.popitem(last=False)


class Pages:
    """The endpoints that need rows and files."""

    def __init__(self, database: Database, spool: Spool, ready: Ready) -> None:
        self._database = database
        self._spool = spool
        self._ready = ready
        self._views = Views()

    def studies(self, request: Request) -> Response:
        """The list of studies, filtered and paged."""
        chosen = forms.study_filter(request.query_params)
        number = forms.page_number(request.query_params)
        with self._database.read() as session:
            found = queries.list_studies(session, chosen, offset=(number - 1) * STUDIES_PER_PAGE, limit=STUDIES_PER_PAGE)
            counts = queries.count_standings(session)
        return page(
            request,
            "studies.html",
            section="studies",
            refresh_s=REFRESH_S,
            found=found,
            counts=counts,
            standings=DISPLAY_ORDER,
            query=request.query_params,
            page_number=number,
            pages=max(1, -(-found.total // STUDIES_PER_PAGE)),
            link=lambda **changes: _link(request, **changes),
        )

    def study(self, request: Request) -> Response:
        """One study's story."""
        with self._database.read() as session:
            story = queries.study_story(session, request.path_params["study_id"])
            if story is None:
                raise HTTPException(404)
            found = audit_search.study_events(session, story.study.study_instance_uid, limit=EVENTS_OF_A_STUDY)
        self._audit_view(request, story.study.id)
        is_open = story.study.standing in (Standing.RECEIVING, Standing.WAITING, Standing.RUNNING)
        return page(
            request,
            "study.html",
            section="studies",
            refresh_s=REFRESH_S if is_open else None,
            story=story,
            study=story.study,
            jobs=[shown_job(job) for job in story.jobs],
            current={job.id for job in story.study.jobs},
            fates=series_fates(story, found.rows),
            events=found,
        )

    def picture(self, request: Request) -> Response:
        """One picture of one job, by number: no part of the address ever becomes a path."""
        with self._database.read() as session:
            job = session.get(Job, request.path_params["job_id"])
            pictures = (job.summary or {}).get("pictures", []) if job is not None else []
            index = request.path_params["index"]
            if job is None or index >= len(pictures):
                raise HTTPException(404)
            relative, study_id = str(pictures[index].get("path", "")), job.study_id
        if not relative.startswith(f"{Area.PICTURES.value}/"):
            raise HTTPException(404)
        try:
            path = self._spool.path(relative)
            with path.open("rb") as file:
                is_png = file.read(len(_PNG)) == _PNG
        except (SpoolError, OSError):
            raise HTTPException(404) from None
        if not is_png:
            raise HTTPException(404)
        self._audit_view(request, study_id)
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "no-store"})

    def queue(self, request: Request) -> Response:
        """What waits where, what was given up, and whether the node is ready."""
        with self._database.read() as session:
            overview = queries.queue_overview(session)
            waiting = queries.waiting_jobs(session)
            failed = queries.failed_jobs(session, limit=50)
            dead = queries.dead_letters(session)
            destinations = queries.list_destinations(session)
        return page(
            request,
            "queue.html",
            section="queue",
            refresh_s=REFRESH_S,
            readiness=self._ready(),
            overview=overview,
            waiting=waiting,
            failed=failed,
            dead=dead,
            destinations=destinations,
        )

    def audit(self, request: Request) -> Response:
        """The audit search; an empty form searches nothing."""
        query = request.query_params
        chosen = forms.audit_filter(query)
        asked = bool(chosen.as_json()) or "search" in query
        found = None
        if asked:
            with self._database.read() as session:
                found = audit_search.search_audit(session, chosen, limit=EVENTS_PER_PAGE, before_id=forms.number(query, "before"))
            self._audit_query(request, chosen, found.total, None)
        return page(
            request,
            "audit.html",
            section="audit",
            found=found,
            chosen=chosen,
            query=query,
            kinds=sorted(EventKind),
            export_query=urlencode([pair for pair in query.multi_items() if pair[0] != "before"]),
            link=lambda **changes: _link(request, **changes),
        )

    def audit_csv(self, request: Request) -> Response:
        """Every event found, oldest first, as CSV."""
        rows = audit_search.stream_audit(self._database, self._exported(request, "csv"))
        return StreamingResponse(
            audit_view.csv_lines(rows),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="fovea-audit.csv"'},
        )

    def audit_json(self, request: Request) -> Response:
        """Every event found, oldest first, as a JSON array."""
        rows = audit_search.stream_audit(self._database, self._exported(request, "json"))
        return StreamingResponse(audit_view.json_lines(rows), media_type="application/json")

    def _exported(self, request: Request, export: str) -> AuditFilter:
        chosen = forms.audit_filter(request.query_params)
        if request.method == "HEAD":
            raise HTTPException(405, headers={"Allow": "GET"})
        with self._database.read() as session:
            matches = audit_search.search_audit(session, chosen, limit=1).total
        self._audit_query(request, chosen, matches, export)
        return chosen

    def _audit_query(self, request: Request, chosen: AuditFilter, matches: int, export: str | None) -> None:
        with self._database.write() as session:
            audit_view.record_query(
                session,
                chosen,
                matches=matches,
                user=request.state.user,
                at=datetime.now(UTC),
                address=address_of(request),
                export=export,
            )

    def _audit_view(self, request: Request, study_id: int) -> None:
        user = request.state.user
        if not self._views.is_new(user, study_id):
            return
        with self._database.write() as session:
            study = session.get_one(Study, study_id)
            events.append(
                session,
                EventKind.STUDY_VIEWED,
                at=datetime.now(UTC),
                study=study,
                user=user,
                address=address_of(request),
            )
        self._views.note(user, study_id)


def _link(request: Request, **changes: object) -> str:
    """The same page with other fields; a field of None is left out."""
    fields = {name: value for name, value in request.query_params.items() if value and name not in changes}
    fields |= {name: str(value) for name, value in changes.items() if value is not None}
    return request.url.path + (f"?{urlencode(fields)}" if fields else "")
