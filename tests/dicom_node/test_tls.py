"""DICOM over TLS with real peers (DCMTK, Orthanc, openssl): who gets in, who does not, and what is told of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node import certificates, expiry, scu
from dicom_node.listeners import Place, bind
from dicom_node.metrics import exposition
from dicom_node.scp import Listener
from dicom_node.settings import Destination, Node, Peer, Receive, Settings, SettingsError, Storage, load_settings
from dicom_node.settings_doors import Alerts, Tls
from dicom_node.simulator import send_datasets
from dicom_node.tls import TlsFilesError, server_context
from dicom_node.web.health import readiness
from storage.database import Database
from storage.events import EventKind
from storage.models import Event
from storage.spool import Spool
from tests import studies
from tests.authority import Authority, Pair
from tests.network import CALLED, CALLING, Running, listening, run_storescu, wait_until
from tests.peers import Orthanc, program, running_orthanc, save
from tests.studies import Plan

pytestmark = [pytest.mark.feature("R3"), pytest.mark.peer]


@dataclass(frozen=True)
class Hospital:
    """One authority that everybody trusts, the certificates it gave out, and an authority that nobody knows."""

    authority: Authority
    node: Pair
    modality: Pair
    other: Pair
    expired: Pair
    unknown: Pair
    crl: Path

    def tls(self, **changes: Any) -> Tls:
        values = {
            "port": 0, "certificate_file": self.node.certificate, "key_file": self.node.key,
            "ca_file": self.authority.certificate, "handshake_timeout_s": 10,
        }  # fmt: skip
        return Tls(**{**values, **changes})

    def peer(self, **changes: Any) -> Peer:
        values = {"ae_title": CALLING, "addresses": ("127.0.0.1",), "certificates": (self.modality.fingerprint,)}
        return Peer(**{**values, **changes})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    authority = Authority(tmp_path_factory.mktemp("authority") / "ours").start()
    stranger = Authority(tmp_path_factory.mktemp("stranger") / "theirs", "Nobody's authority").start()
    return Hospital(
        authority,
        node=authority.issue("node.test"),
        modality=authority.issue("modality.test"),
        other=authority.issue("other.test"),
        expired=authority.issue("modality.test", starts_in_days=-9, ends_in_days=-2),
        unknown=stranger.issue("modality.test"),
        crl=authority.revocation_list(),
    )


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    """One for all: its folders take longer to remove than a test to run, and each test has rows of its own."""
    return Spool(tmp_path_factory.mktemp("node") / "spool", 0)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    save(studies.series(Plan(slices=2, rows=16, columns=16)), tmp_path / "images")
    return sorted((tmp_path / "images").glob("*.dcm"))


@contextmanager
def node(
    hospital: Hospital, database: Database, spool: Spool, *, peer: Peer | None = None, tls: Tls | None = None, **more: Any
) -> Iterator[tuple[Running, int]]:
    """A listener with both ports, and the number of the TLS one."""
    with listening(database, spool, peers=[peer or hospital.peer()], tls=tls or hospital.tls(), **more) as running:
        port = running.listener.tls_port
        assert port is not None
        yield running, port


def store_tls(port: int, files: list[Path], pair: Pair, authority: Authority, *options: str) -> subprocess.CompletedProcess[str]:
    """DCMTK's storescu over TLS."""
    return run_storescu(port, files, "+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.certificate), *options)


def s_client(port: int, *options: str, pair: Pair | None = None) -> subprocess.CompletedProcess[str]:
    """openssl's client, which ends when the handshake is over."""
    own = () if pair is None else ("-cert", str(pair.certificate), "-key", str(pair.key))
    command = [program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *own, *options]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=30)


def reasons(running: Running, kind: EventKind = EventKind.NODE_NOT_AUTHENTICATED) -> list[str]:
    return [event.detail["reason"] for event in running.events(kind)]


class TestGettingIn:
    def test_dcmtk_stores_with_the_bound_certificate(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            done = store_tls(port, images, hospital.modality, hospital.authority)

            assert done.returncode == 0, done.stdout
            assert len(running.instances()) == 2
            assert reasons(running) == []

    def test_a_subject_alternative_name_binds_as_well(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        peer = hospital.peer(certificates=(), certificate_names=("Modality.TEST",))
        with node(hospital, sqlite_database, spool, peer=peer) as (_, port):
            assert store_tls(port, images, hospital.modality, hospital.authority).returncode == 0
            assert store_tls(port, images, hospital.other, hospital.authority).returncode != 0

    def test_an_rsa_certificate_and_a_large_object_over_tls_1_2(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        """Records of 16 kB, PDUs of 128 kB: what OpenSSL has decrypted and not handed out yet must not be waited for."""
        pair = hospital.authority.issue("rsa.test", key="rsa")
        save(studies.series(Plan(slices=1, rows=2048, columns=2048)), tmp_path / "large")
        peer = hospital.peer(certificates=(pair.fingerprint,))
        tls = hospital.tls(certificate_file=pair.certificate, key_file=pair.key)
        with node(hospital, sqlite_database, spool, peer=peer, tls=tls) as (running, port):
            done = store_tls(port, list((tmp_path / "large").glob("*.dcm")), pair, hospital.authority, "-pdu", "131072")

            assert done.returncode == 0, done.stdout
            assert [one.size > 8_000_000 for one in running.instances()] == [True]

    def test_orthanc_stores_over_tls(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path], tmp_path: Path
    ) -> None:
        peer = hospital.peer(ae_title="ORTHANC")
        with node(hospital, sqlite_database, spool, peer=peer) as (running, port):
            secured = {
                "DicomTlsEnabled": False,
                "DicomTlsCertificate": str(hospital.modality.certificate),
                "DicomTlsPrivateKey": str(hospital.modality.key),
                "DicomTlsTrustedCertificates": str(hospital.authority.certificate),
                "DicomModalities": {"fovea": {"AET": CALLED, "Host": "127.0.0.1", "Port": port, "UseDicomTls": True}},
            }
            with running_orthanc(Orthanc(tmp_path / "orthanc", more=secured)) as orthanc:
                known = [orthanc.post("/instances", path.read_bytes())["ID"] for path in images]
                told = orthanc.post_json("/modalities/fovea/store", known)

                assert told["FailedInstancesCount"] == 0
                assert len(running.instances()) == 2

    def test_we_send_over_tls_with_a_certificate_of_our_own(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        """Our sender against our TLS port: C-ECHO, C-STORE, and TLS 1.3, whose tickets are no data."""
        with node(hospital, sqlite_database, spool) as (running, port):
            target = destination(hospital, port)
            items, _ = scu.outgoing(images)
            sent: list[scu.Sent] = []

            assert scu.echo(target, CALLING) is None
            assert scu.send(target, CALLING, items, sent.append) is None
            assert [one.status for one in sent] == ["0x0000", "0x0000"]
            assert len(running.instances()) == 2

    def test_we_send_over_tls_to_orthanc(self, hospital: Hospital, images: list[Path], tmp_path: Path) -> None:
        """Orthanc's port sends session tickets, as most servers do."""
        secured = {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(hospital.node.certificate),
            "DicomTlsPrivateKey": str(hospital.node.key),
            "DicomTlsTrustedCertificates": str(hospital.authority.certificate),
        }
        with running_orthanc(Orthanc(tmp_path / "orthanc", more=secured)) as orthanc:
            target = destination(hospital, orthanc.port, ae_title="ORTHANC", tls_name="node.test")
            items, _ = scu.outgoing(images)

            assert scu.echo(target, CALLING) is None
            assert scu.send(target, CALLING, items, lambda _one: None) is None
            assert all(orthanc.has(one.sop_instance_uid) for one in items)


def destination(hospital: Hospital, port: int, **changes: Any) -> Destination:
    values = {
        "name": "node", "ae_title": CALLED, "host": "127.0.0.1", "port": port, "timeout_s": 10, "tls": True,
        "ca_file": hospital.authority.certificate, "certificate_file": hospital.modality.certificate,
        "key_file": hospital.modality.key,
    }  # fmt: skip
    return Destination(**{**values, **changes})


@pytest.mark.feature("R2")
class TestStayingOut:
    def test_another_certificate_of_the_same_authority_is_refused(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            done = store_tls(port, images, hospital.other, hospital.authority)

            assert "Calling AE Title Not Recognized" in done.stdout
            wait_until(lambda: reasons(running) == ["certificate is not bound to this AE title"])
            assert running.events(EventKind.ASSOCIATION_REFUSED)[0].peer == CALLING
            assert running.instances() == []

    def test_over_tls_a_peer_without_certificates_is_nobody(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        with node(hospital, sqlite_database, spool, peer=hospital.peer(certificates=())) as (running, port):
            assert store_tls(port, images, hospital.modality, hospital.authority).returncode != 0
            assert run_storescu(running.port, images).returncode == 0

    @pytest.mark.parametrize("allowed", [False, True])
    def test_clear_text_of_a_peer_with_a_certificate_needs_leave(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path], allowed: bool
    ) -> None:
        with node(hospital, sqlite_database, spool, peer=hospital.peer(clear_text=allowed)) as (running, _):
            done = run_storescu(running.port, images)

            assert (done.returncode == 0) is allowed
            wait_until(lambda: len(reasons(running)) == (0 if allowed else 1))

    @pytest.mark.parametrize(
        ("which", "reason"),
        [
            ("expired", "certificate not accepted: certificate has expired"),
            ("unknown", "certificate not accepted: unable to get local issuer certificate"),
        ],
    )
    def test_certificates_that_prove_nothing(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path], which: str, reason: str
    ) -> None:
        """F12. Its fingerprint is even on the list: the chain and the dates count first."""
        pair: Pair = getattr(hospital, which)
        with node(hospital, sqlite_database, spool, peer=hospital.peer(certificates=(pair.fingerprint,))) as (running, port):
            assert store_tls(port, images, pair, hospital.authority).returncode != 0

            wait_until(lambda: reasons(running) == [reason])
            assert running.events(EventKind.NODE_NOT_AUTHENTICATED)[0].address == "127.0.0.1"

    def test_a_revoked_certificate_is_shut_out_as_soon_as_the_list_says_so(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        """F12, and the list is read again without a restart."""
        pair = hospital.authority.issue("leaving.test")
        peer = hospital.peer(certificates=(pair.fingerprint,))
        with node(hospital, sqlite_database, spool, peer=peer, tls=hospital.tls(crl_file=hospital.crl)) as (running, port):
            assert store_tls(port, images, pair, hospital.authority).returncode == 0

            hospital.authority.revoke(pair)
            hospital.authority.revocation_list()

            assert store_tls(port, images, pair, hospital.authority).returncode != 0
            wait_until(lambda: reasons(running) == ["certificate not accepted: certificate revoked"])
            assert reasons(running, EventKind.CERTIFICATES_RELOADED) == ["certificate files were read again"]

    def test_no_certificate_at_all(self, hospital: Hospital, sqlite_database: Database, spool: Spool) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            s_client(port)

            wait_until(lambda: reasons(running) == ["peer did not return a certificate"])

    @pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
    def test_old_versions_are_not_spoken(self, hospital: Hospital, sqlite_database: Database, spool: Spool, version: str) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            said = s_client(port, version, "-cipher", "ALL@SECLEVEL=0", pair=hospital.modality)

            assert "alert protocol version" in said.stderr
            wait_until(lambda: reasons(running) == ["unsupported protocol"])

    @pytest.mark.parametrize("cipher", ["AES256-SHA256", "ECDHE-ECDSA-AES256-SHA384", "DHE-RSA-AES256-GCM-SHA384"])
    def test_only_ephemeral_keys_with_authenticated_encryption(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, cipher: str
    ) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            s_client(port, "-tls1_2", "-cipher", cipher, pair=hospital.modality)

            wait_until(lambda: reasons(running) == ["no shared cipher"])

    @pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
    def test_both_versions_of_the_profile(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, version: str, name: str
    ) -> None:
        with node(hospital, sqlite_database, spool) as (_, port):
            said = s_client(port, version, "-CAfile", str(hospital.authority.certificate), pair=hospital.modality)

            assert f"New, {name}" in said.stdout
            assert "Verify return code: 0 (ok)" in said.stdout

    @pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x01\x00\x00\x00\x00\xcd" + bytes(205)])
    def test_clear_text_on_the_tls_port(self, hospital: Hospital, sqlite_database: Database, spool: Spool, words: bytes) -> None:
        with node(hospital, sqlite_database, spool) as (running, port):
            with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
                connection.sendall(words)
                with suppress(ConnectionResetError):
                    while connection.recv(4096):  # an alert, then the end
                        continue

            wait_until(lambda: reasons(running) in (["http request"], ["wrong version number"]))

    def test_silent_handshakes_keep_nobody_out(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, images: list[Path]
    ) -> None:
        """F02 for TLS: 100 connections of which half says nothing and half the beginning of a hello."""
        with node(hospital, sqlite_database, spool) as (running, port):
            silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(100)]
            for one in silent[::2]:
                one.sendall(b"\x16\x03\x01\x02\x00\x01")

            done = store_tls(port, images, hospital.modality, hospital.authority)

            for one in silent:
                one.close()
            assert done.returncode == 0, done.stdout
            assert len(running.instances()) == 2


class TestDestinations:
    def test_a_server_of_another_authority_is_not_trusted(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool
    ) -> None:
        with node(hospital, sqlite_database, spool) as (_, port):
            wrong = destination(hospital, port, ca_file=hospital.unknown.certificate)
            error = scu.echo(wrong, CALLING)

            assert error is not None
            assert (error.code, error.permanent) == ("tls-failed", False)
            assert "certificate not accepted" in error.text

    def test_the_name_in_its_certificate_must_be_the_one_expected(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool
    ) -> None:
        with node(hospital, sqlite_database, spool) as (_, port):
            assert scu.echo(destination(hospital, port, tls_name="node.test"), CALLING) is None
            error = scu.echo(destination(hospital, port, tls_name="pacs.test"), CALLING)

            assert error is not None
            assert "certificate not accepted" in error.text

    def test_a_clear_port_behind_a_tls_destination_is_told(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool
    ) -> None:
        with node(hospital, sqlite_database, spool) as (running, _):
            error = scu.echo(destination(hospital, running.port), CALLING)

            assert error is not None
            assert error.code == "tls-failed"


class TestFiles:
    def test_a_renewed_certificate_is_shown_without_a_restart(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        mine = Pair(tmp_path / "node.pem", tmp_path / "node.key")
        _install(hospital.node, mine)
        tls = hospital.tls(certificate_file=mine.certificate, key_file=mine.key)
        with node(hospital, sqlite_database, spool, tls=tls) as (running, port):
            assert "CN = node.test" in s_client(port, pair=hospital.modality).stdout

            _install(hospital.other, mine)

            assert "CN = other.test" in s_client(port, pair=hospital.modality).stdout
            wait_until(lambda: reasons(running, EventKind.CERTIFICATES_RELOADED) == ["certificate files were read again"])

    def test_half_an_update_changes_nothing(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        """The new certificate is there, its key is not yet."""
        mine = Pair(tmp_path / "node.pem", tmp_path / "node.key")
        _install(hospital.node, mine)
        tls = hospital.tls(certificate_file=mine.certificate, key_file=mine.key)
        with node(hospital, sqlite_database, spool, tls=tls) as (running, port):
            shutil.copy(hospital.other.certificate, mine.certificate)

            assert "CN = node.test" in s_client(port, pair=hospital.modality).stdout
            wait_until(lambda: len(running.events(EventKind.CERTIFICATES_RELOADED)) == 1)
            event = running.events(EventKind.CERTIFICATES_RELOADED)[0]
            assert event.outcome == "serious failure"
            assert "key values mismatch" in event.detail["reason"]

    def test_files_that_do_not_fit_are_told_at_the_start(self, hospital: Hospital) -> None:
        with pytest.raises(TlsFilesError, match="key values mismatch"):
            server_context(hospital.tls(key_file=hospital.other.key))
        with pytest.raises(TlsFilesError, match="No such file"):
            server_context(hospital.tls(certificate_file=Path("/nowhere/node.pem")))

    def test_expiry_is_read_from_certificates_and_lists(self, hospital: Hospital) -> None:
        now = datetime.now(UTC)
        found = certificates.expiries(Settings(tls=hospital.tls(crl_file=hospital.crl)))

        assert [one.setting for one in found] == ["tls.certificate_file", "tls.ca_file", "tls.crl_file"]
        days = [one.days_left(now) for one in found]
        assert days == pytest.approx([20, 30, 30], abs=0.1)  # as `Authority` makes them
        assert certificates.first_expiry(hospital.expired.certificate) < now - timedelta(days=1)

    def test_what_expires_soon_is_told_once_a_day(self, hospital: Hospital, sqlite_database: Database) -> None:
        """The certificate has 20 days left, the authority 30."""
        settings = Settings(tls=hospital.tls(warn_days=25))
        now = datetime.now(UTC)

        told = [expiry.watch(settings, sqlite_database, at=now + timedelta(hours=hours)) for hours in (0, 5, 23, 25)]

        assert told == [1, 0, 0, 1]
        with sqlite_database.read() as session:
            events = session.scalars(select(Event).where(Event.kind == EventKind.CERTIFICATE_EXPIRING)).all()
        assert events[0].detail["file"] == "tls.certificate_file"
        assert events[0].detail["reason"].startswith("expires in 20 days")
        assert expiry.watch(Settings(tls=hospital.tls(warn_days=5)), sqlite_database, at=now) == 0

    def test_the_page_and_the_metrics_say_when(
        self, hospital: Hospital, sqlite_database: Database, spool: Spool, tmp_path: Path
    ) -> None:
        expired = Settings(
            storage=Storage(spool=spool.root),
            tls=hospital.tls(certificate_file=hospital.expired.certificate, key_file=hospital.expired.key),
        )

        found = {check.name: check for check in readiness(expired, sqlite_database, spool).checks}
        text = exposition(expired, sqlite_database)[0].decode()

        assert not found["tls.certificate_file"].ok
        assert found["tls.certificate_file"].text.startswith("expired on")
        assert found["tls.ca_file"].ok
        assert 'fovea_certificate_expires_timestamp_seconds{file="tls.certificate_file"}' in text

    def test_a_file_without_certificate_is_named(self, hospital: Hospital, tmp_path: Path) -> None:
        empty = tmp_path / "empty.pem"
        empty.touch()
        with pytest.raises(certificates.NoCertificate, match=r"empty\.pem: holds no certificate"):
            certificates.first_expiry(empty)

    def test_settings_want_all_three_files(self, tmp_path: Path) -> None:
        page = tmp_path / "fovea.toml"
        page.write_text('[tls]\ncertificate_file = "node.pem"\n', encoding="utf-8")

        with pytest.raises(SettingsError, match=r"tls: .*key_file, ca_file required"):
            load_settings(page)

    def test_by_default_there_is_no_tls_port(self) -> None:
        assert not Settings().tls.is_open


def _install(pair: Pair, where: Pair) -> None:
    """As an administrator's tool does it: new files, renamed into place."""
    for source, target in ((pair.certificate, where.certificate), (pair.key, where.key)):
        draft = target.with_suffix(".new")
        shutil.copy(source, draft)
        draft.replace(target)


@pytest.mark.feature("R4")
def test_a_flood_of_strangers_is_one_alert(hospital: Hospital, sqlite_database: Database, spool: Spool) -> None:
    with node(hospital, sqlite_database, spool, alerts=Alerts(per_minute=3)) as (running, port):
        for _ in range(8):
            s_client(port)

        wait_until(lambda: len(running.events(EventKind.SECURITY_ALERT)) == 1)
        wait_until(lambda: len(reasons(running)) == 2)
        alert = running.events(EventKind.SECURITY_ALERT)[0]
        assert (alert.address, alert.detail["reason"]) == ("127.0.0.1", "TLS handshake failed")


def test_several_listeners_share_the_tls_port(hospital: Hospital, sqlite_url: str, tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as clear, bind("127.0.0.1", 0) as secure, ExitStack() as stack:
        port, tls_port = (int(bound.getsockname()[1]) for bound in (clear, secure))
        settings = Settings(
            node=Node(ae_title=CALLED, port=port),
            peers=(hospital.peer(),),
            storage=Storage(spool=tmp_path / "spool", database_url=sqlite_url),
            receive=Receive(listeners=2),
            tls=hospital.tls(),
        )
        for number in range(2):
            place = Place(number, 2, socket.dup(clear.fileno()), socket.dup(secure.fileno()))
            listener = Listener(settings, Database(sqlite_url), Spool(tmp_path / "spool", 0), place=place)
            assert listener.start() == port
            stack.callback(listener.stop)
            assert listener.tls_port == tls_port

        for study in ("one", "two", "three"):
            images = studies.series(Plan(slices=2, rows=16, columns=16, study=study))
            assert {sent.status for sent in send_datasets(destination(hospital, tls_port), CALLING, images)} == {"0x0000"}
