"""The spool: files that are on disk when we say so, under names nobody outside can choose.

A file is written under a temporary name and renamed to the SHA-256 of its key plus a random part, so that no receipt ever
replaces another. It is kept once its bytes and its folder are synced. Folders have mode 0700, files 0600.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import TracebackType

_RELATIVE = re.compile(r"(instances|results|pictures|rejected)/([0-9a-f]{2})/\2[0-9a-f]{62}-[0-9a-f]{16}")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class NoRoom(Exception):
    """Raised when the disk or the quota is full."""


class SpoolError(Exception):
    """Raised when the spool cannot be written or read, or is asked for a path that is not its own."""


class Area(StrEnum):
    """What a file is, and so the folder it is in."""

    INSTANCES = "instances"
    RESULTS = "results"
    PICTURES = "pictures"
    REJECTED = "rejected"


class Spool:
    """One folder of files; shared by threads and processes."""

    def __init__(self, root: Path, reserve_bytes: int) -> None:
        """Make `root` and its folders where they are missing. Below `reserve_bytes` of free space there is no room."""
        self.root = root.absolute()
        self._reserve_bytes = reserve_bytes
        self.base = str(self.root)
        """`root` for the system's calls."""
        self._temporary = self.root / "temporary"
        self._durable: set[str] = set()
        """Folders of files that are known to be on the disk, as `area/ab`."""
        with _errors():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            for area in Area:
                (self.root / area).mkdir(mode=0o700, exist_ok=True)
                found = [f"{area}/{entry.name}" for entry in (self.root / area).iterdir()]
                sync_folder(self.root / area)  # another process may be making one just now
                self._durable.update(found)
            sync_folder(self.root)
            sync_folder(self.root.parent)

    def has_room(self, size: int = 0) -> bool:
        """True while `size` bytes more would leave the reserve untouched."""
        with _errors():
            disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize - size >= self._reserve_bytes

    def check_writable(self) -> None:
        """Raise SpoolError where the spool is gone, or mounted read-only: an open file would not show it."""
        with _errors():
            if os.statvfs(self.base).f_flag & os.ST_RDONLY:
                raise SpoolError("the spool is read-only")

    def new_file(self) -> SpoolFile:
        """A new temporary file. Raises NoRoom, SpoolError."""
        return SpoolFile(self, f"{self._temporary.name}/{secrets.token_hex(16)}")

    def make_folder(self, area: Area, name: str) -> None:
        """Have a file's folder on the disk, unless it is known to be: the folder's own sync does not hold its name."""
        folder = f"{area}/{name}"
        if folder not in self._durable:
            with _errors():
                (self.root / folder).mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.root / area)
            self._durable.add(folder)

    def write(self, area: Area, key: str, data: bytes) -> str:
        """Keep `data` durably; the path relative to the spool. Raises NoRoom, SpoolError."""
        with self.new_file() as file:
            file.write(data)
            return file.keep(area, key)

    def path(self, relative: str) -> Path:
        """Where a kept file is. Raises SpoolError for every path that `keep` would not have returned."""
        if not _RELATIVE.fullmatch(relative):
            raise SpoolError("not a path of the spool")
        return self.root / relative

    def delete(self, relative: str) -> None:
        """Remove a kept file; a missing one is fine. Raises SpoolError."""
        path = self.path(relative)
        with _errors():
            path.unlink(missing_ok=True)

    def sync(self, relative: str) -> None:
        """Have a file of the spool and its name on the disk, whoever wrote it. Raises NoRoom, SpoolError where it is gone."""
        path = self.path(relative)
        with _errors():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(path.parent)

    def remove_temporaries(self) -> int:
        """Remove what a stopped process left half-written, and say how many; files still being written stay."""
        return sum(_remove_abandoned(path) for path in self._temporary.iterdir())

    def delete_abandoned(self, relative: str, seen: os.stat_result) -> bool:
        """Remove a file unless somebody is writing it, or has since it was `seen`; whether it was removed. Raises SpoolError."""
        path = self.path(relative)
        with _errors():
            return _remove_abandoned(path, seen)

    def files(self, area: Area) -> Iterator[str]:
        """The relative paths of an area's files, in no particular order. Raises SpoolError."""
        for folder in _entries(self.root / area):
            for path in _entries(folder):
                relative = path.relative_to(self.root).as_posix()
                if _RELATIVE.fullmatch(relative):
                    yield relative


class SpoolFile:
    """A file on its way into the spool; used in `with`, it removes itself unless it was kept."""

    def __init__(self, spool: Spool, relative: str) -> None:
        """Make it, empty. Raises NoRoom, SpoolError."""
        self.size = 0
        self.relative = relative
        """Where it is now, relative to the spool."""
        self._spool = spool
        with _errors():
            self._descriptor: int | None = os.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            # Tells `remove_temporaries` and `delete_abandoned` of other processes that somebody is writing.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def _name(self) -> str:
        return f"{self._spool.base}/{self.relative}"

    def write(self, *parts: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises NoRoom, SpoolError."""
        views = [memoryview(part).cast("B") for part in parts]
        with _errors():
            while views:
                written = os.writev(self._open(), views)
                self.size += written
                while views and written >= len(views[0]):
                    written -= len(views.pop(0))
                if views:
                    views[0] = views[0][written:]

    def keep(self, area: Area, key: str) -> str:
        """Make the file durable under its final name; the path relative to the spool. Raises NoRoom, SpoolError.

        After an error the file is gone: a failed sync is never tried again on the same file, since the system may have
        dropped the unwritten bytes already.
        """
        try:
            self.place(area, key)
        except BaseException:
            self.discard()
            raise
        self.close()
        return self.relative

    def place(self, area: Area, key: str) -> None:
        """As `keep`, but `discard` still removes it; `close` keeps it. Raises NoRoom, SpoolError."""
        self.sync()
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        relative = f"{area}/{name[:2]}/{name}-{secrets.token_hex(8)}"
        self._spool.make_folder(area, name[:2])
        with _errors():
            os.rename(self._name, f"{self._spool.base}/{relative}")  # noqa: PTH104  # the system call, nothing more
        self.relative = relative
        sync_folder(self.path.parent)

    def sync(self) -> None:
        """Have the bytes on the disk. Raises NoRoom, SpoolError: then discard the file, never try again."""
        with _errors():
            os.fsync(self._open())

    def check_there(self) -> None:
        """Raise SpoolError where somebody else removed the file: it can still be written, and is lost."""
        with _errors():
            if not os.fstat(self._open()).st_nlink:
                raise SpoolError("the file was removed by somebody else")

    def is_in(self, area: Area) -> bool:
        """True where it is in that area already, under a name that is on the disk."""
        return self.relative.startswith(area)

    @property
    def path(self) -> Path:
        """Where the file is now."""
        return Path(self._name)

    def close(self) -> None:
        """The file stays where it is, whatever happens now."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def discard(self) -> None:
        """Remove the file; harmless after `close` or a second time."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            self.close()

    def __enter__(self) -> SpoolFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.discard()

    def _open(self) -> int:
        if self._descriptor is None:
            raise SpoolError("the file was kept or discarded already")
        return self._descriptor


class _errors:  # noqa: N801  # reads as a statement; a class because it stands in the path of every received buffer
    """The system's errors as ours, without the path in the message."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError):
            wrapped = NoRoom if error.errno in _FULL else SpoolError
            raise wrapped(error.strerror or "input/output error") from error


def _entries(folder: Path) -> list[Path]:
    with _errors():
        return list(folder.iterdir())


def sync_folder(folder: Path | str) -> None:
    """Have the folder's entries on the disk. Raises NoRoom, SpoolError."""
    with _errors():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_abandoned(path: Path, seen: os.stat_result | None = None) -> bool:
    """Remove a file that no process holds the lock of, and that nobody has written to since it was seen."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        now = os.fstat(descriptor)
        if seen is not None and (now.st_size, now.st_mtime_ns) != (seen.st_size, seen.st_mtime_ns):
            return False
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
