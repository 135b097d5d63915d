"""The web port over TLS: the page and STOW-RS in, over a real socket, with certificates of the test's own authority."""

from __future__ import annotations

import shutil
import socket
import ssl
import warnings
from pathlib import Path

import httpx
import pytest

from dicom_node.settings import Settings, Web
from dicom_node.web.health import readiness
from storage.database import Database
from storage.spool import Spool
from tests.authority import Authority, Pair
from tests.dicom_node.web.test_stow import TOKEN, body, door, images

pytestmark = pytest.mark.feature("S3", "R9")
PAGE_TOKEN = "r" * 40


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the page's certificate."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca").start()


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> Pair:
    """The page's certificate and key, in files that may be replaced."""
    made = authority.issue("localhost")
    return Pair(Path(shutil.copy(made.certificate, tmp_path)), Path(shutil.copy(made.key, tmp_path)))


def client(authority: Authority) -> httpx.Client:
    """A browser that trusts the authority."""
    return httpx.Client(verify=ssl.create_default_context(cafile=str(authority.certificate)), timeout=20, trust_env=False)


def shown(authority: Authority, port: int) -> bytes:
    """The certificate that the page shows."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def test_reader_signs_in_and_the_cookie_stays_off_the_clear_net(
    sqlite_database: Database, spool: Spool, tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    with door(sqlite_database, spool, tmp_path, pair=pair) as open_door, client(authority) as browser:
        signed_in = browser.get(f"https://localhost:{open_door.port}/studies", params={"token": PAGE_TOKEN})
        page = browser.get(f"https://localhost:{open_door.port}/studies")

    assert (signed_in.status_code, page.status_code) == (303, 200)
    assert "Secure" in signed_in.headers["set-cookie"]


def test_clear_text_and_old_versions_get_no_page(
    sqlite_database: Database, spool: Spool, tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    old = ssl.create_default_context(cafile=str(authority.certificate))
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with door(sqlite_database, spool, tmp_path, pair=pair) as open_door:
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{open_door.port}/healthz", timeout=20, trust_env=False)
        with socket.create_connection(("127.0.0.1", open_door.port)) as plain, pytest.raises(OSError, match=r"(?i)ssl|reset"):
            old.wrap_socket(plain, server_hostname="localhost")


def test_renewed_certificate_is_shown_without_a_restart_and_half_of_one_changes_nothing(
    sqlite_database: Database, spool: Spool, tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    renewed = authority.issue("localhost")
    with door(sqlite_database, spool, tmp_path, pair=pair) as open_door:
        before = shown(authority, open_door.port)
        shutil.copy(renewed.certificate, pair.certificate)
        half = shown(authority, open_door.port)
        shutil.copy(renewed.key, pair.key)
        after = shown(authority, open_door.port)

    assert before == half
    assert after == ssl.PEM_cert_to_DER_cert(renewed.certificate.read_text(encoding="ascii"))


def test_stow_over_tls_is_stored_and_counted(
    sqlite_database: Database, spool: Spool, tmp_path: Path, authority: Authority, pair: Pair
) -> None:
    kind = 'multipart/related; type="application/dicom"; boundary=fovea-test'
    sent = {"Content-Type": kind, "Accept": "application/dicom+json", "Authorization": f"Bearer {TOKEN}"}
    with door(sqlite_database, spool, tmp_path, pair=pair) as open_door, client(authority) as sender:
        stored = sender.post(f"{open_door.url}/studies", content=body(images(2)), headers=sent)
        refused = sender.post(f"{open_door.url}/studies", content=b"x", headers={**sent, "Authorization": "Bearer wrong"})
        counted = sender.get(f"https://localhost:{open_door.port}/metrics").text

    assert (stored.status_code, refused.status_code) == (200, 401)
    assert 'fovea_stow_answers_total{status="0x0000"} 2.0' in counted
    assert 'fovea_stow_associations_total{outcome="released"} 1.0' in counted
    assert 'fovea_stow_associations_total{outcome="refused"} 1.0' in counted
    assert "fovea_listener_answers_total" not in counted


def test_the_pages_certificate_is_watched(sqlite_database: Database, spool: Spool, pair: Pair) -> None:
    settings = Settings(models=(), web=Web(certificate_file=pair.certificate, key_file=pair.key))

    found = {check.name: check for check in readiness(settings, sqlite_database, spool).checks}

    assert found["web.certificate_file"].ok
    assert "expires in" in found["web.certificate_file"].text
