"""What is known of whether a study is all there, when it settles: announced counts, gaps in the numbering, a broken association.

DICOM has no word for "the last image" in C-STORE, so nothing here proves that a study is whole; each sentence tells a reason to
think that it is not. Objects that were exported from an archive may carry its counts (PS3.4 C.3.4: Number of Study Related
Instances (0020,1208), Number of Series Related Instances (0020,1209)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from dicom_node.header import InstanceHeader
from dicom_node.routing import SeriesFacts, StudyFacts

BROKEN_OFF = "the last association of its sender ended without a release"
FEWEST_NUMBERS = 3
"""Instance Numbers that make a numbering: of two nobody can say what step they keep."""


def shortfalls(study: StudyFacts, *, own_results: int, interrupted: bool) -> tuple[str, ...]:
    """Every reason to think that instances are missing, a sentence each; empty where nothing speaks for it.

    `own_results` are objects that this node made for the study: an archive counts them once it has them.
    """
    present = sum(len(series.headers) for series in study.series)
    announced = max((_announced_of_study(series.headers) for series in study.series), default=0)
    found = [f"its sender announced {announced} instances and {present} are here"] if announced > present + own_results else []
    for series in study.series:
        found += _shortfalls_of(series)
    return (*found, BROKEN_OFF) if interrupted else tuple(found)


def missing_numbers(headers: Sequence[InstanceHeader]) -> int:
    """How many Instance Numbers (0020,0013) the series leaves out between its first and its last, at its usual step.

    0 for a numbering that more numbers are missing from than there are: it is not consecutive at all.
    """
    numbers = sorted({one.instance_number for one in headers if one.has_pixel_data and one.instance_number is not None})
    if len(numbers) < FEWEST_NUMBERS:
        return 0
    steps = [after - before for before, after in pairwise(numbers)]
    counts = Counter(steps)
    usual = min(counts, key=lambda step: (-counts[step], step))
    missing = sum((step - 1) // usual for step in steps)
    return missing if missing < len(numbers) else 0


def _announced_of_study(headers: Sequence[InstanceHeader]) -> int:
    return max((one.number_of_study_related_instances or 0 for one in headers), default=0)


def _shortfalls_of(series: SeriesFacts) -> list[str]:
    name = f"series {series.series_number if series.series_number is not None else series.series_instance_uid}"
    announced = max((one.number_of_series_related_instances or 0 for one in series.headers), default=0)
    found = []
    if announced > len(series.headers):
        found.append(f"its sender announced {announced} instances of {name} and {len(series.headers)} are here")
    elif missing := missing_numbers(series.headers):
        found.append(f"the instance numbers of {name} leave out {missing}")
    return found
