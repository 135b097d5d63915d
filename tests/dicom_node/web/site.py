"""A web page over a fresh database and spool, and readers of it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from dicom_node.settings import Settings, Storage, Web
from dicom_node.web import create_app
from storage.audit_search import AuditFilter, AuditRow, search_audit
from storage.database import Database
from storage.models import Job
from storage.spool import Area, Spool

with warnings.catch_warnings():
    # starlette asks for a successor of httpx that this project does not use
    warnings.filterwarnings("ignore", message="Using `httpx`")
    from starlette.testclient import TestClient

TOKEN = "a-token-that-only-these-tests-use-0123456789"


@dataclass(frozen=True, slots=True)
class WebSite:
    """The page and what stands behind it."""

    settings: Settings
    database: Database
    spool: Spool

    def stranger(self, address: str = "10.1.2.3") -> TestClient:
        """A browser without any credential, from another machine."""
        app = create_app(self.settings, self.database, self.spool, TOKEN)
        return TestClient(app, base_url="http://localhost", client=(address, 50000), follow_redirects=False)

    def reader(self) -> TestClient:
        """A browser that showed the token."""
        client = self.stranger()
        assert client.get("/studies", params={"token": TOKEN}).status_code == 303
        return client

    def program(self) -> TestClient:
        """A program that sends the token with each request."""
        client = self.stranger()
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        return client

    def events(self, kind: str) -> Sequence[AuditRow]:
        """The events of one kind, oldest first."""
        with self.database.read() as session:
            return tuple(reversed(search_audit(session, AuditFilter(kind=kind)).rows))


def web_site(folder: Path, database: Database) -> WebSite:
    """A page over the database; its spool lies in the folder."""
    settings = Settings(storage=Storage(spool=folder / "spool"), web=Web(port=0, host_names=("fovea.example",)))
    return WebSite(settings, database, Spool(folder / "spool", 0))


def png() -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add_picture(site: WebSite, job_id: int, data: bytes, path: str | None = None) -> str:
    """Give the job one more picture; its path in the spool, or the one given instead."""
    kept = site.spool.write(Area.PICTURES, f"{job_id}/{datetime.now(UTC).timestamp()}", data)
    with site.database.write() as session:
        job = session.get_one(Job, job_id)
        assert job.summary is not None
        picture = {"name": "finding-1.png", "caption": "Finding 1, slice 12", "path": path or kept}
        job.summary = {**job.summary, "pictures": [*job.summary["pictures"], picture]}
    return kept
