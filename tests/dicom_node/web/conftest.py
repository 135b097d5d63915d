"""Fixtures of the web page's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.database import Database
from tests.dicom_node.web.site import WebSite, web_site


@pytest.fixture
def site(tmp_path: Path, sqlite_database: Database) -> WebSite:
    """A web page over a fresh database."""
    return web_site(tmp_path, sqlite_database)
