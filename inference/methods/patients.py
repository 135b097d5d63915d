"""The fixed list that every recipe is measured on: some slices of low-grade glioma patients that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
from numpy.typing import NDArray

from inference.brain import BrainMask
from inference.bundle import Bundle
from inference.card import ModelCard
from inference.data import Chosen, Lgg, Study, fraction_of
from inference.localizer import WayBack
from inference.preprocess import Prepared, prepare

BoolArray = NDArray[np.bool_]
Share = tuple[float, float]

TRAINING, THRESHOLD, VALIDATION = (0.0, 0.24), (0.24, 0.30), (0.30, 0.40)
"""Shares of the patients, by `fraction_of`: all below 0.4, hence development patients; the others are never opened."""
SLICES_PER_PATIENT = 8
"""Of a validation patient; half as many of one who chooses the threshold."""
_MIDDLE = (0.25, 0.85)  # of the slices of a patient, foot to head: where the brain is


@dataclass(frozen=True, slots=True)
class Shown:
    """A patient as every recipe of one grid sees it."""

    study: Study
    prepared: Prepared
    way_back: WayBack
    levels: tuple[int, ...]
    """The slices of the list, on the study's own grid."""
    seconds: float
    """Processor seconds of preparing it."""

    def truth(self) -> BoolArray:
        """What is marked on the slices of the list."""
        assert self.study.lesion is not None
        return self.study.lesion[list(self.levels)]

    def listed(self) -> BoolArray:
        """The brain on the slices of the list, on the network's grid."""
        there = np.zeros(self.study.volume.spatial_shape, dtype=np.float32)
        there[list(self.levels)] = 1
        return self.prepared.brain & (self.prepared.from_source(there, order=0) > 0.5)


def levels_of(slices: int, count: int = SLICES_PER_PATIENT) -> tuple[int, ...]:
    """The slices of a patient that are on the list: `count`, evenly spaced over the middle of the head."""
    low, high = (share * (slices - 1) for share in _MIDDLE)
    return tuple(sorted({round(value) for value in np.linspace(low, high, count)}))


def within(share: Share, patient: str) -> bool:
    """Whether a patient falls into that share."""
    return share[0] <= fraction_of(patient) < share[1]


def patients(data: Path, share: Share) -> Chosen:
    """The low-grade glioma patients of that share."""
    return Chosen(Lgg(data / "lgg_flair"), lambda patient: within(share, patient))


def shown(data: Path, share: Share, card: ModelCard, brain: Bundle) -> Iterator[Shown]:
    """The patients of that share on the grid of the card, their brain found by the bundle's network."""
    mask = BrainMask(brain.brain, grid_spacing_mm=card.grid_spacing_mm[0])
    count = SLICES_PER_PATIENT if share == VALIDATION else SLICES_PER_PATIENT // 2
    for study in patients(data, share).studies():
        started = process_time()
        prepared = prepare(study.volume, card, mask)
        seconds = process_time() - started
        yield Shown(study, prepared, WayBack.of(prepared), levels_of(study.volume.spatial_shape[0], count), seconds)
