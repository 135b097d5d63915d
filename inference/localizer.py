"""From a volume to a localization: the one call of this package, and how to get a localizer to call.

`load_localizer` verifies a bundle and returns the localizer of one of its recipes; a recipe that is not ours
is looked up among the installed packages' entry points of the group `fovea.localizers`, so a method of one's
own plugs in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from highdicom import Volume
from numpy.typing import NDArray

from inference.brain import BrainMask
from inference.bundle import Bundle, load_bundle, open_card
from inference.card import BundleError, ModelCard, OperatingPointCard
from inference.contract import Checked
from inference.cost import Meter, Shape
from inference.domain import FIGURES, Figures, assess, check_domain, figures_of
from inference.gate import check_brain, check_volume, remarks
from inference.postprocess import Assessment
from inference.preprocess import Prepared, prepare
from inference.recipes import RECIPES, Recipe
from inference.restoration import Setting, restore
from inference.types import Contrast, Cost, DomainFit, Localization, OperatingPoint, Provenance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

ENTRY_POINT_GROUP = "fovea.localizers"
"""Its entry points are functions (bundle folder, card, device) -> Localizer, named by their recipe."""

UNCHECKED = "Whether this study is like those the model was calibrated on was not checked: the card is of another version."
LINEAR = 1
"""Order of interpolation on the way back to the source grid."""
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Context:
    """What one call is told beside the volume."""

    seed: int = 0
    threads: int | None = None
    """Threads for the network's arithmetic; None leaves torch's own choice."""
    recipe: str | None = None
    """Another recipe of the same bundle than the one the localizer was loaded for."""
    batch: int = 32
    """Slices that the network sees at once; memory grows with it."""
    remarks: tuple[str, ...] = ()
    """What the caller knows of the input and the reader must see, such as a spacing that was assumed."""


class Localizer(Protocol):
    """Anything that localizes: ours, or a method of one's own."""

    def localize(self, volume: Volume, context: Context) -> Localization:
        """Where `volume` departs from healthy anatomy, on the volume's own grid. Raises `types.Refusal`."""
        ...


@dataclass(frozen=True, slots=True)
class RawMaps:
    """What the network made of a volume, on the source grid, before anything is calibrated."""

    raw: FloatArray
    """As the post-processor smoothed it on the network's grid."""
    brain: BoolArray
    healthy: FloatArray | None
    """In the units of the input: the input less its departure from the network's estimate, so that the
    source's own sharpness stays; the input itself outside the brain. None where the recipe makes none."""
    uncertainty: FloatArray | None
    cost: Cost
    figures: Figures
    """What the study looks like to the model, for `inference.domain`."""


@dataclass(frozen=True, slots=True)
class RecipeLocalizer:
    """Runs the recipes of one bundle. Same volume, seed, batch, threads and device give the same bits."""

    bundle: Bundle
    recipe: Recipe
    _operations: dict[Shape, int] = field(default_factory=dict, repr=False)

    def localize(self, volume: Volume, context: Context) -> Localization:
        """The localization of `volume`; raises `types.Refusal` where the card does not allow this volume."""
        recipe = self.recipe if context.recipe is None else find_recipe(self.bundle.card, context.recipe)
        started = time.perf_counter()
        maps = self.raw_maps(volume, context, recipe)
        card = self.bundle.card
        domain, unlike = _domain(card, recipe, maps.figures)
        calibration, operating_point = card.calibration[recipe.name], card.operating_point[recipe.name]
        raw = volume.with_array(maps.raw)
        assessment = recipe.postprocessor.assess(raw, maps.brain, calibration, operating_point)
        uncertainty = None if maps.uncertainty is None else volume.with_array(maps.uncertainty)
        provenance = Provenance(
            model=self.bundle.identity,
            recipe=recipe.name,
            recipe_digest=recipe.digest(operating_point),
            seed=context.seed,
            levels=recipe.sampler.levels,
            operating_point=_stated(operating_point),
            cost=replace(maps.cost, seconds=time.perf_counter() - started),
            quality=(*context.remarks, *unlike, *remarks(volume, maps.brain), *_remark_left_out(assessment)),
        )
        return Localization(
            score=volume.with_array(assessment.score),
            raw=raw,
            brain=volume.with_array(maps.brain.astype(np.uint8)),
            labels=volume.with_array(assessment.labels),
            pseudo_healthy=None if maps.healthy is None else volume.with_array(maps.healthy),
            uncertainty=uncertainty,
            findings=assessment.findings,
            findings_left_out=assessment.findings_left_out,
            study_score=assessment.study_score,
            provenance=provenance,
            domain=domain,
        )

    def raw_maps(self, volume: Volume, context: Context, recipe: Recipe | None = None) -> RawMaps:
        """The uncalibrated maps: what a calibration is made of. Raises `types.Refusal`."""
        recipe = self.recipe if recipe is None else recipe
        bundle = self.bundle
        setting = Setting(bundle.device, context.seed, context.batch, bundle.card.multiple)
        check_volume(volume, bundle.card.validity)
        with _threads(context.threads), Meter(bundle.networks, bundle.device, self._operations) as meter:
            prepared = prepare(volume, bundle.card, BrainMask(bundle.brain))
            check_brain(prepared.brain)
            maps = restore(prepared.images, prepared.brain, recipe, bundle.networks, setting)
            figures = figures_of(prepared.images, prepared.brain, maps.raw, prepared.spacing_mm)
            way_back = WayBack.of(prepared)
            check_brain(way_back.brain)
            raw = way_back.bring(recipe.postprocessor.smooth(maps.raw, prepared.spacing_mm))
            healthy = None if maps.healthy is None else _healthy(volume, way_back, maps.healthy)
            uncertainty = None if maps.uncertainty is None else way_back.bring(maps.uncertainty)
        if not np.all(np.isfinite(raw)):
            raise ArithmeticError("the network answered with numbers that are not finite")
        return RawMaps(raw, way_back.brain, healthy, uncertainty, meter.cost(), figures)


def load_localizer(
    bundle: Path, recipe: str | None = None, *, expected_digest: str | None = None, device: str = "auto"
) -> Localizer:
    """The localizer of a recipe (the card's first where None) of the bundle in folder `bundle`, every file
    verified.

    Raises BundleError where the bundle is damaged, is not the expected one, or does not know the recipe.
    """
    card = open_card(bundle, expected_digest=expected_digest)
    name = default_recipe(card) if recipe is None else recipe
    if name in RECIPES:
        loaded = load_bundle(bundle, expected_digest=expected_digest, device=device)
        return RecipeLocalizer(loaded, find_recipe(card, name))
    return Checked(plugged_in(name, card)(bundle, card, device))


def default_recipe(card: ModelCard) -> str:
    """The first recipe that the card names. BundleError where it names none."""
    if not card.recipes:
        raise BundleError(f"model {card.name} {card.version}: the card names no recipe")
    return card.recipes[0]


def find_recipe(card: ModelCard, name: str) -> Recipe:
    """The recipe of that name, if the bundle is calibrated for it. BundleError saying which there are."""
    known = [known for known in RECIPES if known in card.calibration and known in card.operating_point]
    if name not in known:
        raise BundleError(
            f"model {card.name} {card.version} is not calibrated for recipe {name!r}; it is for: {', '.join(known) or 'none'}"
        )
    return RECIPES[name]


def plugged_in(name: str, card: ModelCard) -> Callable[[Path, ModelCard, str], Localizer]:
    """The installed entry point of that name. BundleError where there is none, or more than one."""
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if len(found) != 1:
        count = "no" if not found else f"{len(found)} competing"
        raise BundleError(
            f"model {card.name} {card.version}: recipe {name!r} is not one of {', '.join(RECIPES)}, "
            f"and {count} entry points of group {ENTRY_POINT_GROUP} have that name"
        )
    factory: Callable[[Path, ModelCard, str], Localizer] = found[0].load()
    return factory


@dataclass(frozen=True, slots=True)
class WayBack:
    """From the grid of the network to the source grid without mixing brain and surroundings at the rim."""

    prepared: Prepared
    share: FloatArray
    """How much of each source voxel is brain, 0 to 1."""

    @classmethod
    def of(cls, prepared: Prepared) -> WayBack:
        """The way back of one prepared volume."""
        return cls(prepared, prepared.to_source(prepared.brain.astype(np.float32), order=LINEAR))

    @property
    def brain(self) -> BoolArray:
        """The source voxels of which half or more is brain."""
        return np.asarray(self.share >= HALF, dtype=np.bool_)

    def bring(self, values: FloatArray) -> FloatArray:
        """values of the network's grid [slice, row, column] on the source grid: means over brain alone."""
        inside = self.prepared.to_source(np.where(self.prepared.brain, values, np.float32(0)), order=LINEAR)
        return np.where(self.brain, inside / np.maximum(self.share, HALF), np.float32(0)).astype(np.float32)


def _domain(card: ModelCard, recipe: Recipe, figures: Figures) -> tuple[DomainFit | None, tuple[str, ...]]:
    """How the study compares with the card's reference, and what the reader is told. Raises Refusal where it lies too far."""
    reference = card.domain.get(recipe.name)
    if reference is None:
        return None, ()
    if reference.figures != FIGURES:
        return None, (UNCHECKED,)
    fit = assess(figures, reference)
    return fit, check_domain(fit, reference)


def _stated(card: OperatingPointCard) -> OperatingPoint:
    """The operating point for the reader: one threshold, and a word on both where the two signs differ."""
    rule = card.rule
    if len(set(card.threshold.values())) > 1:
        rule += f" Thresholds: {', '.join(f'{sign} {card.threshold[sign]:g}' for sign in Contrast)}."
    return OperatingPoint(min(card.threshold.values()), card.minimum_volume_mm3, rule)


def _healthy(volume: Volume, way_back: WayBack, healthy: FloatArray) -> FloatArray:
    """The input less its departure from healthy[slice, row, column], which is in standardised units on the network's grid."""
    source = np.asarray(volume.array, dtype=np.float32)
    prepared = way_back.prepared
    there = way_back.bring(prepared.destandardise(prepared.images) - prepared.destandardise(healthy))
    return np.asarray(np.maximum(source - there, source.min()), dtype=np.float32)


def _remark_left_out(assessment: Assessment) -> tuple[str, ...]:
    count = assessment.findings_left_out
    if count == 0:
        return ()
    return (f"Only the largest {len(assessment.findings)} regions are listed; {count} smaller ones are left out.",)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads, and its former number afterwards."""
    former = torch.get_num_threads()
    torch.set_num_threads(former if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(former)
