"""What goes into a run and what comes out: plain values that cross the border to the child process as JSON and bytes.

The parent builds a `RunRequest` from rows, the child answers with a `RunOutcome`; neither side shares memory, a database
or a file system beyond the files the request names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How an analysis ended, as the radiologist is told."""

    FINDINGS = "findings"
    NO_FINDING = "no finding"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a series was passed over, an analysis refused, or a run given up: a stable code and a sentence."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class SeriesInput:
    """One analysed series: its files, absolute, in no particular order."""

    series_instance_uid: str
    series_number: int | None
    description: str
    modality: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One series of the study that was not analysed, and why."""

    series_instance_uid: str
    series_number: int | None
    description: str
    modality: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A report of ours that the new one supersedes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


KIND_OF_OBJECT = {
    "seg": "SEG",
    "sr": "SR",
    "parametric-map": "MAP",
    "uncertainty": "UNCERTAINTY",
    "pseudo-healthy": "HEALTHY",
    "capture": "CAPTURE",
    "presentation-state": "GSPS",
    "pdf": "PDF",
}
"""By the word of the settings, what a result of that kind is called in rows and on the web page."""


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Which result objects there are and how they look; part of what makes their UIDs."""

    character_set: str = "ISO_IR 192"
    series_number_base: int = 9000
    institution: str = ""
    station_name: str = "FOVEA"
    ae_title: str = "FOVEA"
    objects: tuple[str, ...] = ("seg", "sr")
    """Words of KIND_OF_OBJECT."""
    map_values: str = "float32"
    """`float32` or `uint16`: how a parametric map stores its values."""
    map_extent: str = "whole"
    """`whole` or `brain`: a value for every pixel of the source, or inside the brain's bounding box only."""
    segmentation: str = "binary"
    """`binary` or `labelmap`."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything a run needs. `refusal` or `failure` set: no pixel is decoded, only the report that says so is made."""

    job_id: int
    study_instance_uid: str
    revision: int
    rule: str
    analysed: tuple[SeriesInput, ...]
    passed_over: tuple[PassedOver, ...]
    bundle: str
    """Folder of the model bundle."""
    model_digest: str
    recipe: str
    """Name of the recipe; empty: the card's first."""
    recipe_digest: str
    input_digest: str
    device: str
    threads: int
    output: OutputOptions
    taken_series_numbers: tuple[int, ...]
    """Series numbers already used in the study."""
    predecessors: tuple[Predecessor, ...] = ()
    refusal: Reason | None = None
    failure: Reason | None = None
    identity: tuple[tuple[str, str], ...] = ()
    """What the study's newest instance says of the patient, by keyword: the results carry it where the analysed images differ."""
    remarks: tuple[str, ...] = ()
    """Sentences about how complete the study was, for the report."""
    analysis_started_at: str = ""
    """ISO 8601 with zone: start of the job's first attempt, the same for every retry; content date and time of the results."""


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One encoded DICOM object, Part 10 file format."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG for the web page."""

    name: str
    """File name without folder: letters, digits, dash, dot."""
    caption: str
    data: bytes


@dataclass(frozen=True, slots=True)
class FindingSummary:
    """What the web page, the command line and the audit show of one finding."""

    number: int
    contrast: str
    volume_mm3: float
    long_axis_mm: float
    centroid_lps: tuple[float, float, float]
    hemisphere: str | None
    peak_score: float
    mean_score: float
    tracking_uid: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The run in a few numbers and the report as text."""

    outcome: Outcome
    reason: Reason | None
    findings: tuple[FindingSummary, ...]
    findings_left_out: int
    study_score: float | None
    threshold: float | None
    quality: tuple[str, ...]
    report_text: str
    """The report as plain text, one statement a line."""
    seconds: dict[str, float]
    """Stages of the run: `read`, `localize`, `encode`, `draw`."""
    network_evaluations: int
    gflop: float
    peak_memory_mb: float
    domain_distance: float | None = None
    """How far the study lies from those the model was calibrated on; None where the card has no reference."""

    def as_json(self) -> dict[str, Any]:
        """The summary as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Summary:
        """The summary a row or a child's answer holds."""
        values = dict(stored)
        values["outcome"] = Outcome(values["outcome"])
        values["reason"] = Reason(**values["reason"]) if values["reason"] else None
        values["findings"] = tuple(
            FindingSummary(**{**finding, "centroid_lps": tuple(finding["centroid_lps"])}) for finding in values["findings"]
        )
        values["quality"] = tuple(values["quality"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run hands back."""

    objects: tuple[ResultObject, ...]
    pictures: tuple[Picture, ...]
    summary: Summary


def request_to_json(request: RunRequest) -> bytes:
    """The request as UTF-8 JSON."""
    return json.dumps(asdict(request)).encode()


def request_from_json(data: bytes) -> RunRequest:
    """The request from UTF-8 JSON."""
    values: dict[str, Any] = json.loads(data)
    values["analysed"] = tuple(SeriesInput(**{**one, "files": tuple(one["files"])}) for one in values["analysed"])
    values["passed_over"] = tuple(PassedOver(**{**one, "reason": Reason(**one["reason"])}) for one in values["passed_over"])
    values["output"] = OutputOptions(**{**values["output"], "objects": tuple(values["output"]["objects"])})
    values["taken_series_numbers"] = tuple(values["taken_series_numbers"])
    values["remarks"] = tuple(values["remarks"])
    values["predecessors"] = tuple(Predecessor(**one) for one in values["predecessors"])
    values["identity"] = tuple((keyword, value) for keyword, value in values["identity"])
    for key in ("refusal", "failure"):
        values[key] = Reason(**values[key]) if values[key] else None
    return RunRequest(**values)
