"""A recipe: which five parts make up a published method, with which numbers, and how its networks are trained.

Parts are frozen values, so a recipe is one too, and its digest says years later which numbers a result came
from. What only training needs stands apart and is no part of that digest: the weights have one of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from inference.card import OperatingPointCard
from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.postprocess import PostProcessor
from inference.samplers import Sampler
from inference.scorers import Scorer

if TYPE_CHECKING:
    from inference.objectives import Objective

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


class Scheme(StrEnum):
    """How much a method is told while it is trained (the review's order, arXiv 2410.23834)."""

    BASELINE = "baseline"
    UNSUPERVISED = "unsupervised"
    SELF_SUPERVISED = "self-supervised"
    WEAKLY = "weakly supervised"
    SEMI = "semi-supervised"
    FULLY = "fully supervised"


class Labels(StrEnum):
    """What must be known of the training images."""

    NONE = "none: images believed healthy"
    IMAGE = "one label per slice: lesion or not"
    FEW_MASKS = "masks of a few slices"
    MASKS = "a mask for every slice"


class Material(StrEnum):
    """Which of the training slices a stage draws from."""

    HEALTHY = "healthy"
    """Slices believed healthy: synthetic, public and the user's own."""
    LABELLED = "labelled"
    """Slices of studies with marked lesions, with their masks."""
    FEW = "few"
    """Ten of the labelled slices that show a lesion."""
    UNLABELLED = "unlabelled"
    """All of them, whatever they show; the masks are not to be looked at."""


class Unit(StrEnum):
    """What of a study a method is shown together, in training and at run time."""

    SLICES = "slices, each for itself"
    VOLUME = "volume: all slices from the first with brain to the last"


@dataclass(frozen=True, slots=True)
class GridPlan:
    """The slices that training sees; at run time slices have the same spacing and any size."""

    rows: int = 96
    columns: int = 80
    spacing_mm: float = 2.4


Argument = int | float | str | list[int] | list[bool]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One network of a recipe: its name in the bundle, its kind, and the arguments of that kind (`inference.networks`)."""

    name: str
    kind: str
    arguments: Mapping[str, Argument]

    @property
    def multiple(self) -> int:
        """Rows and columns of what it is shown must be a multiple of this."""
        value = self.arguments.get("multiple", 1)
        return value if isinstance(value, int) else 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One training: which networks learn what from which slices. Networks of earlier stages may be used, and stay."""

    trains: tuple[str, ...]
    objective: Objective
    material: Material = Material.HEALTHY
    batch: int = 16
    """Slices of a step; where the unit is a volume, a step sees one study."""
    learning_rate: float = 4e-4
    share: float = 1.0
    """Of the steps or minutes of the whole training, relative to the other stages."""


@dataclass(frozen=True, slots=True)
class Training:
    """How the networks of a recipe come about."""

    networks: tuple[NetworkSpec, ...]
    stages: tuple[Stage, ...]
    grid: GridPlan = GridPlan()

    @property
    def multiple(self) -> int:
        """Rows and columns that the networks are shown must be a multiple of this."""
        return math.lcm(*(one.multiple for one in self.networks))


UNTRAINED = Training((), ())
"""For a recipe that asks no network."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One method: five parts, the numbers inside them, the paper they come from, and its training."""

    name: str
    paper: str
    corruptor: Corruptor
    denoiser: Denoiser
    sampler: Sampler
    scorer: Scorer
    postprocessor: PostProcessor
    scheme: Scheme = Scheme.UNSUPERVISED
    labels: Labels = Labels.NONE
    unit: Unit = field(default=Unit.SLICES, metadata={"digested": False})  # the parts of one unit are not those of the other
    training: Training = field(default=UNTRAINED, metadata={"digested": False})

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks that it uses, beside the brain's."""
        return tuple(spec.name for spec in self.training.networks)

    def canonical_json(self, operating_point: OperatingPointCard) -> str:
        """Parts, numbers and operating point with sorted keys and no spaces; equal for equal recipes only."""
        content = {"recipe": plain(self), "operating_point": plain(operating_point.model_dump())}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self, operating_point: OperatingPointCard) -> str:
        """SHA-256 (hex) over the canonical JSON."""
        return hashlib.sha256(self.canonical_json(operating_point).encode()).hexdigest()


def plain(value: object) -> Plain:
    """The value as JSON; a part becomes its class name and fields, a function its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        content = {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.metadata.get("digested", True)}
        return {"part": type(value).__name__, **content}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(f"a recipe holds numbers, words, parts and functions, not {type(value).__name__}")
