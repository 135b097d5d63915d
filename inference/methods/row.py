"""What the bench knows of one recipe: what its training took, and what it did on the list; kept as JSON in the work folder.

The two stand apart, each with a digest of all that it depends on: a row whose training still holds is measured again from
the kept bundle without training again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from inference.evaluation.resampling import Estimate


@dataclass(frozen=True, slots=True)
class Learned:
    """What a training took."""

    digest: str
    """Of everything that the weights depend on."""
    budget: float
    """Processor seconds of one core; 0 for a recipe without networks and for a bundle that came trained."""
    seconds: float
    """By the clock, which on a shared machine says little."""
    steps: int
    fall: float
    """By how much of itself the loss fell from the third quarter to the last, of the stage that fell most."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a recipe did on the list."""

    digest: str
    """Of the recipe, the bundle, the list and the way of measuring."""
    ap_pooled: Estimate
    gain: Estimate
    """Over raw intensity on the same patients, on the same grid and in the same mask."""
    dice: float
    threshold: float
    """Of the raw map; best pooled Dice on the threshold patients."""
    evaluations: float
    """Network passes for each slice with brain, the mask's own left out; guidance by a classifier counts its passes too."""
    gflop: float
    """For each slice, the brain's left out."""
    seconds_per_150: float
    """Processor seconds of one core for 150 slices, scaled from those measured; the brain mask included."""
    memory_mb: float
    """What scoring all slices of one patient took at its peak beyond what was there before; NaN where nobody can say."""
    slices: int
    patients: int
    prevalence: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    recipe: str
    shipped: str
    """Name and version of the bundle that came trained; empty for the bench's own training."""
    learned: Learned
    figures: Figures


def note_name(recipe: str, shipped: bool) -> str:
    """The file of a row in the work folder."""
    return f"{recipe}-shipped.json" if shipped else f"{recipe}.json"


def write_row(row: Row, path: Path) -> None:
    """Keeps the row; what cannot be said is NaN, which Python reads again."""
    path.write_text(json.dumps(asdict(row), indent=1) + "\n", encoding="utf-8")


def read_row(path: Path) -> Row | None:
    """The row kept there; None where there is none, or one of an older form."""
    if not path.exists():
        return None
    try:
        return TypeAdapter(Row).validate_json(path.read_bytes())
    except ValidationError:
        return None
