"""Banks of synthetic slices on disk, so that drawing heads never holds up a training step.

A bank is a folder of memory-mapped arrays and one `bank.json` that says how it was made; the same arguments give the
same bytes, whatever the number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.phantom.analytic import analytic_atlas
from inference.phantom.appearance import draw_any, draw_flair
from inference.phantom.cuts import Cut, cut
from inference.phantom.tissues import Atlas, read_label_map

UNIT = 4.0  # standardised units per brain median, see inference.preprocess
_SLICES_PER_TASK = 50


@dataclass(frozen=True, slots=True)
class BankPlan:
    """Which slices a bank holds."""

    purpose: str
    """`brain`: whole heads of any weighting, scaled for the mask network; `restore`: FLAIR, standardised."""
    label_maps: tuple[str, ...]
    """Paths of label maps."""
    analytic: tuple[int, ...]
    """Seeds of heads made by code."""
    per_label_map: int
    per_analytic: int
    shape: tuple[int, int]
    spacing_mm: float
    seed: int


@dataclass(frozen=True, slots=True)
class Bank:
    """Slices on disk: float16 image[n, row, column] and uint8 fractions (0..255) of brain, white matter and marked lesion."""

    image: NDArray[np.float16]
    brain: NDArray[np.uint8]
    white: NDArray[np.uint8]
    lesion: NDArray[np.uint8] | None = None
    """None where no slice shows a marked lesion."""
    runs: tuple[int, ...] = ()
    """How many slices each study gave, one study after another, foot to head; empty where slices have no neighbours."""


def make_bank(folder: Path, plan: BankPlan, processes: int = 2) -> Bank:
    """The bank in `folder`, made first where it is missing or was made by another plan."""
    note = folder / "bank.json"
    wanted = json.dumps(asdict(plan), indent=1, sort_keys=True)
    if not note.exists() or note.read_text() != wanted:
        _fill(folder, plan, processes)
        note.write_text(wanted)
    return open_bank(folder)


def open_bank(folder: Path) -> Bank:
    """The bank in `folder`, mapped into memory, not read."""
    return Bank(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "brain", "white")))


def join_banks(banks: Sequence[Bank]) -> Bank | None:
    """One bank of several, in memory; None of none."""
    if not banks:
        return None
    image, brain, white = (np.concatenate([getattr(bank, name) for bank in banks]) for name in ("image", "brain", "white"))
    runs = tuple(run for bank in banks for run in bank.runs) if all(bank.runs for bank in banks) else ()
    if all(bank.lesion is None for bank in banks):
        return Bank(image, brain, white, None, runs)
    marked = [np.zeros_like(bank.brain) if bank.lesion is None else bank.lesion for bank in banks]
    return Bank(image, brain, white, np.concatenate(marked), runs)


def part_of(bank: Bank, kept: NDArray[np.intp]) -> Bank:
    """The slices of these numbers, in memory."""
    lesion = None if bank.lesion is None else bank.lesion[kept]
    return Bank(bank.image[kept], bank.brain[kept], bank.white[kept], lesion)


def _fill(folder: Path, plan: BankPlan, processes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bank.json").unlink(missing_ok=True)
    tasks = _tasks(plan)
    total = sum(count for _, count, _ in tasks)
    kinds = {"image": np.float16, "brain": np.uint8, "white": np.uint8}
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype=kind, shape=(total, *plan.shape))
        for name, kind in kinds.items()
    }
    start = 0
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for image, brain, white in pool.map(_run_task, [plan] * len(tasks), tasks):
            stop = start + len(image)
            arrays["image"][start:stop], arrays["brain"][start:stop], arrays["white"][start:stop] = image, brain, white
            start = stop
    for array in arrays.values():
        array.flush()


Task = tuple[str, int, int]  # label map or seed, slices, number of the task


def _tasks(plan: BankPlan) -> list[Task]:
    heads = [(path, plan.per_label_map) for path in plan.label_maps]
    heads += [(str(seed), plan.per_analytic) for seed in plan.analytic]
    tasks: list[Task] = []
    for head, slices in heads:
        for start in range(0, slices, _SLICES_PER_TASK):
            tasks.append((head, min(_SLICES_PER_TASK, slices - start), len(tasks)))
    return tasks


_ATLASES: dict[str, Atlas] = {}  # of this worker process; a head is used by several tasks


def _atlas(head: str) -> Atlas:
    if head not in _ATLASES:
        _ATLASES.clear()
        _ATLASES[head] = analytic_atlas(int(head)) if head.isdigit() else read_label_map(Path(head))
    return _ATLASES[head]


def _run_task(plan: BankPlan, task: Task) -> tuple[NDArray[np.float16], NDArray[np.uint8], NDArray[np.uint8]]:
    head, count, number = task
    rng = np.random.default_rng([plan.seed, number])
    atlas = _atlas(head)
    draw = brain_slice if plan.purpose == "brain" else healthy_slice
    cuts = [draw(rng, atlas, plan.shape, plan.spacing_mm) for _ in range(count)]
    as_bytes = [
        np.stack([np.rint(part * 255).astype(np.uint8) for part in parts])
        for parts in ([c.brain for c in cuts], [c.white for c in cuts])
    ]
    return np.stack([c.image for c in cuts]).astype(np.float16), as_bytes[0], as_bytes[1]


def healthy_slice(rng: np.random.Generator, atlas: Atlas, shape: tuple[int, int], spacing_mm: float) -> Cut:
    """One FLAIR slice at any level of the brain, standardised by the whole head's median."""
    low, high = atlas.brain_levels
    centre = atlas.centre[0]
    look = draw_flair(rng)
    level = rng.uniform(low + 3, high - 2) - centre
    drawn = cut(rng, atlas, look, level, shape, spacing_mm, float(rng.choice([1.0, 2.0, 3.0, 5.0, 5.0])))
    median = look.median(atlas) * float(np.exp(rng.normal(0, 0.04)))
    image = np.clip(UNIT * (drawn.image / median - 1), -UNIT, 14)
    return Cut(image.astype(np.float32), drawn.brain, drawn.white, drawn.fluid)


def brain_slice(rng: np.random.Generator, atlas: Atlas, shape: tuple[int, int], spacing_mm: float) -> Cut:
    """One slice of a head of any weighting at any level, neck and vertex over-represented, some without their skull."""
    low, high = atlas.brain_levels
    where = rng.random()
    if where < 0.5:
        level = rng.uniform(low - 45, low + 50)
    elif where < 0.65:
        level = rng.uniform(high - 20, high + 8)
    else:
        level = rng.uniform(low, high)
    look = draw_any(rng)
    thickness = float(rng.choice([1.0, 3.0, 5.0]))
    drawn = cut(rng, atlas, look, level - float(atlas.centre[0]), shape, spacing_mm, thickness)
    image = drawn.image / (look.median(atlas) * rng.uniform(1.0, 2.6))
    if rng.random() < 0.2:
        image = image * (drawn.brain > rng.choice([0.05, 0.3]))
    return Cut(np.clip(image, 0, 2.5).astype(np.float32), drawn.brain, drawn.white, drawn.fluid)
