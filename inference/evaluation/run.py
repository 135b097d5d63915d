"""One run of an evaluation: every study of every source under every localizer, thresholds fixed on other patients first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from inference.data import Reader, Study, chosen
from inference.evaluation.case import Case, Rules, measure_case
from inference.evaluation.cohort import Cohort, Fixed, SharedPatients
from inference.evaluation.resampling import DRAWS
from inference.evaluation.summary import Measured
from inference.localizer import Context, Localizer
from inference.types import Refusal

Progress = Callable[[str, str], None]
"""Told the set and the patient as each study is begun."""

NOT_FIXED = "nobody: only the bundle's own operating point is fixed"


class NothingMeasured(ValueError):
    """Raised where a source holds no study that could be measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and on whom thresholds are fixed."""

    readers: Sequence[Reader]
    split: str = "all"
    """`development`, `held-out` or `all` patients of each source are measured."""
    fixed_on_development: bool = False
    """The development patients of each source fix thresholds for its others; then only those are measured."""
    fixed_on: Reader | None = None
    """Another source whose patients fix the thresholds."""
    limit: int | None = None
    """No more than this many studies of each source, and as many to fix thresholds on."""
    rules: Rules = field(default_factory=Rules)
    draws: int = DRAWS
    context: Context = field(default_factory=Context)


def measure_sets(localizers: Mapping[str, Localizer], plan: Plan, progress: Progress = lambda *_: None) -> list[Measured]:
    """Every source measured. NothingMeasured naming a source that gave nothing; SharedPatients as in `cohort`."""
    elsewhere = _fixed(localizers, plan, plan.fixed_on, "all", progress) if plan.fixed_on is not None else {}
    found = []
    for reader in plan.readers:
        fixed, words = elsewhere, NOT_FIXED
        if plan.fixed_on_development:
            fixed = _fixed(localizers, plan, reader, "development", progress)
        split = "held-out" if plan.fixed_on_development and plan.split == "all" else plan.split
        barred = frozenset(patient for one in fixed.values() for patient in one.patients)
        cases, refused = _measured(localizers, plan, reader, split, plan.rules, progress, barred)
        if fixed:
            source = reader.name if plan.fixed_on is None else plan.fixed_on.name
            words = f"{len(next(iter(fixed.values())).patients)} other patients of {source}"
        if not next(iter(cases.values())):
            raise NothingMeasured(f"{reader.name}: no study was measured; {len(refused)} were refused")
        cohorts = {label: Cohort(own, fixed.get(label, Fixed()), plan.draws) for label, own in cases.items()}
        found.append(Measured(reader.name, words, cohorts, tuple(refused)))
    return found


def _fixed(localizers: Mapping[str, Localizer], plan: Plan, reader: Reader, split: str, progress: Progress) -> dict[str, Fixed]:
    rules = Rules(plan.rules.minimum_mm3, pictures=False)
    cases, _ = _measured(localizers, plan, reader, split, rules, progress)
    return {label: Fixed.on(own) for label, own in cases.items() if own}


def _measured(
    localizers: Mapping[str, Localizer],
    plan: Plan,
    reader: Reader,
    split: str,
    rules: Rules,
    progress: Progress,
    barred: frozenset[str] = frozenset(),
) -> tuple[dict[str, list[Case]], list[str]]:
    """The cases by localizer; a study that any of them refuses is left out of all, so that comparisons stay paired.

    SharedPatients at the first patient that is barred for having fixed a threshold.
    """
    cases: dict[str, list[Case]] = {label: [] for label in localizers}
    refused: list[str] = []
    for study in _limited(chosen(reader.studies(), split), plan.limit):
        if study.patient in barred:
            raise SharedPatients(f"{study.patient} both fixed the thresholds and would be measured with them")
        progress(reader.name, study.patient)
        try:
            found = {label: measure_case(one, study, rules, plan.context) for label, one in localizers.items()}
        except Refusal as error:
            refused.append(f"{study.patient}: {error.code}: {error}")
            continue
        for label, case in found.items():
            cases[label].append(case)
    return cases, refused


def _limited(studies: Iterable[Study], limit: int | None) -> Iterator[Study]:
    return itertools.islice(studies, limit)
