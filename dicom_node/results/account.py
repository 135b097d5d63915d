"""Everything that the result objects of one run tell, in one value.

It is made by `dicom_node.run` and read by every builder of this package; builders take nothing from anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset

from dicom_node.outcome import Outcome, OutputOptions, PassedOver, Predecessor, Reason, SeriesInput
from dicom_node.series import SeriesVolume
from inference.types import Localization, ModelIdentity

LONGEST_DESCRIPTION = 64
"""Characters of an LO (PS3.5 6.2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A localization and the series it was made from, on one grid."""

    series: SeriesVolume
    localization: Localization


@dataclass(frozen=True, slots=True, eq=False)
class Account:
    """One run as its results tell it."""

    study_instance_uid: str
    revision: int
    """Of the study, from 1; later ones say so in every Series Description, so that a list shows which set is the newest."""
    input_digest: str
    recipe_digest: str
    """Of the request: recipe, output options and software version."""
    outcome: Outcome
    reason: Reason | None
    """Why refused or failed; None otherwise."""
    analysed: SeriesInput
    """The series that was localized, or that the refusal or failure is about."""
    passed_over: tuple[PassedOver, ...]
    headers: tuple[Dataset, ...]
    """Sanitised headers of the analysed series, in slice order where there is a volume; never empty."""
    analysis: Analysis | None
    """None where refused or failed."""
    model: ModelIdentity
    body_part: str
    """Body Part Examined the model is for; empty where its card cannot be read."""
    blind_spots: tuple[str, ...]
    quality: tuple[str, ...]
    """Sentences about the input, from reading and from the model."""
    created: datetime
    """When the analysis began, in the time zone of the source's headers; the content date and time of every object."""
    output: OutputOptions
    taken_series_numbers: tuple[int, ...]
    predecessors: tuple[Predecessor, ...]

    @property
    def localization(self) -> Localization | None:
        """What was found, where anything was looked for."""
        return None if self.analysis is None else self.analysis.localization

    @property
    def title(self) -> str:
        """Model, revision and outcome: the Series Description of the main objects."""
        return self.described("")

    def described(self, what: str) -> str:
        """What a series holds, whose it is, its revision and outcome in at most 64 characters; the model's name gives way."""
        start = f"{what}: " if what else ""
        ending = f"{f' rev {self.revision}' if self.revision > 1 else ''}: {self._outcome}"
        model = f"Fovea {self.model.name} {self.model.version}"
        return f"{start}{model[: LONGEST_DESCRIPTION - len(start) - len(ending)]}{ending}"

    @property
    def _outcome(self) -> str:
        found = len(self.localization.findings) if self.localization else 0
        match self.outcome:
            case Outcome.FINDINGS:
                return "1 finding" if found == 1 else f"{found} findings"
            case Outcome.NO_FINDING:
                return "no finding"
            case Outcome.REFUSED:
                return "not analysed"
            case Outcome.FAILED:
                return "analysis failed"

    def series_numbers(self, count: int) -> list[int]:
        """The first free series numbers from the configured base on."""
        taken = set(self.taken_series_numbers)
        number = self.output.series_number_base
        free: list[int] = []
        while len(free) < count:
            if number not in taken:
                free.append(number)
            number += 1
        return free
