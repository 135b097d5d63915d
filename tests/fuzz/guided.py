"""A small fuzzer that is guided by coverage: inputs that reach lines no other reached are kept and mutated further.

Lines are seen by a trace function in the modules under test alone; the number of lines run is also the work that an input costs.
The draws come from one seed, so that a failure is found again.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

INTERESTING = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
TOKENS = (
    b"SQ", b"UN", b"OB", b"OW", b"UI", b"LO", b"PN", b"\0\0",
    struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF),
    struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    struct.pack(">HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack(">HHI", 0xFFFE, 0xE0DD, 0),
    struct.pack("<HH2sxxI", 0x0041, 0x1001, b"SQ", 0xFFFFFFFF), struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF),
    struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 0), b"\x1b$B", b"\x1b(J", b"\\\\",
)  # fmt: skip


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """The bytes after one to four changes: bits, numbers, tokens, cuts, doublings, and pieces of others."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        _MUTATIONS[chance.randrange(len(_MUTATIONS))](changed, chance, others)
    return bytes(changed)


def _place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _number(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> None:
    value, size = chance.choice(INTERESTING), chance.choice((1, 2, 4))
    at = _place(data, chance)
    order = chance.choice(("little", "big"))
    raw = (value & (1 << 8 * size) - 1).to_bytes(size, order)  # type: ignore[arg-type]
    data[at : at + size] = raw[: len(data) - at]


def _token(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> None:
    at, token = _place(data, chance), chance.choice(TOKENS)
    if chance.random() < 0.5:
        data[at:at] = token
    else:
        data[at : at + len(token)] = token


def _cut(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> None:
    if chance.random() < 0.5:
        del data[_place(data, chance) :]
    else:
        at = _place(data, chance)
        del data[at : at + chance.randrange(1, 64)]


def _double(data: bytearray, chance: random.Random, _others: Sequence[bytes]) -> None:
    at = _place(data, chance)
    piece = data[at : at + chance.randrange(1, 128)]
    data[at:at] = piece * chance.choice((1, 1, 2, 50))


def _splice(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    other = chance.choice(others)
    at, start = _place(data, chance), chance.randrange(len(other) + 1)
    data[at:at] = other[start : start + chance.randrange(1, 256)]


_MUTATIONS: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    _flip, _number, _number, _token, _cut, _double, _splice,
)  # fmt: skip


@dataclass(slots=True)
class Traced:
    """The lines of some files that a call runs, and how many times lines were run."""

    files: frozenset[str]
    lines: set[tuple[int, int]] = field(default_factory=set)
    work: int = 0

    def run(self, call: Callable[[], Any]) -> Any:
        """The call's result, or what it raises."""
        self.lines, self.work = set(), 0
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            return call()
        finally:
            sys.settrace(before)

    def _on_call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._on_line if frame.f_code.co_filename in self.files else None

    def _on_line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self.work += 1
            self.lines.add((id(frame.f_code), frame.f_lineno))
        return self._on_line


@dataclass(slots=True)
class Guided(Generic[T]):
    """Seeds with their bytes, and the mutations of them that reached something new."""

    seeds: Sequence[tuple[T, bytes]]
    modules: Sequence[Any]
    seed: int = 0
    tried: int = 0
    reached: set[tuple[int, int]] = field(default_factory=set)
    population: list[tuple[T, bytes]] = field(default_factory=list)

    def inputs(self, *, count: int, seconds: float) -> Iterator[tuple[T, bytes]]:
        """Inputs until the count or the time is used up; between two of them call `learn`."""
        chance = random.Random(self.seed)
        self.population = list(self.seeds)
        raw = [data for _, data in self.seeds]
        deadline = time.monotonic() + seconds
        yield from self.seeds
        while self.tried < count and time.monotonic() < deadline:
            label, data = chance.choice(self.population)
            yield label, mutated(data, chance, raw)

    def tracer(self) -> Traced:
        """A tracer of the modules under test."""
        return Traced(frozenset(str(module.__file__) for module in self.modules))

    def learn(self, label: T, data: bytes, traced: Traced) -> None:
        """Keep the input where it reached a line that none before it reached."""
        self.tried += 1
        if not traced.lines <= self.reached:
            self.reached |= traced.lines
            self.population.append((label, data))
