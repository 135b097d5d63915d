"""A control chart of a model's scores by week: has what it sees changed since it was trusted?

The weeks up to a day are the reference; each later week is compared with it. A week is out of control where its median leaves
the range in which the reference's own weeks would lie (1 % and 99 % of medians of as many studies drawn from it), or where a
two-sample Kolmogorov-Smirnov test, corrected over weeks and figures (Holm), says at 1 % that it is another distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from storage.drift import ScoredStudy

Values = NDArray[np.float64]

LEVEL = 0.01
FEWEST = 5
"""Studies below which a week is shown and not judged."""
FEWEST_REFERENCE = 20
DRAWS = 2000
FIGURES: dict[str, Callable[[ScoredStudy], float | None]] = {
    "study score": lambda one: one.study_score,
    "distance from the reference studies": lambda one: one.domain_distance,
    "findings": lambda one: None if one.refused else float(one.findings),
}


class TooFewStudies(ValueError):
    """Raised where the reference weeks hold too few studies to compare with."""


@dataclass(frozen=True, slots=True)
class Week:
    """One figure of one week."""

    monday: date
    studies: int
    quartiles: tuple[float, float, float]
    limits: tuple[float, float]
    """Where the median of as many reference studies lies in 98 of 100 cases."""
    p: float
    """Kolmogorov-Smirnov, corrected; NaN for weeks of the reference or with too few studies."""
    out_of_control: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure over the weeks."""

    figure: str
    reference_studies: int
    weeks: tuple[Week, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """All figures of one model, and how many studies it refused."""

    model: str
    reference_until: date
    charts: tuple[Chart, ...]
    refused_reference: float
    """Share of refused studies up to that day, and after it; NaN where there is none."""
    refused_later: float

    @property
    def out_of_control(self) -> tuple[str, ...]:
        """One sentence for each week that is."""
        return tuple(
            f"week of {week.monday}: {chart.figure} has a median of {week.quartiles[1]:.2f}, ordinary is "
            f"{week.limits[0]:.2f} to {week.limits[1]:.2f} ({week.studies} studies)"
            for chart in self.charts
            for week in chart.weeks
            if week.out_of_control
        )


def drift_of(model: str, studies: Sequence[ScoredStudy], reference_until: date, seed: int = 0) -> Drift:
    """The charts of these studies; the reference is what ended up to and including that day. TooFewStudies as said above."""
    early = [one for one in studies if one.ended_at.date() <= reference_until]
    late = [one for one in studies if one.ended_at.date() > reference_until]
    if len(early) < FEWEST_REFERENCE:
        raise TooFewStudies(f"{len(early)} studies up to {reference_until}, at least {FEWEST_REFERENCE} are needed")
    charts = [_chart(name, of, early, late, seed) for name, of in FIGURES.items()]
    return Drift(model, reference_until, _judged([one for one in charts if one.weeks]), _refused(early), _refused(late))


def default_reference(studies: Sequence[ScoredStudy]) -> date:
    """The day up to which the first third of the studies ended. TooFewStudies where there is none."""
    if not studies:
        raise TooFewStudies("no finished analysis")
    return studies[max(0, len(studies) // 3 - 1)].ended_at.date()


def monday_of(moment: datetime) -> date:
    """The Monday of a moment's week."""
    return moment.date() - timedelta(days=moment.weekday())


def _chart(
    name: str, of: Callable[[ScoredStudy], float | None], early: Sequence[ScoredStudy], late: Sequence[ScoredStudy], seed: int
) -> Chart:
    reference = _values(early, of)
    if len(reference) < FEWEST_REFERENCE:
        return Chart(name, len(reference), ())
    rng = np.random.default_rng(seed)
    weeks = []
    for part, judged in ((early, False), (late, True)):
        for monday in sorted({monday_of(one.ended_at) for one in part}):
            values = _values([one for one in part if monday_of(one.ended_at) == monday], of)
            if values.size:
                weeks.append(_week(monday, values, reference, judged and values.size >= FEWEST, rng))
    return Chart(name, len(reference), tuple(weeks))


def _week(monday: date, values: Values, reference: Values, judged: bool, rng: np.random.Generator) -> Week:
    medians = np.median(rng.choice(reference, (DRAWS, values.size)), axis=1)
    low, high = (float(value) for value in np.quantile(medians, (LEVEL, 1 - LEVEL)))
    quartiles = tuple(float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    p = float(ks_2samp(values, reference).pvalue) if judged else math.nan
    return Week(monday, values.size, (quartiles[0], quartiles[1], quartiles[2]), (low, high), p, False)


def _judged(charts: Sequence[Chart]) -> tuple[Chart, ...]:
    """p-values corrected over all judged weeks of all charts (Holm 1979), and the verdict of each week."""
    found = sorted(week.p for chart in charts for week in chart.weeks if math.isfinite(week.p))
    corrected: dict[float, float] = {}
    highest = 0.0
    for rank, p in enumerate(found):
        highest = max(highest, min(1.0, p * (len(found) - rank)))
        corrected.setdefault(p, highest)
    return tuple(Chart(one.figure, one.reference_studies, tuple(_verdict(w, corrected) for w in one.weeks)) for one in charts)


def _verdict(week: Week, corrected: dict[float, float]) -> Week:
    if not math.isfinite(week.p):
        return week
    p = corrected[week.p]
    beyond = not week.limits[0] <= week.quartiles[1] <= week.limits[1]
    return Week(week.monday, week.studies, week.quartiles, week.limits, p, beyond or p < LEVEL)


def _values(studies: Sequence[ScoredStudy], of: Callable[[ScoredStudy], float | None]) -> Values:
    return np.array([value for one in studies if (value := of(one)) is not None], dtype=np.float64)


def _refused(studies: Sequence[ScoredStudy]) -> float:
    return sum(one.refused for one in studies) / len(studies) if studies else math.nan
