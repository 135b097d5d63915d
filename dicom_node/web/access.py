"""Who may look: one start-up token, a signed session cookie made from it, and a limit on failed tries.

The token is a secret of at least 32 characters in a file of mode 0600. A browser shows it once as `?token=`
and gets a cookie that is signed with a key derived from the token, so that a new token ends every session.
Programs send it as `Authorization: Bearer`. Comparisons take constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicom_node.settings import Settings, SettingsError

COOKIE = "fovea_session"
SESSION_S = 12 * 3600
MINIMUM_TOKEN_LENGTH = 32
FAILURES_PER_MINUTE = 5
FAILURES_PER_MINUTE_ALL = 60
_ADDRESSES_REMEMBERED = 1024


def token_path(settings: Settings) -> Path:
    """The file that holds the token: the configured one, else `web.token` beside the spool."""
    return settings.web.token_file or settings.storage.spool.parent / "web.token"


def load_or_create_token(settings: Settings) -> str:
    """The access token; made and kept at the first start.

    Raises SettingsError where the file cannot be read, is open to others, or holds fewer than 32 characters.
    """
    path = token_path(settings)
    try:
        if not path.exists():
            _create(path)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"web.token_file: {path} may be read by others, expected mode 0600")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"web.token_file: {path}: {error}") from error
    if len(token) < MINIMUM_TOKEN_LENGTH:
        raise SettingsError(f"web.token_file: {path} holds {len(token)} characters, expected {MINIMUM_TOKEN_LENGTH} or more")
    return token


def _create(path: Path) -> None:
    """Write a new token under a name of its own, then link it, so that no process ever reads half of one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def same_secret(given: str, expected: str) -> bool:
    """Compare two secrets in constant time, whatever characters a stranger sends."""
    return hmac.compare_digest(given.encode(), expected.encode())


class Sessions:
    """Signed session cookies. Nothing is kept: the cookie's signature and end time are the session."""

    def __init__(self, token: str, now: Callable[[], float] = time.time) -> None:
        self._key = hmac.digest(token.encode(), b"fovea web session key", hashlib.sha256)
        self._now = now

    def issue(self) -> str:
        """A new cookie value: `name.end.signature`."""
        body = f"{secrets.token_hex(4)}.{int(self._now()) + SESSION_S}"
        return f"{body}.{self._signature(body)}"

    def name(self, cookie: str) -> str | None:
        """The session's name where the cookie is ours and not over, else None."""
        body, _, signature = cookie.rpartition(".")
        if not body or not same_secret(signature, self._signature(body)):
            return None
        name, _, end = body.partition(".")
        return name if int(end) > self._now() else None

    def _signature(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


@dataclass(slots=True)
class _Failures:
    since: float
    count: int = 0


class FailureLimit:
    """Counts failed tries by address and over all, in windows of one minute; memory is bounded."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._by_address: OrderedDict[str, _Failures] = OrderedDict()
        self._all = _Failures(now())

    def count(self, address: str) -> bool:
        """Count one failure. False once the address, or everybody together, is over the limit."""
        mine = self._window(self._by_address.pop(address, None))
        self._by_address[address] = mine
        if len(self._by_address) > _ADDRESSES_REMEMBERED:
            self._by_address.popitem(last=False)
        self._all = self._window(self._all)
        mine.count += 1
        self._all.count += 1
        return mine.count <= FAILURES_PER_MINUTE and self._all.count <= FAILURES_PER_MINUTE_ALL

    def _window(self, failures: _Failures | None) -> _Failures:
        now = self._now()
        return _Failures(now) if failures is None or now - failures.since >= 60.0 else failures
