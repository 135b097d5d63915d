"""Threads that sync folders: as many as are needed at once, each failure told to who asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dicom_node.folders import FolderSyncs
from storage.spool import SpoolError

pytestmark = pytest.mark.feature("R6")


def test_folders_are_synced_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    syncs = FolderSyncs(4)

    done = [syncs.sync(str(tmp_path)) for _ in range(20)]
    missing = syncs.sync(str(tmp_path / "missing"))
    syncs.stop()

    assert [one.result(20) for one in done] == [None] * 20
    with pytest.raises(SpoolError, match="No such file"):
        missing.result(20)


def test_one_after_the_other_needs_one_thread_and_many_never_more_than_the_limit(tmp_path: Path) -> None:
    def running() -> int:
        return sum(thread.name.startswith("folder sync") and thread.is_alive() for thread in threading.enumerate())

    syncs = FolderSyncs(3)
    before = running()
    syncs.sync(str(tmp_path)).result(20)
    assert running() == before + 1

    for one in [syncs.sync(str(tmp_path)) for _ in range(50)]:
        one.result(20)
    assert before + 1 <= running() <= before + 3

    syncs.stop()
    assert running() == before
