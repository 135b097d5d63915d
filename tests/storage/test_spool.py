"""The spool: what is kept is on disk, nobody outside chooses a name, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.spool import Area, NoRoom, Spool, SpoolError
from tests.postgres import peer_missing

pytestmark = pytest.mark.feature("R6")


def modes(folder: Path) -> set[str]:
    return {oct(stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")]}


def test_kept_file_has_its_bytes_and_a_name_from_a_hash(spool: Spool) -> None:
    with spool.new_file() as file:
        file.write(b"abc")
        file.write(memoryview(b"defg")[:3])
        size = file.size
        relative = file.keep(Area.INSTANCES, "../../etc/passwd\x00")

    assert size == 6
    assert re.fullmatch(r"instances/([0-9a-f]{2})/\1[0-9a-f]{62}-[0-9a-f]{16}", relative)
    assert spool.path(relative).read_bytes() == b"abcdef"


def test_two_receipts_of_one_key_are_two_files(spool: Spool) -> None:
    first, second = spool.write(Area.INSTANCES, "1.2", b"1"), spool.write(Area.INSTANCES, "1.2", b"2")

    assert spool.path(first).read_bytes() == b"1"
    assert spool.path(second).read_bytes() == b"2"
    assert sorted(spool.files(Area.INSTANCES)) == sorted([first, second])


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool(tmp_path / "spool", 0)
        spool.write(Area.RESULTS, "1.2", b"x")
        abandoned = spool.new_file()
    finally:
        os.umask(before)

    found = modes(tmp_path / "spool")
    abandoned.discard()

    assert found == {"0o700", "0o600"}


def test_a_file_that_is_not_kept_leaves_nothing(spool: Spool) -> None:
    with pytest.raises(RuntimeError), spool.new_file() as file:  # noqa: PT012  # the block is one file
        file.write(b"half")
        raise RuntimeError("the peer went away")

    assert [path for path in spool.root.rglob("*") if path.is_file()] == []


def test_a_kept_file_survives_discard_and_takes_no_more_bytes(spool: Spool) -> None:
    with spool.new_file() as file:
        relative = file.keep(Area.INSTANCES, "1.2")
        file.discard()

        with pytest.raises(SpoolError, match="kept or discarded"):
            file.write(b"more")

    assert spool.path(relative).read_bytes() == b""


def test_a_full_disk_is_no_room_and_leaves_nothing() -> None:
    """F24, on a file system of 1 MB made for the test: the system itself says ENOSPC."""
    script = """
import sys
from pathlib import Path
from storage.spool import Area, NoRoom, Spool
spool = Spool(Path(sys.argv[1]) / "spool", 0)
try:
    spool.write(Area.INSTANCES, "1.2", bytes(64 * 1024 * 1024))
except NoRoom as error:
    print(error, [path.name for path in spool.root.rglob("*") if path.is_file()], spool.has_room(64 * 1024 * 1024))
"""
    mount = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"fovea-full-{os.getpid()}"
    folder.mkdir()
    try:
        command = ["unshare", "-rm", "sh", "-c", mount, str(folder), sys.executable, "-c", script, str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    finally:
        folder.rmdir()
    if "unshare" in ran.stderr or "mount" in ran.stderr:
        peer_missing(f"a small file system cannot be mounted here: {ran.stderr.strip()}")

    assert ran.stdout == "No space left on device [] False\n", ran.stderr


def test_a_failed_write_is_an_error_without_a_path(spool: Spool) -> None:
    """F24: the folder is gone, as after an I/O error; the system's words arrive, not the file's name."""
    file = spool.new_file()
    file.write(b"abc")
    shutil.rmtree(spool.root / "instances")

    with pytest.raises(SpoolError) as caught:
        file.keep(Area.INSTANCES, "1.2")

    assert str(caught.value) == os.strerror(errno.ENOENT)
    assert list((spool.root / "temporary").iterdir()) == []


def test_reserve_is_kept_free(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    half = Spool(tmp_path / "spool", free // 2)

    assert half.has_room()
    assert not half.has_room(free)
    assert not Spool(tmp_path / "full", free * 2).has_room()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside",
        "instances/../../outside",
        "instances/aa/../../../outside",
        "temporary/x",
        "instances/ab/" + "a" * 64 + "-" + "0" * 16,
        "instances/aa/" + "a" * 64 + "-" + "0" * 16 + "/..",
        "instances/aa/" + "a" * 64 + "-" + "0" * 16 + "\n",
        "",
    ],
)
def test_no_path_leads_out_of_the_spool(spool: Spool, path: str) -> None:
    with pytest.raises(SpoolError):
        spool.path(path)
    with pytest.raises(SpoolError):
        spool.delete(path)


def test_deleting_twice_is_fine(spool: Spool) -> None:
    relative = spool.write(Area.PICTURES, "1", b"x")

    spool.delete(relative)
    spool.delete(relative)

    assert list(spool.files(Area.PICTURES)) == []


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(spool: Spool) -> None:
    script = """
import os, sys
from pathlib import Path
from storage.spool import Spool
file = Spool(Path(sys.argv[1]), 0).new_file()
file.write(b"half")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, spool.root], cwd=Path(__file__).parents[2])
    living = spool.new_file()

    removed = spool.remove_temporaries()

    assert removed == 1
    living.write(b"whole")
    assert spool.path(living.keep(Area.INSTANCES, "1.2")).read_bytes() == b"whole"


def test_folders_are_made_when_a_file_needs_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 0)
    assert not list((spool.root / "results").iterdir())

    kept = spool.path(spool.write(Area.RESULTS, "1.2", b"x"))

    assert [kept.parent] == list((spool.root / "results").iterdir())


_WRITTEN = [("writev", "temporary"), ("fsync", "temporary")]
_MADE = [("mkdir", "folder"), ("fsync", "area")]
_NAMED = [("rename", "temporary"), ("fsync", "folder")]


@pytest.mark.peer
def test_file_is_synced_before_its_rename_and_the_folder_after_it(spool: Spool, tmp_path: Path) -> None:
    """R6, as the system sees it: write, fsync(file), rename, fsync(folder of the new name), a new folder's own name before."""
    if shutil.which("strace") is None:
        peer_missing("strace is not installed")
    script = """
import sys
from pathlib import Path
from storage.spool import Area, Spool
spool = Spool(Path(sys.argv[1]), 0)
print(spool.write(Area.INSTANCES, "1.2", b"the bytes"), flush=True)
"""
    trace = tmp_path / "trace"
    calls = "trace=openat,write,writev,fsync,rename,renameat,renameat2,mkdir,mkdirat"
    command = ["strace", "-f", "-y", "-e", calls, "-o", trace, sys.executable, "-c", script, spool.root]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if "PTRACE" in ran.stderr or "ptrace" in ran.stderr:
        peer_missing(f"strace may not trace here: {ran.stderr.strip()}")
    folder = spool.path(ran.stdout.strip()).parent

    lines = trace.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "writev(" in line and '"the bytes"' in line)
    told = next(i for i, line in enumerate(lines) if "write(1<" in line and "instances/" in line)
    seen = []
    for line in lines[start:told]:
        call = re.search(r"(writev?|fsync|rename|mkdir)\w*\((.*)", line)
        if call is not None:
            places = {"temporary": "/temporary/", "folder": str(folder), "area": str(folder.parent)}
            first = call[2].split('",')[0]
            seen.append((call[1], next(name for name, path in places.items() if path in first)))

    assert seen == [*_WRITTEN, *_MADE, *_NAMED]


def test_an_area_that_is_gone_is_an_error_of_the_spool(spool: Spool) -> None:
    (spool.root / Area.INSTANCES).rmdir()

    with pytest.raises(SpoolError, match="No such file"):
        list(spool.files(Area.INSTANCES))


def test_no_room_is_told_apart_from_other_errors() -> None:
    assert not issubclass(NoRoom, SpoolError)
