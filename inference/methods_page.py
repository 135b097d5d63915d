"""METHODS.md: the table of every recipe, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inference.recipes import RECIPES
from inference.recipes.recipe import Recipe, Scheme

if TYPE_CHECKING:
    from inference.methods import Row

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
  precision of chance. Dice is pooled, at the threshold of the raw map that was best on four more patients. The map is signed,
  positive where brighter than healthy, where papers take the magnitude; a recipe's filter across slices is left out.
- **Cost** for one slice, without the brain mask, which adds 0.36 GFLOP; seconds are processor seconds of one core for 150
  slices, scaled from those measured, the brain mask included. Timings were taken on a shared machine.
- **Learning**: *not converged* where the loss still fell by more than {falling:.0%} from the third quarter of the steps to the
  last, or where there were fewer than {fewest} steps.

"""
SCHEMES = list(Scheme)
TRAINING_PATIENTS = 20
PARTS = ("corruptor", "denoiser", "sampler", "scorer", "postprocessor")
COLUMNS = (
    "recipe",
    "scheme",
    "paper",
    "AP pooled",
    "Dice",
    "evaluations",
    "GFLOP/slice",
    "s/150 slices",
    "budget s",
    "steps",
    "learning",
)


def page(rows: Mapping[str, tuple[Row, float]]) -> str:
    """The page, in Markdown; recipes by scheme, the best of each first."""
    some = next(iter(rows.values()))[0]
    text = HEAD.format(
        training=TRAINING_PATIENTS,
        slices=some.slices,
        patients=some.patients,
        prevalence=some.prevalence,
        falling=STILL_FALLING,
        fewest=FEWEST_STEPS,
    )
    order = sorted(rows.values(), key=lambda one: (SCHEMES.index(RECIPES[one[0].recipe].scheme), -one[0].ap_pooled))
    lines = _table(COLUMNS, [_cells(row, budget) for row, budget in order])
    missing = [name for name in RECIPES if name not in rows]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", "## What each is made of", ""]
    lines += _table(("recipe", "labels", *PARTS), [_parts(recipe) for recipe in RECIPES.values()])
    return text + "\n".join(lines) + "\n"


def _cells(row: Row, budget: float) -> tuple[str, ...]:
    recipe = RECIPES[row.recipe]
    return (
        f"`{row.recipe}`",
        recipe.scheme,
        recipe.paper,
        f"{row.ap_pooled:.3f}",
        f"{row.dice:.3f}",
        f"{row.evaluations:g}",
        f"{row.gflop:.2f}",
        f"{row.seconds_per_150:.0f}",
        f"{budget:.0f}" if row.steps else "–",
        str(row.steps) if row.steps else "–",
        _learning(row),
    )


def _learning(row: Row) -> str:
    if not row.steps:
        return "nothing to learn"
    if row.fall > STILL_FALLING:
        return f"not converged: fell by {row.fall:.0%}"
    return "not converged: too few steps" if row.steps < FEWEST_STEPS else "level"


def _parts(recipe: Recipe) -> tuple[str, ...]:
    names = tuple(f"`{type(getattr(recipe, part)).__name__}`" for part in PARTS)
    return (f"`{recipe.name}`", recipe.labels, *names)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, tuple("---" for _ in head), *rows)]
