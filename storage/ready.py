"""Files that lie ready in the spool: empty, open, and under names that are on the disk already.

A new file's name costs a sync of its folder. Made some dozens at a time in one folder, they share that sync, and whoever receives
an object has only its bytes to sync. A file that is not used is removed; one that a killed process left is a file without a
row, which `storage.reconcile` removes.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque

from storage.spool import Area, NoRoom, Spool, SpoolError, SpoolFile, sync_folder

AT_ONCE = 32
"""Files made together."""


class ReadyFiles:
    """Ready files of one area, used by many threads and made by one more."""

    def __init__(self, spool: Spool, area: Area) -> None:
        self._spool = spool
        self._area = area
        self._ready: deque[SpoolFile] = deque()
        self._is_low = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._keep_up, name="ready files", daemon=True)

    def start(self) -> None:
        """Start the thread, which makes the first ones at once."""
        self._is_low.set()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove what was not used."""
        self._is_stopping = True
        self._is_low.set()
        self._thread.join()
        while self._ready:
            self._ready.pop().discard()

    def take(self) -> SpoolFile:
        """An empty file for the caller alone, whose name is on the disk. Raises NoRoom, SpoolError."""
        self._spool.check_writable()
        if len(self._ready) <= AT_ONCE and not self._is_low.is_set():
            self._is_low.set()
        while True:
            try:
                return self._ready.popleft()
            except IndexError:
                self._make()

    def _make(self) -> None:
        folder = secrets.token_hex(1)
        self._spool.make_folder(self._area, folder)
        made: list[SpoolFile] = []
        try:
            for _ in range(AT_ONCE):
                name = f"{folder}{secrets.token_hex(31)}-{secrets.token_hex(8)}"
                made.append(SpoolFile(self._spool, f"{self._area}/{folder}/{name}"))
            sync_folder(self._spool.root / self._area / folder)
        except BaseException:
            for file in made:
                file.discard()
            raise
        self._ready.extend(made)

    def _keep_up(self) -> None:
        while True:
            self._is_low.wait()
            self._is_low.clear()  # before the look at what `stop` said first
            if self._is_stopping:
                return
            try:
                while len(self._ready) <= AT_ONCE:
                    self._make()
            except (NoRoom, SpoolError):
                continue  # who takes one makes it, and is told
