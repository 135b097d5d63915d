"""The model card that every bundle carries: who the model is, what it may be shown, and what is known of its limits.

A bundle is a folder: `card.json` (this), one or more `*.safetensors`, `MODEL_CARD.md` for people. The card names the
SHA-256 of every other file, so the digest of the card is the digest of the model. Readable without torch.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CARD_NAME = "card.json"
BRAIN = "brain"
"""The name of the network that every bundle has."""

Range = Annotated[tuple[float, float], Field(description="inclusive lower and upper bound")]


class BundleError(Exception):
    """Raised when a bundle is missing, unreadable, or not the one its card describes."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Validity(_Part):
    """What the model may be shown; everything else is refused with a reason code."""

    modality: str
    body_part: str
    contrast: str
    """The weighting it was trained for, e.g. `FLAIR`."""
    echo_time_ms: Range
    inversion_time_ms: Range
    slices: tuple[int, int]
    pixel_spacing_mm: Range
    slice_spacing_mm: Range
    field_of_view_mm: Range
    """In-plane extent, the shorter side."""
    maximum_tilt_deg: float
    """Greatest angle between the slice normal and the patient's foot-head axis."""
    age_years: Range


class Calibration(_Part):
    """Quantiles of the raw score over reference voxels, one table for each sign of contrast."""

    reference: str
    """What the reference voxels are, in words."""
    voxels: int
    raw: dict[str, tuple[float, ...]]
    """Keyed `brighter` and `darker`: rising raw scores at the fractions below."""
    exceedance: tuple[float, ...]
    """Falling fractions of reference voxels that score at least as high as the raw score at the same place."""


class OperatingPointCard(_Part):
    threshold: dict[str, float]
    """Keyed `brighter` and `darker`, on the calibrated score."""
    minimum_volume_mm3: float
    least_evidence: dict[str, float] = {}
    """Keyed likewise: a finding's peak score plus log10 of its volume in mm3 must reach it; nothing is asked where absent.
    Height and extent weigh together, as in the combined test of Poline et al. 1997 (doi 10.1006/nimg.1996.0248)."""
    maximum_findings: int
    rule: str


class DomainReference(_Part):
    """What ordinary studies look like to the model (see `inference.domain`): the gate for those that do not."""

    reference: str
    """Which studies, in words."""
    figures: tuple[str, ...]
    """What was measured of each; the order of every list below."""
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    distances: tuple[float, ...]
    """Rising: each reference study's distance from all the others."""
    remark_above: float
    """Distance above which the reader is told."""
    refuse_above: float | None
    """Distance above which the study is refused; None: never."""


class Source(_Part):
    """One source of training or reference data."""

    name: str
    licence: str
    use: str
    digest: str
    count: int


class NetworkCard(_Part):
    """One network of a bundle."""

    kind: str
    """One of `inference.networks.KINDS`."""
    arguments: dict[str, int | float | str | list[int] | list[bool]]

    @property
    def multiple(self) -> int:
        """Rows and columns of what it is shown must be a multiple of this."""
        value = self.arguments.get("multiple", 1)
        if not isinstance(value, int) or value < 1:
            raise BundleError(f"networks: multiple {value!r} is not a whole number above 0")
        return value


class ModelCard(_Part):
    """The whole card. Unknown keys are an error."""

    schema_version: int = 2
    name: str
    version: str
    manufacturer: str
    summary: str
    intended_use: str
    validity: Validity
    recipes: tuple[str, ...]
    """Recipes this bundle's network was trained for; the first is the default."""
    networks: dict[str, NetworkCard]
    """By the names that recipes use; `brain` finds the brain. The weights of NAME are in the file NAME.safetensors."""
    grid_spacing_mm: Range
    """In-plane and, where resampled, through-plane spacing that the network sees."""
    ordinary_contrast: float = 0.0
    """Standardised units from the median of a brain to its upper quartile: flatter images are stretched until they have it, at
    most twofold (`inference.preprocess.stretch_of`). 0: none is."""
    calibration: dict[str, Calibration]
    """Keyed by recipe."""
    operating_point: dict[str, OperatingPointCard]
    """Keyed by recipe."""
    blind_spots: tuple[str, ...]
    """Sentences, measured, that go into every report without findings."""
    sources: tuple[Source, ...]
    training: dict[str, str | int | float]
    """Command, seed, steps, minutes, device."""
    measured: dict[str, float | int | str]
    """Headline figures with the command that gave them."""
    domain: dict[str, DomainReference] = {}
    """Keyed by recipe; the gate is off for a recipe that is not named."""
    files: dict[str, str]
    """Relative file name to SHA-256 (hex)."""
    distributable: bool = True
    """False where a source of the weights forbids handing them on; the summary says so too."""

    @property
    def multiple(self) -> int:
        """Rows and columns that the networks other than the brain's are shown must be a multiple of this."""
        return math.lcm(*(one.multiple for name, one in self.networks.items() if name != BRAIN))

    @model_validator(mode="before")
    @classmethod
    def _from_schema_1(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Cards of schema 1 held one flat table for a restorer and, its keys prefixed, the brain network."""
        if not isinstance(fields, dict) or "network" not in fields:
            return fields
        table = fields["network"]
        prefix = f"{BRAIN}_"
        restorer = {key: value for key, value in table.items() if not key.startswith(prefix)}
        brain = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
        networks = {
            "restorer": {"kind": "restorer", "arguments": restorer},
            BRAIN: {"kind": "brain", "arguments": brain},
        }
        return {key: value for key, value in fields.items() if key != "network"} | {"networks": networks, "schema_version": 2}


def card_digest(folder: Path) -> str:
    """The SHA-256 (hex) of the bundle's card, hence of the bundle. Raises BundleError where there is none."""
    try:
        return hashlib.sha256((folder / CARD_NAME).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"no model card at {folder / CARD_NAME}: {error.strerror}") from error


def read_card(folder: Path) -> ModelCard:
    """The bundle's card. Raises BundleError with file and key where it cannot be read; weights are not looked at."""
    path = folder / CARD_NAME
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"no model card at {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise BundleError(f"{path}: {where}: {first['msg']}") from error


def verify_files(folder: Path, card: ModelCard) -> None:
    """Compare every file the card names with its digest. Raises BundleError naming the first that differs."""
    for name, expected in card.files.items():
        path = folder / name
        if path.parent != folder or path.suffix in {".pt", ".pth", ".pkl", ".bin", ".ckpt"}:
            raise BundleError(f"{path}: only files in the bundle's own folder, and no pickles, may be named by a card")
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: named by the card, {error.strerror}") from error
        if found != expected:
            raise BundleError(f"{path}: SHA-256 is {found}, the card says {expected}")
