"""Readiness: every check can fail, and a real server answers on a real socket and stops when told."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.settings import Model, Settings, Storage, Web
from dicom_node.web import create_app, sign_in_address, web_server
from dicom_node.web.health import readiness
from storage.database import Database
from storage.spool import Spool
from tests.dicom_node.web.site import TOKEN, WebSite


def failed(settings: Settings, database: Database, spool: Spool) -> dict[str, str]:
    """The checks that fail, with what they say; models that are not the test's own are left out."""
    checks = readiness(settings, database, spool).checks
    return {check.name: check.text for check in checks if not check.ok}


@pytest.fixture
def bare(tmp_path: Path) -> Settings:
    """Settings without any model."""
    return Settings(storage=Storage(spool=tmp_path / "spool"), models=(), web=Web(port=0))


def test_a_database_at_the_newest_revision_and_a_spool_with_room_are_ready(
    database: Database, bare: Settings, spool: Spool
) -> None:
    assert failed(bare, database, spool) == {}
    assert list((spool.root / "temporary").iterdir()) == []


def test_an_old_schema_is_not_ready(tmp_path: Path, bare: Settings, spool: Spool) -> None:
    database = Database(f"sqlite:///{tmp_path}/old.sqlite")

    assert failed(bare, database, spool)["database"].startswith("schema revision None, this program expects")
    database.dispose()


def test_a_full_disk_is_not_ready(sqlite_database: Database, bare: Settings, tmp_path: Path) -> None:
    full = Spool(tmp_path / "full", 2**62)

    assert failed(bare, sqlite_database, full) == {"spool": "less free space than storage.reserve_mb"}


def test_a_spool_that_is_gone_is_not_ready(sqlite_database: Database, bare: Settings, spool: Spool) -> None:
    shutil.rmtree(spool.root)

    assert failed(bare, sqlite_database, spool)["spool"].startswith("not writable")


@pytest.mark.parametrize("content", [None, "", "{}", '{"name": 1}'], ids=["missing", "empty", "no keys", "wrong"])
def test_a_model_card_that_cannot_be_read_is_not_ready(
    sqlite_database: Database, spool: Spool, tmp_path: Path, content: str | None
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    if content is not None:
        (bundle / "card.json").write_text(content)
    settings = Settings(storage=Storage(spool=spool.root), models=(Model(name="brain", path=bundle),))

    assert set(failed(settings, sqlite_database, spool)) == {"model brain"}


def test_readyz_names_each_check_and_answers_503_where_one_fails(
    sqlite_database: Database, bare: Settings, spool: Spool, tmp_path: Path
) -> None:
    missing = bare.model_copy(update={"models": (Model(name="brain", path=tmp_path / "none"),)})

    answers = []
    for settings in (bare, missing):
        client = WebSite(settings, sqlite_database, spool).program()
        answers.append(client.get("/readyz"))

    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[0].json()["ready"] is True
    assert set(answers[0].json()["checks"]) == {"database", "spool"}
    assert answers[1].json()["checks"]["model brain"]["ok"] is False
    assert answers[1].json()["checks"]["database"]["ok"] is True


@pytest.fixture
def served(sqlite_database: Database, bare: Settings, spool: Spool) -> Iterator[str]:
    """The address of a real server on a free port; stopped, and joined, at the end."""
    server, listener = web_server(bare, sqlite_database, spool, TOKEN)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)
    listener.close()
    assert not thread.is_alive()


@pytest.mark.feature("A3")
def test_a_browser_signs_in_over_a_real_socket(served: str) -> None:
    port = int(served.rpartition(":")[2])
    with httpx.Client(follow_redirects=True, timeout=20) as browser:
        closed = browser.get(f"{served}/studies")
        opened = browser.get(sign_in_address("127.0.0.1", port, TOKEN))
        again = browser.get(f"{served}/queue")

    assert closed.status_code == 401
    assert (opened.status_code, str(opened.url)) == (200, f"{served}/studies")
    assert again.status_code == 200
    assert "server" not in opened.headers


def test_monitoring_reads_health_and_metrics_over_a_real_socket(served: str) -> None:
    with httpx.Client(timeout=20) as monitor:
        assert monitor.get(f"{served}/healthz").text == "alive\n"
        assert json.loads(monitor.get(f"{served}/readyz").text)["ready"] is True
        assert "fovea_database_up 1.0" in monitor.get(f"{served}/metrics").text


SERVE = """
import sys
from pathlib import Path
from dicom_node import logs
from dicom_node.settings import Settings, Storage, Web
from dicom_node.web import serve_web
from storage.database import Database
from storage.spool import Spool

logs.configure(json=True)
spool = Path(sys.argv[1])
settings = Settings(storage=Storage(spool=spool, database_url=sys.argv[2]), models=(), web=Web(port=0))
serve_web(settings, Database(sys.argv[2]), Spool(spool, 0))
print("went on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_page_and_the_process_goes_on(tmp_path: Path, sqlite_url: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path / "spool"), sqlite_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        token = Path(started["token_file"]).read_text().strip()
        answer = httpx.get(f"{started['address']}studies", headers={"Authorization": f"Bearer {token}"}, timeout=20)

        process.send_signal(number)
        said, _ = process.communicate(timeout=30)

    assert answer.status_code == 200
    assert started["event"] == "web page is up"
    assert token not in json.dumps(started)
    assert (process.returncode, said) == (0, "went on\n")


def test_an_app_can_be_made_for_another_server(bare: Settings, sqlite_database: Database, spool: Spool) -> None:
    app = create_app(bare, sqlite_database, spool, TOKEN)

    assert {route.path for route in app.routes} >= {"/studies", "/audit", "/readyz", "/metrics"}  # type: ignore[attr-defined]
