"""Who may open an association."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.admission import (
    ADDRESS_UNKNOWN,
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    CERTIFICATE_UNKNOWN,
    CLEAR_TEXT,
    Admission,
    Admitted,
    Caller,
)
from dicom_node.settings import Destination, Node, Peer, Settings
from dicom_node.tls import PeerCertificate

pytestmark = pytest.mark.feature("R2")
MINE, OTHERS = "ab" * 32, "cd" * 32
PEERS = (
    Peer(ae_title="MODALITY", addresses=("10.1.2.0/24",)),
    Peer(ae_title="PACS", addresses=("192.168.1.5", "fd00::/8")),
    Peer(ae_title="SECURE", addresses=("10.1.2.0/24",), certificates=(":".join([MINE[:2]] * 32).upper(),)),
    Peer(ae_title="EITHER", addresses=("10.1.2.0/24",), certificate_names=("ct.test",), clear_text=True),
)
FREELY, REPORTS = Admitted(reports_only=False), Admitted(reports_only=True)


def admission(peers: tuple[Peer, ...] = PEERS, **destination: Any) -> Admission:
    values = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 104, "proof": "commitment", **destination}
    return Admission(Settings(node=Node(ae_title="FOVEA"), peers=peers, destinations=(Destination(**values),)))


def caller(calling: str, address: str, fingerprint: str = "", names: tuple[str, ...] = ()) -> Caller:
    certificate = PeerCertificate(fingerprint, frozenset(names)) if fingerprint else None
    return Caller(calling, "FOVEA", address, certificate)


@pytest.mark.parametrize(
    ("title", "address", "verdict"),
    [
        ("MODALITY", "10.1.2.77", FREELY),
        ("MODALITY", "::ffff:10.1.2.77", FREELY),
        ("MODALITY", "10.1.3.77", ADDRESS_UNKNOWN),
        ("MODALITY", "192.168.1.5", ADDRESS_UNKNOWN),
        ("modality", "10.1.2.77", CALLING_UNKNOWN),
        ("PACS", "192.168.1.5", FREELY),
        ("PACS", "fd00::1", FREELY),
        ("PACS", "no address", ADDRESS_UNKNOWN),
        ("", "10.1.2.77", CALLING_UNKNOWN),
    ],
)
def test_title_and_address_must_both_be_known(title: str, address: str, verdict: object) -> None:
    assert admission().judge(caller(title, address)) == verdict


def test_no_peers_means_nobody() -> None:
    assert admission(()).judge(caller("MODALITY", "10.1.2.77")) == CALLING_UNKNOWN


def test_another_called_title_is_told_first() -> None:
    assert admission().judge(Caller("NOBODY", "OTHER", "10.1.2.77", None)) == CALLED_UNKNOWN


@pytest.mark.parametrize(
    ("title", "fingerprint", "names", "verdict"),
    [
        ("SECURE", "ab" * 32, (), FREELY),
        ("SECURE", OTHERS, ("secure", "modality"), CERTIFICATE_UNKNOWN),
        ("SECURE", "", (), CLEAR_TEXT),
        ("EITHER", OTHERS, ("ct.test",), FREELY),
        ("EITHER", OTHERS, ("ct.test.evil",), CERTIFICATE_UNKNOWN),
        ("EITHER", "", (), FREELY),
        ("MODALITY", MINE, ("ct.test",), CERTIFICATE_UNKNOWN),
    ],
)
def test_a_certificate_belongs_to_one_title(title: str, fingerprint: str, names: tuple[str, ...], verdict: object) -> None:
    assert admission().judge(caller(title, "10.1.2.3", fingerprint, names)) == verdict


@pytest.mark.feature("V2")
class TestReporters:
    def test_a_destination_may_report_from_its_own_host_and_nothing_else(self) -> None:
        assert admission().judge(caller("ARCHIVE", "127.0.0.1")) == REPORTS

    def test_not_from_elsewhere(self) -> None:
        assert admission().judge(caller("ARCHIVE", "10.1.2.3")) == ADDRESS_UNKNOWN

    def test_not_where_commitment_is_not_asked_for(self) -> None:
        assert admission(proof="query").judge(caller("ARCHIVE", "127.0.0.1")) == CALLING_UNKNOWN

    @pytest.mark.parametrize(("names", "verdict"), [(("archive.test",), REPORTS), (("other.test",), ADDRESS_UNKNOWN)])
    def test_one_that_is_called_over_tls_reports_over_tls(self, names: tuple[str, ...], verdict: object) -> None:
        over_tls = admission(tls=True, tls_name="Archive.test")

        assert over_tls.judge(caller("ARCHIVE", "127.0.0.1", MINE, names)) == verdict
        assert over_tls.judge(caller("ARCHIVE", "127.0.0.1")) == ADDRESS_UNKNOWN

    def test_a_host_name_that_nobody_knows_admits_nobody(self) -> None:
        assert admission(host="archive.invalid").judge(caller("ARCHIVE", "127.0.0.1")) == ADDRESS_UNKNOWN
