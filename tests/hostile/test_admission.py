"""F07 to F13: who may open an association, and what is told to those who may not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pynetdicom.sop_class import ModalityWorklistInformationFind

from dicom_node.settings import Peer, Receive, ReceivePath
from storage.database import Database
from storage.events import EventKind, EventOutcome
from storage.spool import Spool
from tests.hostile.listener import Listening, small
from tests.network import CALLING, EXPLICIT, IMPLICIT, MR, RELEASE_RQ, VERIFICATION, Wire, store_command
from tests.network import listening as listening_here
from tests.studies import encoded
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R2", "S1")

REJECT = 3
NO_DECODER = "1.2.840.10008.1.2.4.100"  # MPEG-2


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
        wait_until("the alert is written", lambda: strict.events(EventKind.ASSOCIATION_REFUSED), 10)
        (event,) = strict.events(EventKind.ASSOCIATION_REFUSED)

    assert "not from this address" in event.detail["reason"]
    assert (event.peer, event.address) == (CALLING, "127.0.0.1")


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
