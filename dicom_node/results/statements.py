"""What a report says in words: one list of statements, for the structured report and for plain text alike."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.coding import Code

from dicom_node.outcome import Outcome, PassedOver, SeriesInput
from dicom_node.results import codes
from dicom_node.results.account import Account
from inference.types import Finding, Localization

NOTHING_FOUND = "No region above the operating point; not evidence of a normal examination"
RESEARCH_USE = "Research use; not a medical device"
SCORE_MEANING = (
    "Departure score: minus log10 of the fraction of reference voxels that score at least as high. 0 is ordinary, "
    "3 is reached by one reference voxel in a thousand. It is not a probability of disease."
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: what kind, and the sentence."""

    concept: Code
    text: str


def statements(account: Account) -> list[Statement]:
    """Everything the report says beside its measurements, in the order a reader needs it."""
    said = [Statement(codes.IMPRESSION, headline(account)), Statement(codes.INTENDED_USE, RESEARCH_USE)]
    if account.reason is not None:
        said.append(Statement(codes.REASON, f"{account.reason.text} (code {account.reason.code})"))
    if account.localization is not None:
        said += _about_the_score(account.localization)
    if account.outcome is Outcome.NO_FINDING:
        said += [Statement(codes.BLIND_SPOT, text) for text in account.blind_spots]
    said += [Statement(codes.INPUT_QUALITY, text) for text in account.quality]
    concept = codes.SERIES_NOT_ANALYSED if account.analysis is None else codes.SERIES_ANALYSED
    said.append(Statement(concept, _analysed(account)))
    said += [
        Statement(codes.SERIES_PASSED_OVER, f"{_named(one)}: {one.reason.text} (code {one.reason.code})")
        for one in account.passed_over
    ]
    said.append(Statement(codes.MODEL, _model(account)))
    if account.predecessors:
        count = len(account.predecessors)
        earlier = "an earlier report" if count == 1 else f"{count} earlier reports"
        said.append(Statement(codes.SUPERSEDES, f"Revision {account.revision} of the study: this report supersedes {earlier}."))
    return said


def headline(account: Account) -> str:
    """The outcome in one sentence."""
    match account.outcome:
        case Outcome.FINDINGS:
            count = len(account.localization.findings) if account.localization else 0
            return f"{count} {'region departs' if count == 1 else 'regions depart'} from healthy anatomy"
        case Outcome.NO_FINDING:
            return NOTHING_FOUND
        case Outcome.REFUSED:
            return "Not analysed: the series is not suitable. Nothing was looked for"
        case Outcome.FAILED:
            return "The analysis failed. Nothing can be said about the images"


def describe(finding: Finding) -> str:
    """One finding in one line."""
    side = {"left": ", left hemisphere", "right": ", right hemisphere", "both": ", both hemispheres"}
    return (
        f"Finding {finding.number}: {finding.contrast} than healthy{side.get(finding.hemisphere or '', '')}, "
        f"{finding.volume_mm3 / 1000:.3g} cm3, long axis {finding.long_axis_mm:.1f} mm, "
        f"centre {place(finding.centroid_lps)}, "
        f"peak score {finding.peak_score:.2f}, mean score {finding.mean_score:.2f}"
    )


def place(point_lps: tuple[float, float, float]) -> str:
    """A point as a radiologist reads it, e.g. `L 23.1 P 10.0 H 41.2 mm`."""
    letters = (("L", "R"), ("P", "A"), ("H", "F"))
    parts = [
        f"{positive if value >= 0 else negative} {abs(value):.1f}"
        for value, (positive, negative) in zip(point_lps, letters, strict=True)
    ]
    return " ".join(parts) + " mm"


def plain_text(account: Account) -> str:
    """The report as text, one statement a line."""
    said = statements(account)
    lines = [said[0].text]
    if account.localization is not None:
        lines += [describe(finding) for finding in account.localization.findings]
        lines.append(f"Study score {account.localization.study_score:.2f} (99.5th percentile inside the brain)")
    lines += [f"{one.concept.meaning}: {one.text}" for one in said[1:]]
    return "\n".join(lines)


def _about_the_score(localization: Localization) -> list[Statement]:
    point = localization.provenance.operating_point
    said = [
        Statement(
            codes.OPERATING_POINT,
            f"Departure score {point.threshold:.2f} or more over {point.minimum_volume_mm3:.0f} mm3 or more. {point.rule}",
        ),
        Statement(codes.SCORE_MEANING, SCORE_MEANING),
    ]
    if localization.findings_left_out:
        text = f"{localization.findings_left_out} smaller regions above the operating point are not listed."
        said.append(Statement(codes.FINDINGS_LEFT_OUT, text))
    return said


def _analysed(account: Account) -> str:
    series = account.analysed
    images = f"{len(account.analysis.series.volume.array)} slices" if account.analysis else f"{len(series.files)} files"
    return f"{_named(series)}: {images}"


def _named(series: SeriesInput | PassedOver) -> str:
    number = "" if series.series_number is None else f" {series.series_number}"
    return f"Series{number} ({series.description or 'no description'}, {series.modality}, {series.series_instance_uid})"


def _model(account: Account) -> str:
    text = f"{account.model.name} {account.model.version}, model card SHA-256 {account.model.digest}"
    if account.localization is None:
        return text
    provenance = account.localization.provenance
    levels = ", ".join(f"{level:g}" for level in provenance.levels)
    return (
        f"{text}; recipe {provenance.recipe}, SHA-256 {provenance.recipe_digest}; levels {levels}; "
        f"seed {provenance.seed}; {provenance.cost.network_evaluations} network evaluations"
    )
