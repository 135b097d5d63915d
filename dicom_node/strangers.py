"""Who knocked and was not let in: what of it becomes an audit row, and when it is an alert.

A refusal is one row until an address has had `alerts.per_minute` of them within a minute; that one is a security alert, and the
rest of the minute is only counted and told in one closing row. All addresses together write at most `alerts.rows_per_minute`
rows. Nothing here grows with the number of strangers.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address, ip_network

from sqlalchemy.orm import Session

from dicom_node.settings_doors import Alerts
from storage.events import EventKind, EventOutcome, append

WINDOW_S = 60.0
ADDRESSES_REMEMBERED = 1024


class Intrusion(StrEnum):
    """What a stranger did."""

    REFUSED = "association refused"
    UNREADABLE = "no DICOM"
    """Bytes that are no DICOM upper layer PDU, on the clear port."""
    NOT_AUTHENTICATED = "TLS handshake failed"
    SILENT = "nothing said"


class Told(StrEnum):
    """What becomes of one intrusion."""

    ROW = "row"
    ALERT = "alert"
    COUNTED = "counted"


@dataclass(slots=True)
class _Window:
    since: float
    count: int = 0
    kinds: set[Intrusion] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Closed:
    """A minute of one address that raised an alert, with all that it counted."""

    address: str
    count: int
    kinds: tuple[str, ...]


class Strangers:
    """Counts intrusions by address in windows of a minute; safe to be called from any thread."""

    def __init__(self, settings: Alerts, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._probes = tuple(ip_network(one, strict=False) for one in settings.probes)
        self._now = now
        self._lock = threading.Lock()
        self._by_address: OrderedDict[str, _Window] = OrderedDict()
        self._closed: list[Closed] = []
        self._rows_since, self._rows = now(), 0
        self.unwritten = 0
        """Rows that the common limit kept from being written since the last `closed`."""

    def is_probe(self, address: str) -> bool:
        """True for a configured monitoring probe."""
        try:
            source = ip_address(address)
        except ValueError:
            return False
        return any(source in network for network in self._probes)

    def note(self, address: str, what: Intrusion) -> Told:
        """Count one intrusion; what is to be written of it."""
        with self._lock:
            window = self._window(address)
            window.count += 1
            window.kinds.add(what)
            if window.count == self._settings.per_minute:
                return Told.ALERT if self._may_write() else Told.COUNTED
            if window.count > self._settings.per_minute or what in (Intrusion.UNREADABLE, Intrusion.SILENT):
                return Told.COUNTED
            return Told.ROW if self._may_write() else Told.COUNTED

    def may_repeat(self, address: str) -> bool:
        """True where a known peer that is turned away for a while (limits, no room) gets one more row in this minute."""
        with self._lock:
            window = self._window(f"{address} turned away")
            window.count += 1
            return window.count <= self._settings.per_minute and self._may_write()

    def closed(self) -> list[Closed]:
        """The alerts' minutes that are over now, each told once."""
        with self._lock:
            over = [one for one, window in self._by_address.items() if self._is_over(window)]
            for address in over:
                self._close(address, self._by_address.pop(address))
            told, self._closed = self._closed, []
            return told

    def _window(self, address: str) -> _Window:
        window = self._by_address.pop(address, None)
        if window is not None and self._is_over(window):
            self._close(address, window)
            window = None
        self._by_address[address] = window = window or _Window(self._now())
        if len(self._by_address) > ADDRESSES_REMEMBERED:
            self._close(*self._by_address.popitem(last=False))
        return window

    def _is_over(self, window: _Window) -> bool:
        return self._now() - window.since >= WINDOW_S

    def _close(self, address: str, window: _Window) -> None:
        if window.kinds and window.count > self._settings.per_minute and len(self._closed) < ADDRESSES_REMEMBERED:
            self._closed.append(Closed(address, window.count, tuple(sorted(window.kinds))))

    def _may_write(self) -> bool:
        if self._now() - self._rows_since >= WINDOW_S:
            self._rows_since, self._rows = self._now(), 0
        self._rows += 1
        if self._rows > self._settings.rows_per_minute:
            self.unwritten += 1
            return False
        return True


def write_alert(session: Session, *, address: str, what: Intrusion, per_minute: int, peer: str | None, at: datetime) -> None:
    """The security alert (PS3.15 A.5.3.11) that an address is knocking too often."""
    detail = {"reason": what.value, "refused within a minute": per_minute}
    append(
        session, EventKind.SECURITY_ALERT, at=at, outcome=EventOutcome.SERIOUS_FAILURE, peer=peer, address=address, detail=detail
    )


def write_closed(session: Session, closed: Iterable[Closed], unwritten: int, *, at: datetime) -> None:
    """What the alerts of the last minutes came to; rows that the common limit swallowed are told as a number."""
    for one in closed:
        detail = {"reason": ", ".join(one.kinds), "refused in all": one.count}
        append(session, EventKind.SECURITY_ALERT, at=at, outcome=EventOutcome.SERIOUS_FAILURE, address=one.address, detail=detail)
    if unwritten:
        detail = {"reason": "more strangers than alerts.rows_per_minute", "not written": unwritten}
        append(session, EventKind.SECURITY_ALERT, at=at, outcome=EventOutcome.SERIOUS_FAILURE, detail=detail)


def write_not_authenticated(session: Session, *, address: str, reason: str, peer: str | None, at: datetime) -> None:
    """A node that did not prove who it is (PS3.15 A.5.3.11, Node Authentication 110126)."""
    append(
        session, EventKind.NODE_NOT_AUTHENTICATED, at=at, outcome=EventOutcome.SERIOUS_FAILURE, peer=peer, address=address,
        detail={"reason": reason},
    )  # fmt: skip
