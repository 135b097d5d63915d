"""Files that lie ready: each is taken once, keeps what was written, and goes where nobody used it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database
from storage.ready import AT_ONCE, ReadyFiles
from storage.reception import reconcile
from storage.spool import Area, Spool, SpoolError
from tests.waiting import wait_until

pytestmark = pytest.mark.feature("R6")


@pytest.fixture
def ready(spool: Spool) -> Iterator[ReadyFiles]:
    files = ReadyFiles(spool, Area.INSTANCES)
    files.start()
    yield files
    files.stop()


def test_each_thread_gets_files_of_its_own_and_what_it_wrote_stays(spool: Spool, ready: ReadyFiles) -> None:
    kept: dict[str, bytes] = {}

    def take(number: int) -> None:
        for count in range(AT_ONCE):
            file = ready.take()
            content = f"{number} {count}".encode()
            file.write(content)
            file.sync()
            file.close()
            kept[file.relative] = content

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ready.stop()

    assert len(kept) == 4 * AT_ONCE
    assert {path: spool.path(path).read_bytes() for path in spool.files(Area.INSTANCES)} == kept


def test_some_are_made_before_anybody_asks_and_none_is_left_at_the_end(spool: Spool) -> None:
    files = ReadyFiles(spool, Area.INSTANCES)
    files.start()
    wait_until("files lie ready", lambda: len(list(spool.files(Area.INSTANCES))) > AT_ONCE, 20)
    files.take().discard()

    files.stop()

    assert list(spool.files(Area.INSTANCES)) == []


def test_where_none_can_be_made_whoever_takes_one_is_told(spool: Spool) -> None:
    files = ReadyFiles(spool, Area.INSTANCES)
    (spool.root / Area.INSTANCES).rmdir()

    with pytest.raises(SpoolError, match="No such file"):
        files.take()

    (spool.root / Area.INSTANCES).mkdir()
    files.take().discard()
    assert len(list(spool.files(Area.INSTANCES))) == AT_ONCE - 1


def test_one_that_somebody_removed_meanwhile_is_not_taken_for_a_kept_one(spool: Spool, ready: ReadyFiles) -> None:
    file = ready.take()
    file.write(b"bytes")
    file.check_there()
    file.path.unlink()

    with pytest.raises(SpoolError, match="removed"):
        file.check_there()
    file.close()


def test_those_of_the_dead_go_and_those_of_the_living_stay(spool: Spool, database: Database, ready: ReadyFiles) -> None:
    script = """
import os, sys
from pathlib import Path
from storage.ready import ReadyFiles
from storage.spool import Area, Spool
ReadyFiles(Spool(Path(sys.argv[1]), 0), Area.INSTANCES).take()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, spool.root], cwd=Path(__file__).parents[2])
    living = ready.take()
    wait_until("all files are made", lambda: len(list(spool.files(Area.INSTANCES))) >= 3 * AT_ONCE, 20)
    living.write(b"half")

    with database.read() as session:
        found = reconcile(session, spool, grace_s=0)

    assert found.removed == AT_ONCE
    assert living.path.read_bytes() == b"half"
