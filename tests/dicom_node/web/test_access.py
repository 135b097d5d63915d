"""Who may look: token, session cookie, failed tries, host names, methods and headers."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_node.settings import Settings, SettingsError, Storage, Web
from dicom_node.web import load_or_create_token
from dicom_node.web.access import COOKIE, FAILURES_PER_MINUTE, SESSION_S, FailureLimit, Sessions, token_path
from tests.dicom_node.web.site import TOKEN, WebSite

PAGES = ["/", "/studies", "/studies/1", "/pictures/1/0", "/queue", "/audit", "/audit.csv", "/audit.json", "/nowhere"]


@pytest.mark.feature("S3")
@pytest.mark.parametrize("path", [*PAGES, "/readyz", "/metrics"])
def test_without_the_token_every_page_is_closed(site: WebSite, path: str) -> None:
    answer = site.stranger().get(path)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert COOKIE not in answer.cookies


def test_the_process_says_that_it_lives_to_everybody(site: WebSite) -> None:
    answer = site.stranger().get("/healthz")

    assert (answer.status_code, answer.text) == (200, "alive\n")


@pytest.mark.feature("S3")
def test_the_token_is_shown_once_and_becomes_a_cookie(site: WebSite) -> None:
    client = site.stranger()

    answer = client.get("/studies", params={"token": TOKEN, "q": "A1"})

    assert answer.status_code == 303
    assert answer.headers["Location"] == "/studies?q=A1"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/studies").status_code == 200
    (granted,) = site.events("access granted")
    assert granted.user is not None
    assert granted.address == "10.1.2.3"


def test_over_https_the_cookie_is_secure(site: WebSite) -> None:
    client = site.stranger()
    client.base_url = "https://localhost"

    answer = client.get("/", params={"token": TOKEN})

    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "//evil.example"])
def test_signing_in_never_leads_elsewhere(site: WebSite, path: str) -> None:
    answer = site.stranger().get(f"http://localhost{path}?token={TOKEN}")

    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/")
    assert answer.headers["Location"][1:2] not in ("/", "\\")


def test_a_program_sends_the_token_as_bearer(site: WebSite) -> None:
    client = site.program()

    assert client.get("/studies").status_code == 200
    assert client.get("/metrics").status_code == 200
    assert COOKIE not in client.cookies


@pytest.mark.parametrize("wrong", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä\u2603"])
@pytest.mark.feature("S3")
def test_a_wrong_token_is_refused_and_audited(site: WebSite, wrong: str) -> None:
    answer = site.stranger().get("/studies", params={"token": wrong})

    assert answer.status_code == 401
    (denied,) = site.events("access denied")
    assert (denied.outcome, denied.address) == ("minor failure", "10.1.2.3")
    assert denied.detail == {"text": "wrong token", "path": "/studies"}


def test_many_wrong_tokens_are_limited_and_the_right_one_still_opens(site: WebSite) -> None:
    client = site.stranger()

    wrong = [client.get("/studies", headers={"Authorization": f"Bearer {n}"}) for n in range(20)]
    right = client.get("/studies", headers={"Authorization": f"Bearer {TOKEN}"})

    assert [one.status_code for one in wrong] == [401] * FAILURES_PER_MINUTE + [429] * (20 - FAILURES_PER_MINUTE)
    assert wrong[-1].headers["Retry-After"] == "60"
    assert right.status_code == 200
    assert len(site.events("access denied")) == FAILURES_PER_MINUTE


def test_a_forged_or_old_cookie_opens_nothing(site: WebSite) -> None:
    good = Sessions(TOKEN).issue()
    old = Sessions(TOKEN, now=lambda: 1000.0).issue()
    of_another = Sessions(TOKEN + "x").issue()
    name, _, signature = good.split(".")
    longer = f"{name}.{10**11}.{signature}"

    for cookie in (old, of_another, longer, "", "..", "a.b.c", good[:-1], "ä.1.x"):
        header = [(b"Cookie", f"{COOKIE}={cookie}".encode())]
        assert site.stranger().get("/studies", headers=header).status_code == 401, cookie
    client = site.stranger()
    client.headers["Cookie"] = f"{COOKIE}={good}"
    assert client.get("/studies").status_code == 200


def test_a_session_ends_after_its_time() -> None:
    time = [1000.0]
    sessions = Sessions(TOKEN, now=lambda: time[0])
    cookie = sessions.issue()

    assert sessions.name(cookie) == cookie.split(".")[0]
    time[0] += SESSION_S
    assert sessions.name(cookie) is None


def test_the_limit_forgets_after_a_minute_and_counts_each_address_alone() -> None:
    time = [0.0]
    limit = FailureLimit(now=lambda: time[0])

    first = [limit.count("10.0.0.1") for _ in range(FAILURES_PER_MINUTE + 1)]
    other = limit.count("10.0.0.2")
    time[0] = 60.0
    later = limit.count("10.0.0.1")

    assert first == [True] * FAILURES_PER_MINUTE + [False]
    assert other
    assert later


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_monitoring_on_this_machine_needs_no_token(site: WebSite, path: str) -> None:
    local = site.stranger(address="127.0.0.1")

    assert local.get(path).status_code in (200, 503)
    assert local.get("/studies").status_code == 401
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert local.get(path, headers={header: "10.1.2.3"}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example", "[::2]"])
@pytest.mark.feature("S3")
def test_an_unknown_host_name_is_refused_before_anything_else(site: WebSite, host: str) -> None:
    answer = site.program().get("/studies", headers={"Host": host})

    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8042", "127.0.0.1:1", "[::1]:8042", "fovea.example"])
def test_a_known_host_name_is_served(site: WebSite, host: str) -> None:
    assert site.program().get("/studies", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/studies", "/healthz", "/audit", "/metrics"])
def test_nothing_can_be_sent_to_the_page(site: WebSite, method: str, path: str) -> None:
    answer = site.program().request(method, path)

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/studies", "/healthz", "/nowhere", "/metrics", "/static/style.css", "/audit.csv"])
def test_every_answer_tells_the_browser_to_be_careful(site: WebSite, path: str) -> None:
    for client in (site.program(), site.stranger()):
        headers = client.get(path).headers

        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "script-src" not in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert path == "/static/style.css" or headers["Cache-Control"] == "no-store"


def test_the_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(storage=Storage(spool=tmp_path / "new" / "spool"))

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: load_or_create_token(settings), range(16)))

    assert len(tokens) == 1
    assert len(tokens.pop()) >= 43
    path = token_path(settings)
    assert path == tmp_path / "new" / "web.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["web.token"]


def test_a_token_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 40)
    path.chmod(0o640)
    settings = Settings(web=Web(token_file=path))

    with pytest.raises(SettingsError, match="expected mode 0600"):
        load_or_create_token(settings)


@pytest.mark.parametrize("content", ["", "short", "x" * 31])
def test_a_short_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(SettingsError, match=f"holds {len(content)} characters, expected 32 or more"):
        load_or_create_token(Settings(web=Web(token_file=path)))
