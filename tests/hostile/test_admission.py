"""F07 to F13: who may open an association, and what is told to those who may not."""

from __future__ import annotations

import ssl
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.sop_class import ModalityWorklistInformationFind

from dicom_node.settings import Peer, Receive, ReceivePath
from dicom_node.settings_doors import Tls
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.models import Association
from storage.spool import Spool
from tests.authority import Authority, Pair
from tests.hostile.listener import Listening, send_over, small
from tests.network import CALLING, EXPLICIT, IMPLICIT, MR, RELEASE_RQ, VERIFICATION, Running, Wire, store_command
from tests.network import listening as listening_here
from tests.studies import encoded
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R2", "S1")

REJECT = 3
NO_DECODER = "1.2.840.10008.1.2.4.100"  # MPEG-2


@dataclass(frozen=True, slots=True)
class Hospital:
    """An authority, what it gave out, and an authority that nobody knows."""

    authority: Authority
    node: Pair
    modality: Pair
    other: Pair
    expired: Pair
    revoked: Pair
    unknown: Pair
    crl: Path

    def tls(self) -> Tls:
        """The TLS port's settings."""
        return Tls(
            port=0, certificate_file=self.node.certificate, key_file=self.node.key, ca_file=self.authority.certificate,
            crl_file=self.crl, handshake_timeout_s=3,
        )  # fmt: skip


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Made with the openssl command."""
    authority = Authority(tmp_path_factory.mktemp("authority") / "ours").start()
    stranger = Authority(tmp_path_factory.mktemp("stranger") / "theirs", "Nobody's authority").start()
    names = {one: authority.issue(f"{one}.test") for one in ("node", "modality", "other", "revoked")}
    authority.revoke(names["revoked"])
    expired = authority.issue("expired.test", starts_in_days=-9, ends_in_days=-2)
    unknown = stranger.issue("modality.test")
    return Hospital(authority, **names, expired=expired, unknown=unknown, crl=authority.revocation_list())


@contextmanager
def over_tls(strict: Running, hospital: Hospital, pair: Pair | None, *, oldest: bool = False) -> Iterator[Wire]:
    """A connection to the TLS port that shows the pair; after a handshake that failed it is shut, and receives nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(hospital.authority.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    if oldest:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert strict.listener.tls_port is not None
    with Spoken(strict.listener.tls_port) as wire:
        with suppress(ssl.SSLError, ConnectionError):
            wire.socket = context.wrap_socket(wire.socket, server_hostname="node.test")
        yield wire


class Spoken(Wire):
    """A connection on which a failure of the channel is the same as its end."""

    def associate(self, *arguments: Any, **changes: Any) -> tuple[int, bytes]:
        """The answer, or (0, nothing) where the channel ended."""
        try:
            return super().associate(*arguments, **changes)
        except (OSError, ValueError):
            return 0, b""


def rejection(answer: tuple[int, bytes]) -> tuple[int, ...]:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    kind, content = answer
    assert kind == REJECT, f"PDU type {kind} instead of A-ASSOCIATE-RJ"
    return tuple(content[1:4])


def test_f07_calling_title_that_is_not_listed_is_rejected_with_an_alert(node: Listening) -> None:
    mark = node.mark()
    with Wire(node.port) as wire:
        assert rejection(wire.associate(calling="STRANGER")) == (1, 1, 3)

    event = node.await_event(mark, EventKind.ASSOCIATION_REFUSED)
    assert (event.peer, event.address, event.outcome) == ("STRANGER", "127.0.0.1", EventOutcome.MINOR_FAILURE)
    assert "calling AE title" in event.detail["reason"]


def test_f07_an_empty_list_is_nobody(sqlite_database: Database, spool: Spool, receive_path: ReceivePath) -> None:
    with listening_here(sqlite_database, spool, path=receive_path, peers=()) as closed, Wire(closed.port) as wire:
        assert rejection(wire.associate()) == (1, 1, 3)


def test_f08_wrong_called_title_is_rejected(node: Listening) -> None:
    mark = node.mark()
    with Wire(node.port) as wire:
        assert rejection(wire.associate(called="SOMEBODY")) == (1, 1, 7)

    assert node.await_event(mark, EventKind.ASSOCIATION_REFUSED).detail["called"] == "SOMEBODY"


def test_f09_known_title_from_another_address_is_rejected_with_an_alert(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath
) -> None:
    elsewhere = [Peer(ae_title=CALLING, addresses=("10.1.2.0/24", "2001:db8::/32"))]
    with listening_here(sqlite_database, spool, path=receive_path, peers=elsewhere) as strict:
        with Wire(strict.port) as wire:
            assert rejection(wire.associate()) == (1, 1, 3)
        wait_until("the alert is written", lambda: strict.events(EventKind.NODE_NOT_AUTHENTICATED), 10)
        (refusal,) = strict.events(EventKind.ASSOCIATION_REFUSED)
        (alert,) = strict.events(EventKind.NODE_NOT_AUTHENTICATED)

    assert "not from this address" in refusal.detail["reason"]
    assert (alert.peer, alert.address, alert.outcome) == (CALLING, "127.0.0.1", EventOutcome.SERIOUS_FAILURE)


@pytest.mark.feature("R3")
@pytest.mark.parametrize("showing", ["another's certificate", "no TLS"])
def test_f09_known_title_without_its_certificate_is_rejected_with_an_alert(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath, hospital: Hospital, showing: str
) -> None:
    bound = [Peer(ae_title=CALLING, addresses=("127.0.0.1",), certificates=(hospital.modality.fingerprint,))]
    with listening_here(sqlite_database, spool, path=receive_path, peers=bound, tls=hospital.tls()) as strict:
        if showing == "no TLS":
            with Wire(strict.port) as wire:
                answer = wire.associate()
        else:
            with over_tls(strict, hospital, hospital.other) as wire:
                answer = wire.associate()
        wait_until("the alert is written", lambda: strict.events(EventKind.NODE_NOT_AUTHENTICATED), 10)

    assert rejection(answer) == (1, 1, 3)


@pytest.mark.feature("R3")
def test_f12_bound_certificate_is_let_in(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath, hospital: Hospital
) -> None:
    bound = [Peer(ae_title=CALLING, addresses=("127.0.0.1",), certificates=(hospital.modality.fingerprint,))]
    with listening_here(sqlite_database, spool, path=receive_path, peers=bound, tls=hospital.tls()) as strict:
        with over_tls(strict, hospital, hospital.modality) as wire:
            assert send_over(wire, small("F12")[0]) == 0x0000


@pytest.mark.feature("R3")
@pytest.mark.parametrize("showing", ["expired", "unknown authority", "revoked", "no certificate", "TLS 1.1", "clear text"])
def test_f12_handshake_that_proves_nothing_fails_with_an_alert_and_without_fallback(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath, hospital: Hospital, showing: str
) -> None:
    bound = [Peer(ae_title=CALLING, addresses=("127.0.0.1",), certificates=(hospital.modality.fingerprint,))]
    shown = {"expired": hospital.expired, "unknown authority": hospital.unknown, "revoked": hospital.revoked}
    with listening_here(sqlite_database, spool, path=receive_path, peers=bound, tls=hospital.tls()) as strict:
        assert strict.listener.tls_port is not None
        if showing == "clear text":
            with Wire(strict.listener.tls_port) as wire:
                answer = wire.associate()
        else:
            pair = shown.get(showing, None if showing == "no certificate" else hospital.modality)
            with over_tls(strict, hospital, pair, oldest=showing == "TLS 1.1") as wire:
                answer = wire.associate()
        wait_until("the alert is written", lambda: strict.events(EventKind.NODE_NOT_AUTHENTICATED), 10)

        assert answer[0] not in (2, 3), "an association was negotiated with a node that proved nothing"
        assert strict.rows(Association) == []


@pytest.mark.feature("R4")
@pytest.mark.parametrize("limit", ["maximum_associations", "maximum_associations_per_peer"])
def test_f10_association_limit_is_a_local_limit_and_passes(
    sqlite_database: Database, spool: Spool, receive_path: ReceivePath, limit: str
) -> None:
    receive = Receive.model_validate({limit: 2, "acse_timeout_s": 3})
    with listening_here(sqlite_database, spool, path=receive_path, receive=receive) as narrow:
        with Wire(narrow.port) as first, Wire(narrow.port) as second, Wire(narrow.port) as third:
            assert [first.associate()[0], second.associate()[0]] == [2, 2]
            assert rejection(third.associate()) == (2, 3, 2)
            first.send(RELEASE_RQ)
            assert first.receive()[0] == 6
            wait_until("a place is free", lambda: narrow.listener.associations == 1, 10)
            with Wire(narrow.port) as fourth:
                assert fourth.associate()[0] == 2


@pytest.mark.feature("R7")
def test_f11_disk_below_its_reserve_is_a_temporary_congestion(
    sqlite_database: Database, tmp_path: Path, receive_path: ReceivePath
) -> None:
    full = Spool(tmp_path / "full", 2**60)

    with listening_here(sqlite_database, full, path=receive_path) as congested, Wire(congested.port) as wire:
        assert rejection(wire.associate()) == (2, 3, 1)


def test_f13_class_or_syntax_that_is_not_supported_costs_its_context_only(node: Listening) -> None:
    (image, *_) = small(f"F13 {node.receive_path}")
    contexts = [
        (str(ModalityWorklistInformationFind), (IMPLICIT,)),
        (MR, (NO_DECODER,)),
        (MR, (EXPLICIT, IMPLICIT)),
        (VERIFICATION, (IMPLICIT,)),
    ]
    with Wire(node.port) as wire:
        kind, content = wire.associate(contexts)
        wire.store(store_command(str(image.SOPInstanceUID)), encoded(image), context_id=5)

        assert kind == 2
        assert context_results(content) == {1: 3, 3: 4, 5: 0, 7: 0}
        assert wire.status() == 0x0000


def context_results(content: bytes) -> dict[int, int]:
    """Result by presentation context ID in an A-ASSOCIATE-AC (PS3.8 table 9-18)."""
    found = {}
    position = 68
    while position < len(content):
        kind, length = struct.unpack_from(">BxH", content, position)
        if kind == 0x21:
            found[content[position + 4]] = content[position + 6]
        position += 4 + length
    return found
