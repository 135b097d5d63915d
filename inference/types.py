"""What a localization is: the values that leave `inference`, all immutable and free of torch.

Coordinates are LPS in millimetres. Arrays are indexed score[slice, row, column] on the grid of the volume that went
in, carried by `highdicom.Volume` together with the affine that maps those indices to LPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from highdicom import Volume


class Refusal(Exception):
    """Raised when the input is outside what the model declares; `code` is stable, the message is for a person."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Contrast(StrEnum):
    """The sign of a departure from the healthy estimate."""

    BRIGHTER = "brighter"
    DARKER = "darker"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model spoke: name and version for people, the digest for certainty."""

    name: str
    version: str
    manufacturer: str
    digest: str
    """SHA-256 (hex) over the model card, which itself holds the digest of every weight file."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one localization spent."""

    network_evaluations: int
    """Forward passes of any network over one slice, summed over slices."""
    gflop: float
    seconds: float
    peak_memory_mb: float
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One connected region above the operating point, measured on the source grid."""

    number: int
    """1..n by falling volume; the value of this finding in `Localization.labels`."""
    contrast: Contrast
    voxels: int
    volume_mm3: float
    centroid_lps: tuple[float, float, float]
    long_axis_mm: float
    """Greatest distance between two voxel centres of the region."""
    extents_mm: tuple[float, float, float]
    """Extent along the patient's left-right, posterior-anterior and foot-head axes, voxel size included."""
    bounding_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """Half-open index ranges (slice, row, column) on the source grid."""
    peak_score: float
    mean_score: float
    hemisphere: str | None
    """`left` or `right` of the patient, `both` where it crosses the midline, None where the midline is unknown."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The threshold a finding had to pass, and where that threshold comes from."""

    threshold: float
    """On the calibrated score: minus log10 of the fraction of reference voxels that score at least as high."""
    minimum_volume_mm3: float
    rule: str
    """One sentence: on which data and by which rule it was fixed."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything needed to say, years later, how this localization came about."""

    model: ModelIdentity
    recipe: str
    recipe_digest: str
    """SHA-256 (hex) over the recipe's parts and numbers, the operating point included."""
    seed: int
    levels: tuple[float, ...]
    operating_point: OperatingPoint
    cost: Cost
    quality: tuple[str, ...]
    """Sentences for the reader about the input's quality; empty where nothing was remarkable."""


@dataclass(frozen=True, slots=True)
class DomainFit:
    """How a study compares with those the model was calibrated on."""

    distance: float
    """Mahalanobis distance of its figures (`inference.domain`) from the reference's mean."""
    p: float
    """Share of reference studies, this one counted among them, that lie at least as far out."""
    limit: float
    """Distance above which the reader is told."""
    outside: tuple[str, ...]
    """Its figures beyond the reference's lowest and highest, in words, the farthest first."""


@dataclass(frozen=True, slots=True)
class Localization:
    """Where a volume departs from healthy anatomy. Every volume lies on the grid of the input."""

    score: Volume
    """float32; minus log10 of the fraction of reference voxels whose raw score is at least as high; 0 is ordinary. Beyond every
    reference voxel it rises by less than one more."""
    raw: Volume
    """float32; what the recipe's scorer gave before calibration, positive where brighter than healthy: for most recipes the
    residual in standardised units, for an outlining one residual and probability together."""
    brain: Volume
    """uint8; 1 inside the brain, where the score is defined; outside the score is 0."""
    labels: Volume
    """uint16; 0 is background, n the finding with that number."""
    pseudo_healthy: Volume | None
    """float32; the healthy estimate in the units of the input."""
    uncertainty: Volume | None
    """float32; standard deviation of the healthy estimate over levels or draws, in standardised units."""
    findings: tuple[Finding, ...]
    findings_left_out: int
    """How many smaller findings were above the operating point but over the cap on their number."""
    study_score: float
    """The 99.5th percentile of the score inside the brain."""
    provenance: Provenance
    domain: DomainFit | None = None
    """None where the model's card has no reference to compare with."""
