"""The same figures for parts of a set: who is served worse, and which lesions are missed.

Lesions are grouped by volume and by sign of contrast, patients by site, sex and age. A group of fewer than three patients
has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.evaluation.case import Case
from inference.evaluation.cohort import Cohort
from inference.evaluation.curves import STATISTICS
from inference.evaluation.lesions import Lesion
from inference.evaluation.maps import SCORE
from inference.evaluation.resampling import Estimate, ratio_of

VOLUME_BANDS = (("under 0.1 mL", 0.0, 100.0), ("0.1 to 1 mL", 100.0, 1000.0), ("1 to 10 mL", 1000.0, 10_000.0))
VOLUME_LAST = ("10 mL and more", 10_000.0, math.inf)
SIGNS = ("brighter", "isointense", "darker", "unknown")
AGE_BANDS = ((0, 18), (18, 40), (40, 65), (65, 80), (80, 130))
PATIENT_FIGURES = ("dice_mean", "lesion_sens", "fp_per_scan", "fp_volume_ml")


@dataclass(frozen=True, slots=True)
class Stratum:
    """One group; `count` is lesions or patients, as `kind` says."""

    kind: str
    group: str
    count: int
    figures: dict[str, Estimate]


def strata(cohort: Cohort) -> tuple[Stratum, ...]:
    """Every group that holds anything; patients are grouped only where something is known of them."""
    found = [_lesion_stratum(cohort, "lesion volume", name, _between(low, high)) for name, low, high in _bands()]
    found += [_lesion_stratum(cohort, "lesion contrast", sign, _signed(sign)) for sign in SIGNS]
    for kind, key in (("site", _site), ("sex", _sex), ("age", _age)):
        groups = sorted({key(case) for case in cohort.cases} - {""})
        found += [_patient_stratum(cohort, kind, group, key) for group in groups]
    return tuple(one for one in found if one.count)


def _bands() -> tuple[tuple[str, float, float], ...]:
    return (*VOLUME_BANDS, VOLUME_LAST)


def _between(low: float, high: float) -> Callable[[Lesion], bool]:
    return lambda lesion: low <= lesion.volume_mm3 < high


def _signed(sign: str) -> Callable[[Lesion], bool]:
    return lambda lesion: lesion.sign == sign


def _lesion_stratum(cohort: Cohort, kind: str, name: str, belongs: Callable[[Lesion], bool]) -> Stratum:
    groups = [[lesion for lesion in case.delivered.matched.lesions if belongs(lesion)] for case in cohort.cases]
    lesions = np.array([len(group) for group in groups], dtype=np.float64)
    hits = np.array([sum(lesion.found for lesion in group) for group in groups], dtype=np.float64)
    touched = np.array([sum(lesion.touched for lesion in group) for group in groups], dtype=np.float64)
    figures = {
        "lesion_sens": cohort.estimate(ratio_of(hits, lesions)),
        "lesion_sens_any": cohort.estimate(ratio_of(touched, lesions)),
    }
    return Stratum(kind, name, int(lesions.sum()), figures)


def _patient_stratum(cohort: Cohort, kind: str, group: str, key: Callable[[Case], str]) -> Stratum:
    part = replace(cohort, cases=[case for case in cohort.cases if key(case) == group])
    delivered = part.delivered()
    figures = {name: delivered[name] for name in PATIENT_FIGURES}
    rows = part.curve_rows(SCORE)
    figures["ap_pooled"] = part.resampling.estimate(rows[:, STATISTICS.index("ap_pooled")])
    return Stratum(kind, group, part.resampling.patients, figures)


def _site(case: Case) -> str:
    return case.traits.site


def _sex(case: Case) -> str:
    return case.traits.sex


def _age(case: Case) -> str:
    age = case.traits.age_years
    if math.isnan(age):
        return ""
    return next((f"{low:>3} to {high - 1}" for low, high in AGE_BANDS if low <= age < high), "")


def listed(found: Sequence[Stratum], kind: str) -> tuple[Stratum, ...]:
    """The groups of one kind."""
    return tuple(one for one in found if one.kind == kind)
