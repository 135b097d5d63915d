"""What one thread will tell another: a result that is waited for, in as little time as one lock takes.

`concurrent.futures.Future` makes a condition for each, three for every image. Here whoever waits does so on the lock that the
answer lets go.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Promise(Generic[T]):
    """A result or an exception, told once by one thread and read by any."""

    __slots__ = ("_error", "_told", "_value")

    def __init__(self) -> None:
        self._told = threading.Lock()
        self._told.acquire()
        self._value: T | None = None
        self._error: BaseException | None = None

    def tell(self, value: T) -> None:
        """The result is there. Once, or `fail` once."""
        self._value = value
        self._told.release()

    def fail(self, error: BaseException) -> None:
        """It went wrong. Once, or `tell` once."""
        self._error = error
        self._told.release()

    def result(self, timeout_s: float = -1) -> T:
        """The result once it is there. Raises what it failed with; TimeoutError where nothing came within `timeout_s`."""
        if not self._told.acquire(timeout=timeout_s):
            raise TimeoutError
        self._told.release()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)
