"""A recipe: which five parts make up a published method, and with which numbers.

Parts are frozen values, so a recipe is one too, and its digest says years later which numbers a result came
from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from inference.card import OperatingPointCard
from inference.corruptors import Corruptor
from inference.denoisers import Denoiser
from inference.postprocess import PostProcessor
from inference.samplers import Sampler
from inference.scorers import Scorer

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One method: five parts, the numbers inside them, and the paper they come from."""

    name: str
    paper: str
    corruptor: Corruptor
    denoiser: Denoiser
    sampler: Sampler
    scorer: Scorer
    postprocessor: PostProcessor

    def canonical_json(self, operating_point: OperatingPointCard) -> str:
        """Parts, numbers and operating point with sorted keys and no spaces; equal for equal recipes only."""
        content = {"recipe": _plain(self), "operating_point": _plain(operating_point.model_dump())}
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def digest(self, operating_point: OperatingPointCard) -> str:
        """SHA-256 (hex) over the canonical JSON."""
        return hashlib.sha256(self.canonical_json(operating_point).encode()).hexdigest()


def _plain(value: object) -> Plain:
    """The value as JSON; a part becomes its class name and fields, a function its name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        content = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"part": type(value).__name__, **content}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(f"a recipe holds numbers, words, parts and functions, not {type(value).__name__}")
