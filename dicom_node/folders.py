"""Threads that sync folders while the threads that ask for it sync the files in them.

A file's own sync need not hold its name (fsync(2)). As many threads as ever were needed at once; each waits for the next folder.
"""

from __future__ import annotations

import queue
import threading
from collections import deque

from dicom_node.promise import Promise
from storage.spool import sync_folder


class FolderSyncs:
    """Syncs folders for others, up to `maximum` at once."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._asked: queue.SimpleQueue[tuple[str, Promise[None]] | None] = queue.SimpleQueue()
        self._idle: deque[None] = deque()
        """One entry for each thread that has nothing to do."""
        self._threads: list[threading.Thread] = []

    def sync(self, folder: str) -> Promise[None]:
        """Have the folder's entries on the disk soon; the promise fails with NoRoom or SpoolError."""
        done: Promise[None] = Promise()
        try:
            self._idle.pop()
        except IndexError:
            self._start_another()
        self._asked.put((folder, done))
        return done

    def stop(self) -> None:
        """Finish what was asked for and end the threads."""
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join()

    def _start_another(self) -> None:
        if len(self._threads) < self._maximum:
            thread = threading.Thread(target=self._run, name=f"folder sync {len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            folder, done = asked
            try:
                sync_folder(folder)
            except Exception as error:  # the loop's rim: whoever asked is told
                done.fail(error)
            else:
                done.tell(None)
            self._idle.append(None)
