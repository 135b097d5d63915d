"""What is wrong with the findings as a viewer shows them: an empty set where everything is right.

Each check asks another question, because none sees every fault: counts do not see a mirrored mask, places do not see
exchanged colours.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicom_node.results.colours import colour_of
from tests.viewer.cases import FINDINGS, Case, score_at, world

COLOURED = 25
"""Difference between the largest and smallest of R, G and B from which a pixel counts as coloured; images are grey."""
MINIMUM_INSIDE, MAXIMUM_OUTSIDE = 0.95, 0.005
MAXIMUM_OUTSIDE_MAP = 0.02  # a map is interpolated: a point beside the rim of a finding may be tinted
HUE_TOLERANCE_DEG = 8.0
COLOUR_TOLERANCE = 8
"""Levels of 255, for the way to CIELab in 16 bits and back."""
VALUE_TOLERANCE = 1e-4
"""Of the score; floats hold it to 4e-7."""
HIGH_SCORE, LOW_SCORE = 3.0, 0.3
"""From where on a map must be coloured in a viewer, and up to where it must not."""
COLOURED_BY_MAP = 50
"""As COLOURED, for maps: a score of 0.4 tints by about 33, a lower one less, one of 3 by more than 100."""


class Fault(StrEnum):
    """One way in which a finding is shown wrongly."""

    COUNTS = "voxels per image and segment differ"
    MISSING = "no colour where the finding lies"
    ELSEWHERE = "colour where no finding lies"
    HUE = "another finding's hue where the finding lies"
    COLOUR = "the viewer has taken another colour than the recommended one"
    SIDE = "the left-sided finding is not shown on the patient's left"
    VALUES = "a value at a point of the patient differs"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The colours[n, RGB] that the screen shows on one image inside a finding, and far from every finding."""

    inside: NDArray[np.uint8]
    outside: NDArray[np.uint8]


def faults_of_counts(case: Case, counts: dict[str, dict[int, int]]) -> set[Fault]:
    """Compare voxels per image and segment with the truth."""
    expected = {
        name: {int(segment): int(np.count_nonzero(labels == segment)) for segment in np.unique(labels) if segment}
        for name, labels in case.truth.items()
        if labels.any()
    }
    return set() if counts == expected else {Fault.COUNTS}


def faults_of_colours(colours: dict[int, tuple[int, int, int]]) -> set[Fault]:
    """Compare the viewer's colours with those of the product."""
    wanted = {number: colour_of(number) for number in range(1, len(FINDINGS) + 1)}
    right = colours.keys() == wanted.keys() and all(
        max(abs(a - b) for a, b in zip(colours[number], wanted[number], strict=True)) <= COLOUR_TOLERANCE for number in wanted
    )
    return set() if right else {Fault.COLOUR}


def faults_of_samples(finding: int, samples: Samples) -> set[Fault]:
    """Judge the colours on the screen."""
    faults = set()
    if np.mean(chroma(samples.inside) > COLOURED) < MINIMUM_INSIDE:
        faults.add(Fault.MISSING)
    elif np.mean(has_hue_of(samples.inside, finding)) < MINIMUM_INSIDE:
        faults.add(Fault.HUE)
    if np.mean(chroma(samples.outside) > COLOURED) > MAXIMUM_OUTSIDE:
        faults.add(Fault.ELSEWHERE)
    return faults


def faults_of_side(centre_lps: NDArray[np.float64] | None) -> set[Fault]:
    """Judge where in the patient the viewer says that the left-sided finding's colour lies; None: nowhere."""
    return set() if centre_lps is not None and centre_lps[0] > 0 else {Fault.SIDE}


def faults_of_values(points_lps: NDArray[np.float64], values: NDArray[np.float64]) -> set[Fault]:
    """Compare a map's values[n] at points_lps[n, 3] with the score there."""
    return set() if np.allclose(values, score_at(points_lps), rtol=0, atol=VALUE_TOLERANCE) else {Fault.VALUES}


def faults_of_map(samples: Samples) -> set[Fault]:
    """Judge whether a map's colours lie where the score is high and nowhere else."""
    faults = set()
    if np.mean(chroma(samples.inside) > COLOURED_BY_MAP) < MINIMUM_INSIDE:
        faults.add(Fault.MISSING)
    if np.mean(chroma(samples.outside) > COLOURED_BY_MAP) > MAXIMUM_OUTSIDE_MAP:
        faults.add(Fault.ELSEWHERE)
    return faults


def chroma(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Zero for grey, up to 255 for pure colours; for colours[..., RGB]."""
    return np.asarray(colours.max(axis=-1).astype(np.int64) - colours.min(axis=-1))


def has_hue_of(colours: NDArray[np.uint8], finding: int) -> NDArray[np.bool_]:
    """For colours[..., RGB] whether each is coloured, in the finding's hue: a hue stays when blended with grey."""
    wanted = hue_deg(np.array(colour_of(finding), dtype=np.uint8)[None])[0]
    difference = np.abs((hue_deg(colours) - wanted + 180) % 360 - 180)
    return np.asarray((difference <= HUE_TOLERANCE_DEG) & (chroma(colours) > COLOURED))


def hue_deg(colours: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The hue of colours[..., RGB]; 0 is red, 120 green, 240 blue."""
    flat = colours.reshape(-1, 3) / 255.0
    hues = [colorsys.rgb_to_hsv(*colour)[0] * 360 for colour in flat]
    return np.array(hues, dtype=np.float64).reshape(colours.shape[:-1])


def points_scoring(case: Case, image: str, low: float, high: float, count: int = 300) -> NDArray[np.float64]:
    """Pixel centres of that image whose score lies in that range, points_lps[up to count, 3], the same ones each time."""
    every = _centres(case, image, np.ones_like(case.truth[image], dtype=bool))
    score = score_at(every)
    wanted = every[(score >= low) & (score <= high)]
    return wanted[np.random.default_rng(0).permutation(len(wanted))[:count]]


def points_inside(case: Case, image: str, finding: int) -> NDArray[np.float64]:
    """Points of the finding in that image that lie at least a pixel from its border, points_lps[n, 3]."""
    core = ndimage.binary_erosion(case.truth[image] == finding, iterations=1)
    return _centres(case, image, core)


def points_outside(case: Case, image: str, count: int = 600) -> NDArray[np.float64]:
    """Points of that image that lie more than two pixels from every finding, points_lps[n, 3], the same ones each time."""
    far = ~ndimage.binary_dilation(case.truth[image] > 0, iterations=3)
    far[:4], far[-4:], far[:, :4], far[:, -4:] = False, False, False, False
    every = _centres(case, image, far)
    return every[np.random.default_rng(0).choice(len(every), count, replace=False)]


def _centres(case: Case, image: str, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return world(case.planes[image], rows.astype(np.float64), columns.astype(np.float64))


def colours_at(picture: NDArray[np.uint8], places: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The picture's colours at (x, y) places."""
    x, y = np.rint(places).astype(int).T
    return np.asarray(picture[np.clip(y, 0, picture.shape[0] - 1), np.clip(x, 0, picture.shape[1] - 1)])


def place_of(picture: NDArray[np.uint8], within: NDArray[np.bool_], finding: int) -> tuple[float, float] | None:
    """The (x, y) centre of the pixels in the finding's hue, anywhere in that part of the picture; None: there are none."""
    coloured = within & (chroma(picture) > COLOURED)
    rows, columns = np.nonzero(coloured)
    own = has_hue_of(picture[rows, columns], finding)
    if not own.any():
        return None
    return float(columns[own].mean()), float(rows[own].mean())
