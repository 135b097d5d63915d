"""Refused strangers: rows at first, one alert, then only a number."""

from __future__ import annotations

import pytest

from dicom_node.settings_doors import Alerts
from dicom_node.strangers import ADDRESSES_REMEMBERED, Closed, Intrusion, Strangers, Told

pytestmark = pytest.mark.feature("R4")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def notes(strangers: Strangers, count: int, what: Intrusion = Intrusion.REFUSED, address: str = "10.0.0.1") -> list[str]:
    return [strangers.note(address, what).value for _ in range(count)]


def test_rows_then_an_alert_then_silence() -> None:
    strangers = Strangers(Alerts(per_minute=3), Clock())

    assert notes(strangers, 6) == ["row", "row", "alert", "counted", "counted", "counted"]


def test_the_minute_closes_with_what_it_counted() -> None:
    clock = Clock()
    strangers = Strangers(Alerts(per_minute=3), clock)
    notes(strangers, 500)
    assert strangers.closed() == []

    clock.seconds = 60.0

    assert strangers.closed() == [Closed("10.0.0.1", 500, (Intrusion.REFUSED.value,))]
    assert strangers.closed() == []
    assert notes(strangers, 1) == ["row"]


def test_a_minute_is_also_closed_by_the_next_refusal() -> None:
    clock = Clock()
    strangers = Strangers(Alerts(per_minute=3), clock)
    notes(strangers, 4)
    clock.seconds = 61.0
    notes(strangers, 1)

    assert [one.count for one in strangers.closed()] == [4]


@pytest.mark.parametrize("what", [Intrusion.UNREADABLE, Intrusion.SILENT])
def test_empty_or_unreadable_connections_are_no_rows(what: Intrusion) -> None:
    """F01, F04: they are counted, and many of them are an alert."""
    strangers = Strangers(Alerts(per_minute=3), Clock())

    assert notes(strangers, 4, what) == ["counted", "counted", "alert", "counted"]


def test_many_addresses_together_are_bounded_in_rows_and_memory() -> None:
    clock = Clock()
    strangers = Strangers(Alerts(per_minute=3, rows_per_minute=20), clock)

    told = [strangers.note(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", Intrusion.REFUSED) for n in range(5000)]

    assert told.count(Told.ROW) == 20
    assert strangers.unwritten == 4980
    assert len(strangers._by_address) == ADDRESSES_REMEMBERED
    clock.seconds = 60.0
    assert strangers.note("10.0.0.1", Intrusion.REFUSED) is Told.ROW


def test_a_peer_turned_away_for_a_while_is_never_an_alert() -> None:
    """F10, F11: it does nothing wrong; it only gets no more than so many rows a minute."""
    clock = Clock()
    strangers = Strangers(Alerts(per_minute=3), clock)

    assert [strangers.may_repeat("10.0.0.1") for _ in range(5)] == [True, True, True, False, False]
    assert notes(strangers, 1) == ["row"]
    clock.seconds = 60.0
    assert strangers.closed() == []


def test_probes_are_known_by_their_address() -> None:
    strangers = Strangers(Alerts(probes=("10.9.0.0/16",)))

    assert strangers.is_probe("10.9.1.2")
    assert not strangers.is_probe("10.8.1.2")
    assert not strangers.is_probe("nonsense")
