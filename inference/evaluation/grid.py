"""The phantom grid: which lesions are found, by diameter and contrast, in lesion-free heads they were painted into.

It shows what a model cannot see (detection bias): small, faint, or of the wrong sign. A lesion counts as found where a tenth
or more of it lies in findings of its own sign. Sign asymmetry is the difference in the share found between a contrast and its
opposite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from highdicom import Volume

from inference.evaluation.charts import share_grid, standalone
from inference.evaluation.lesions import lesion_map, match
from inference.localizer import Context, Localizer
from inference.phantom.insertion import insert_lesions
from inference.types import Contrast

DIAMETERS_MM = (3.0, 5.0, 8.0, 12.0, 20.0)
CONTRASTS = (-0.5, -0.3, -0.15, 0.15, 0.3, 0.5)
"""Signal added, as a fraction of the tissue painted over."""
HIGHEST_ASYMMETRY = 0.10
"""More than this is called a bias."""
Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """Lesions of one size and contrast."""

    diameter_mm: float
    contrast: float
    lesions: int
    found: int

    @property
    def share(self) -> float:
        """found / lesions; NaN where none found room."""
        return self.found / self.lesions if self.lesions else math.nan


@dataclass(frozen=True, slots=True)
class Grid:
    """Every cell, and findings in the same heads before anything was painted."""

    cells: tuple[Cell, ...]
    heads: int
    findings_before: float
    """Mean findings per lesion-free head, none of which counts as finding a lesion."""

    @property
    def diameters_mm(self) -> tuple[float, ...]:
        """Rising."""
        return tuple(sorted({cell.diameter_mm for cell in self.cells}))

    @property
    def contrasts(self) -> tuple[float, ...]:
        """Rising."""
        return tuple(sorted({cell.contrast for cell in self.cells}))

    def cell(self, diameter_mm: float, contrast: float) -> Cell:
        """The one of that size and contrast. KeyError where there is none."""
        for one in self.cells:
            if (one.diameter_mm, one.contrast) == (diameter_mm, contrast):
                return one
        raise KeyError(f"no cell of {diameter_mm} mm and contrast {contrast}")

    def asymmetry(self) -> float:
        """The share of bright lesions found less that of dark ones, over all sizes and strengths that have both."""
        bright = [cell for cell in self.cells if cell.contrast > 0]
        dark = [cell for cell in self.cells if cell.contrast < 0]
        return _share(bright) - _share(dark)

    def worst_asymmetry(self) -> tuple[float, Cell]:
        """The greatest difference between a contrast and its opposite at one size, and the brighter cell of the two."""
        gaps = [
            (cell.share - self.cell(cell.diameter_mm, -cell.contrast).share, cell)
            for cell in self.cells
            if cell.contrast > 0 and -cell.contrast in self.contrasts
        ]
        known = [gap for gap in gaps if math.isfinite(gap[0])]
        return max(known, key=lambda gap: abs(gap[0]), default=(math.nan, self.cells[0]))

    def asymmetry_words(self) -> str:
        """One sentence on the bias between bright and dark."""
        gap, cell = self.worst_asymmetry()
        mean = self.asymmetry()
        if math.isnan(gap):
            return "No contrast was painted with both signs."
        verdict = "a bias" if abs(gap) > HIGHEST_ASYMMETRY else "no bias above 10 points"
        return (
            f"Bright lesions are found {100 * mean:+.0f} points more often than dark ones overall, "
            f"{100 * gap:+.0f} points at {cell.diameter_mm:g} mm and {100 * cell.contrast:g} %: {verdict}."
        )

    def blind_spots(self) -> tuple[str, ...]:
        """Sentences for the model card: at each contrast, from which size half or more of the lesions are found."""
        told = []
        for contrast in self.contrasts:
            counts = ", ".join(
                f"{cell.diameter_mm:g} mm {cell.found} of {cell.lesions}" for cell in self.cells if cell.contrast == contrast
            )
            sign = "brighter" if contrast > 0 else "darker"
            told.append(f"Painted lesions {100 * abs(contrast):g} % {sign} than their tissue: {counts} found.")
        return (*told, self.asymmetry_words())


def measure_grid(
    localizer: Localizer,
    volumes: Sequence[Volume],
    each: int,
    *,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    contrasts: Sequence[float] = CONTRASTS,
    seed: int = 400,
    tell: Tell = lambda *_: None,
) -> Grid:
    """Up to `each` lesions of every size and contrast in each lesion-free volume. Raises what the localizer raises.

    The places are the same for every contrast of a size, so that columns differ by contrast alone.
    """
    lesions: dict[tuple[float, float], list[int]] = {(d, c): [0, 0] for d in diameters_mm for c in contrasts}
    before = []
    for number, volume in enumerate(volumes):
        empty = localizer.localize(volume, Context())
        before.append(len(empty.findings))
        image, brain = np.asarray(volume.array, dtype=np.float32), empty.brain.array > 0
        mm = (volume.spacing[0], volume.spacing[1], volume.spacing[2])
        for size, diameter in enumerate(diameters_mm):
            for contrast in contrasts:
                tell("painted lesions", f"head {number + 1}, {diameter:g} mm, {100 * contrast:+.0f} %")
                rng = np.random.default_rng([seed, number, size])
                made = insert_lesions(image, brain, mm, diameter_mm=diameter, contrast=contrast, count=each, rng=rng)
                result = localizer.localize(volume.with_array(made.image), Context())
                sign = Contrast.BRIGHTER if contrast > 0 else Contrast.DARKER
                numbers = [finding.number for finding in result.findings if finding.contrast is sign]
                labels = lesion_map(made.lesion, mm, 0.0)
                matched = match(np.isin(result.labels.array, numbers), made.lesion, labels, made.image, brain, mm)
                counts = lesions[diameter, contrast]
                counts[0] += len(matched.lesions)
                counts[1] += sum(lesion.found for lesion in matched.lesions)
    cells = tuple(Cell(d, c, *counts) for (d, c), counts in lesions.items())
    return Grid(cells, len(volumes), float(np.mean(before)))


def grid_chart(label: str, grid: Grid) -> str:
    """The grid as an SVG file: rows are diameters, columns contrasts."""
    shares = [[grid.cell(d, c).share for c in grid.contrasts] for d in grid.diameters_mm]
    columns = [f"{100 * contrast:+.0f} %" for contrast in grid.contrasts]
    rows = [f"{diameter:g} mm" for diameter in grid.diameters_mm]
    axes = f"{label}: share of painted lesions found, {grid.heads} heads; contrast to tissue across, diameter down"
    return standalone(share_grid(f"Painted lesions found by {label}", columns, rows, shares, axes))


def plain_grid(grids: Mapping[str, Grid]) -> str:
    """All grids as JSON, with the sentences."""
    content = {
        label: {
            "heads": grid.heads,
            "findings_before": grid.findings_before,
            "cells": [asdict(cell) for cell in grid.cells],
            "sign_asymmetry": _number(grid.asymmetry()),
            "worst_sign_asymmetry": _number(grid.worst_asymmetry()[0]),
            "said": grid.asymmetry_words(),
        }
        for label, grid in grids.items()
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _share(cells: Sequence[Cell]) -> float:
    lesions = sum(cell.lesions for cell in cells)
    return sum(cell.found for cell in cells) / lesions if lesions else math.nan


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
