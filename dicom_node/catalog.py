"""The models this node may run: where each bundle lies, its card and its digest, read without torch.

The only module of the node's parent processes that touches `inference`, and only its card reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dicom_node.outcome import OutputOptions
from dicom_node.settings import Model, Settings
from inference.card import BundleError, ModelCard, card_digest, read_card


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """One bundle as configured."""

    name: str
    folder: Path
    card: ModelCard
    digest: str


def installed_model(model: Model) -> InstalledModel:
    """The bundle of one `[[models]]` entry. Raises BundleError where it is missing or differs from the pinned digest."""
    folder = model.path or shipped_models() / model.name
    digest = card_digest(folder)
    if model.digest and model.digest != digest:
        raise BundleError(f"{folder}: the card's SHA-256 is {digest}, the configuration pins {model.digest}")
    return InstalledModel(model.name, folder, read_card(folder), digest)


def installed_models(models: Iterable[Model]) -> dict[str, InstalledModel]:
    """Every configured bundle by its name."""
    return {model.name: installed_model(model) for model in models}


def shipped_models() -> Path:
    """The folder of the bundles that come with the product."""
    spec = find_spec("inference")
    if spec is None or spec.origin is None:
        raise BundleError("the package inference is not installed")
    return Path(spec.origin).parent / "models"


def output_options(settings: Settings) -> OutputOptions:
    """How results look, from the settings."""
    return OutputOptions(
        character_set=settings.output.character_set,
        series_number_base=settings.output.series_number_base,
        institution=settings.node.institution,
        station_name=settings.node.station_name,
        ae_title=settings.node.ae_title,
        objects=settings.output.objects,
        map_values=settings.output.map_values,
        map_extent=settings.output.map_extent,
        segmentation=settings.output.segmentation,
    )


def recipe_digest(recipe: str, output: OutputOptions) -> str:
    """SHA-256 (hex) over everything but input and model that decides the content of a result."""
    facts = {"recipe": recipe, "output": asdict(output), "software": software_version()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def software_version() -> str:
    """The version of the installed product."""
    return version("fovea")
