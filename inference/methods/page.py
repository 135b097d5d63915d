"""METHODS.md: the table of every recipe, written from what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference.evaluation.resampling import Estimate
from inference.methods.row import Learned, Row
from inference.recipes import RECIPES
from inference.recipes.recipe import Recipe, Scheme

FEWEST_STEPS = 500
"""Fewer steps are no training to speak of: too few to see whether the loss has come to rest."""
STILL_FALLING = 0.05
"""A loss that fell by more than this share of itself from the third quarter of its steps to the last was still learning."""

HEAD = """# Methods: every recipe on one small budget

Written by `python -m inference.methods --data FOLDER --work FOLDER --seconds N --out inference/METHODS.md` (`make methods`); run
it again with more seconds and every recipe trains on from where it was. Each recipe is one short file in `inference/recipes/`.

- **Budget**: processor seconds of one core, in the column, for networks of 0.1 to 0.9 million parameters on slices of 96 x 80
  pixels of 2.4 mm. With seconds, most have only begun to learn, the chains above all: the table says what a recipe does with
  this budget, not what its paper reached with days.
- **Data**: label-free recipes learn from synthetic heads alone; the others from {training} low-grade glioma patients
  (weights that saw them are evaluation only and never leave the work folder).
- **Measured** on {slices} slices of {patients} other patients, one fixed list; all voxels of a slice count, those outside the
  predicted brain, which is the same for every recipe, score lowest. {prevalence:.2%} of the voxels are lesion: the average
  precision of chance. In brackets the 95 % interval over patients (2,000 draws, BCa), and for the gain over raw intensity the
  interval of the paired difference. Dice is pooled, at the threshold of the raw map that was best on four more patients. The
  map is signed, positive where brighter than healthy, where papers take the magnitude; a recipe's filter across slices is left
  out.
- **Shipped**: the bundle that comes with Fovea, on the same slices but on its own grid of {shipped_mm:g} mm, with a training of
  hours; its weights saw no patient of this set, but its score was chosen with development patients, among them these.
- **Cost** for one slice, without the brain mask, which adds 0.36 GFLOP; seconds are processor seconds of one core for 150
  slices, scaled from those measured, the brain mask included. Timings were taken on a shared machine. MB: by how much the
  resident set of the process rose at its peak (VmHWM, reset before) while all slices of one patient were scored, at most 32 at
  once; networks and images, there before, are not counted.
- **Learning**: *not converged* where the loss still fell by more than {falling:.0%} from the third quarter of the steps to the
  last, or where there were fewer than {fewest} steps.

"""
SCHEMES = list(Scheme)
TRAINING_PATIENTS = 20
SHIPPED_MM = 1.25
PARTS = ("corruptor", "denoiser", "sampler", "scorer", "postprocessor")
COLUMNS = (
    "recipe",
    "scheme",
    "paper",
    "AP pooled (95 %)",
    "over raw intensity (95 %)",
    "Dice",
    "evaluations",
    "GFLOP/slice",
    "s/150 slices",
    "MB",
    "budget s",
    "steps",
    "learning",
)


def page(rows: Sequence[Row]) -> str:
    """The page, in Markdown; recipes by scheme, the best of each first, a shipped one below its own kind."""
    some = rows[0].figures
    text = HEAD.format(
        training=TRAINING_PATIENTS,
        slices=some.slices,
        patients=some.patients,
        prevalence=some.prevalence,
        shipped_mm=SHIPPED_MM,
        falling=STILL_FALLING,
        fewest=FEWEST_STEPS,
    )
    own = {row.recipe: row.figures.ap_pooled.value for row in rows if not row.shipped}
    order = sorted(rows, key=lambda row: (_scheme(row), -own.get(row.recipe, 0.0), row.recipe, row.shipped))
    lines = _table(COLUMNS, [_cells(row) for row in order])
    missing = [name for name in RECIPES if name not in own]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "## What each is made of", ""]
    recipes = sorted(RECIPES.values(), key=lambda recipe: SCHEMES.index(recipe.scheme))
    lines += _table(("recipe", "labels", *PARTS), [_parts(recipe) for recipe in recipes])
    return text + "\n".join(lines) + "\n"


def _scheme(row: Row) -> int:
    return SCHEMES.index(RECIPES[row.recipe].scheme)


def _cells(row: Row) -> tuple[str, ...]:
    recipe, figures, learned = RECIPES[row.recipe], row.figures, row.learned
    return (
        f"`{row.recipe}`" + (f", **shipped** ({row.shipped})" if row.shipped else ""),
        recipe.scheme,
        recipe.paper,
        _between(figures.ap_pooled, ""),
        "–" if row.recipe == "intensity" else _between(figures.gain, "+"),
        f"{figures.dice:.3f}",
        f"{figures.evaluations:g}",
        f"{figures.gflop:.2f}",
        f"{figures.seconds_per_150:.0f}",
        "–" if math.isnan(figures.memory_mb) else f"{figures.memory_mb:.0f}",
        f"{learned.budget:.0f}" if learned.steps else "–",
        str(learned.steps) if learned.steps else "–",
        "shipped" if row.shipped and recipe.networks else _learning(learned),
    )


def _between(estimate: Estimate, sign: str) -> str:
    if math.isnan(estimate.low):
        return f"{estimate.value:{sign}.3f}"
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.3f} to {estimate.high:{sign}.3f})"


def _learning(learned: Learned) -> str:
    if not learned.steps:
        return "nothing to learn"
    if learned.fall > STILL_FALLING:
        return f"not converged: fell by {learned.fall:.0%}"
    return "not converged: too few steps" if learned.steps < FEWEST_STEPS else "level"


def _parts(recipe: Recipe) -> tuple[str, ...]:
    names = tuple(f"`{type(getattr(recipe, part)).__name__}`" for part in PARTS)
    return (f"`{recipe.name}`", recipe.labels, *names)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, tuple("---" for _ in head), *rows)]
