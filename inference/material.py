"""The slices that a recipe is trained on, cut from whatever the readers give, on the recipe's own grid.

Studies without marks are believed healthy: what is unusually bright in them is painted out, and the slices that look least
healthy are listed for a person to judge. Studies with marked lesions keep their slices as they are. Synthetic heads and the
public SOOP slices come on top. Patients are split by `inference.data.is_validation`; the kept ones calibrate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from inference.brain import BrainMask
from inference.bundle import Bundle
from inference.card import ModelCard, Source
from inference.data import Reader, Study, is_validation, soop_bank, terms_of
from inference.healthy import Suspect, as_bank, healthy_slices, levels_with_brain
from inference.objectives import Examples
from inference.phantom.banks import UNIT, Bank, BankPlan, join_banks, make_bank, part_of
from inference.preprocess import Prepared, prepare
from inference.recipes.recipe import GridPlan, Labels, Material, Recipe

log = structlog.get_logger()

FloatArray = NDArray[np.float32]

FEW_SLICES = 10
"""Slices whose masks a method of few masks may see."""
HELD_OUT_MAPS = 4
"""The last label maps by name are never trained on: reference heads are made of them."""
TRAINING_SEEDS = (1001, 1002, 1003, 1004)
"""Of heads made by code; the demo's lie below 1000, the reference's above 2000."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where training slices come from."""

    readers: tuple[Reader, ...] = ()
    label_maps: tuple[Path, ...] = ()
    """Of whole heads; without any, heads are made by code."""
    soop: Path | None = None
    per_head: int = 120
    """Synthetic slices cut from each head."""
    made: tuple[int, ...] = TRAINING_SEEDS
    """Seeds of the heads made by code where there are no label maps."""

    @property
    def training_maps(self) -> tuple[Path, ...]:
        """The label maps that training may see."""
        return self.label_maps[:-HELD_OUT_MAPS] if len(self.label_maps) > HELD_OUT_MAPS else self.label_maps

    @property
    def reference_maps(self) -> tuple[Path, ...]:
        """The label maps that training never sees."""
        return self.label_maps[-HELD_OUT_MAPS:] if len(self.label_maps) > HELD_OUT_MAPS else ()


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A whole study believed healthy, of a patient kept out of training, as the network will see such studies."""

    images: NDArray[np.float16]
    """[slice, row, column], standardised."""
    brain: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, prepared: Prepared) -> Ordinary:
        """In half precision, so that many fit into memory."""
        return cls(prepared.images.astype(np.float16), prepared.brain, prepared.spacing_mm)


@dataclass(frozen=True, slots=True)
class Gathered:
    """All slices for one recipe, in memory."""

    banks: dict[Material, Bank]
    kept: Bank | None
    """Real slices believed healthy of patients kept out of training."""
    development: tuple[Study, ...]
    """Studies with marks of patients kept out of training."""
    suspects: tuple[Suspect, ...]
    sources: tuple[Source, ...]
    distributable: bool
    ordinary: tuple[Ordinary, ...] = ()
    """Whole studies believed healthy of patients kept out of training."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over every training slice."""
        whole = hashlib.sha256()
        for material in sorted(self.banks):
            bank = self.banks[material]
            for part in (bank.image, bank.brain, bank.white, bank.lesion):
                whole.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()


@dataclass(slots=True)
class _Shelves:
    healthy: list[Bank] = field(default_factory=list)
    kept: list[Bank] = field(default_factory=list)
    labelled: list[Bank] = field(default_factory=list)
    development: list[Study] = field(default_factory=list)
    ordinary: list[Ordinary] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    patients: dict[str, int] = field(default_factory=dict)


def gather(recipe: Recipe, origins: Origins, outline: ModelCard, brain: Bundle, work: Path, seed: int = 0) -> Gathered:
    """The slices for one recipe. ValueError naming what is missing: marked lesions, or anything at all.

    `outline` is the card of the bundle to be, `brain` the bundle whose brain network cuts the head out; synthetic slices are
    kept in `work`.
    """
    grid, shelves = recipe.training.grid, _Shelves()
    wanted = {stage.material for stage in recipe.training.stages}
    mask = BrainMask(brain.brain, grid_spacing_mm=grid.spacing_mm)
    for reader in origins.readers:
        _read(reader, recipe, outline, mask, shelves)
    sources = [_source(reader, shelves.patients[reader.name]) for reader in origins.readers]
    if wanted & {Material.HEALTHY, Material.UNLABELLED}:
        shelves.healthy.append(_synthetic(origins, grid, work))
        sources.append(_synthetic_source(origins))
        if origins.soop is not None:
            real = soop_bank(origins.soop, (grid.rows, grid.columns), grid.spacing_mm, work / f"soop-{_grid_name(grid)}")
            shelves.healthy.append(part_of(real, _every_fifth(len(real.image), False)))
            shelves.kept.append(part_of(real, _every_fifth(len(real.image), True)))
            sources.append(_soop_source(origins.soop))
    if recipe.labels is not Labels.NONE and not shelves.labelled:
        raise ValueError(f"{recipe.name} needs {recipe.labels.value}, and no study with a marked lesion was given")
    labelled = join_banks(shelves.labelled)
    healthy = join_banks(shelves.healthy)
    possible = {
        Material.HEALTHY: healthy,
        Material.LABELLED: labelled,
        Material.FEW: None if labelled is None else _few(labelled, seed),
        Material.UNLABELLED: join_banks([bank for bank in (healthy, labelled) if bank is not None]),
    }
    banks = {material: bank for material, bank in possible.items() if bank is not None and material in wanted}
    terms = [terms_of(reader) for reader in origins.readers]
    log.info("slices gathered", **{material.value: len(bank.image) for material, bank in banks.items()})
    return Gathered(
        banks,
        join_banks(shelves.kept),
        tuple(shelves.development),
        tuple(shelves.suspects),
        tuple(sources),
        all(one.distributable for one in terms),
        tuple(shelves.ordinary),
    )


def write_audit(suspects: Sequence[Suspect], path: Path) -> None:
    """The list of slices that do not look healthy, worst first, for a person to judge."""
    worst = sorted(suspects, key=lambda one: -one.painted)
    path.write_text(json.dumps([asdict(one) for one in worst], indent=1) + "\n", encoding="utf-8")


def draw(bank: Bank, count: int, generator: torch.Generator) -> Examples:
    """Random slices: mirrored half of the time, a little brighter or darker, the brain's rim worn as a mask network's is."""
    index = torch.randint(0, len(bank.image), (count,), generator=generator).sort().values.numpy()
    return _examples(bank, index, count, generator)


def draw_study(bank: Bank, generator: torch.Generator) -> Examples:
    """All slices of a random study in their order, with one look; ValueError where the bank does not know them."""
    if not bank.runs:
        raise ValueError("a method of volumes needs studies, these slices have no neighbours")
    number = int(torch.randint(0, len(bank.runs), (1,), generator=generator).item())
    first = sum(bank.runs[:number])
    return _examples(bank, np.arange(first, first + bank.runs[number]), 1, generator)


def _examples(bank: Bank, index: NDArray[np.int64], looks: int, generator: torch.Generator) -> Examples:
    image, brain, white = (_tensor(part[index]) for part in (bank.image, bank.brain, bank.white))
    lesion = torch.zeros_like(image) if bank.lesion is None else _tensor(bank.lesion[index])
    brain, white, lesion = _worn(brain / 255, generator), white / 255, lesion / 255
    gain = torch.exp(0.05 * torch.randn(looks, 1, 1, 1, generator=generator))
    inside = (brain > 0.5).float()
    image = torch.where(inside > 0, (image + UNIT) * gain - UNIT, torch.full_like(image, -UNIT))
    parts = [image, inside, white, (lesion > 0.5).float()]
    if torch.rand(1, generator=generator).item() < 0.5:
        parts = [part.flip(3) for part in parts]
    return Examples(*parts)


def _read(reader: Reader, recipe: Recipe, outline: ModelCard, mask: BrainMask, shelves: _Shelves) -> None:
    seen: set[str] = set()
    grid = recipe.training.grid
    for study in reader.studies():
        seen.add(study.patient)
        kept = is_validation(study.patient)
        if study.lesion is not None and recipe.labels is not Labels.NONE:
            if kept:
                shelves.development.append(study)
            else:
                shelves.labelled += _labelled_slices(study, grid, outline, mask)
            continue
        prepared = prepare(study.volume, outline, mask)
        bank, suspects = healthy_slices(reader.name, study, prepared, (grid.rows, grid.columns))
        shelves.suspects += suspects
        if bank is not None:
            (shelves.kept if kept else shelves.healthy).append(bank)
        if study.lesion is not None and kept:
            shelves.development.append(study)
        elif kept:
            shelves.ordinary.append(Ordinary.of(prepared))
    if not seen:
        raise ValueError(f"{reader.name}: no study that can be used")
    shelves.patients[reader.name] = len(seen)


def _labelled_slices(study: Study, grid: GridPlan, outline: ModelCard, mask: BrainMask) -> list[Bank]:
    prepared = prepare(study.volume, outline, mask)
    assert study.lesion is not None
    marked = prepared.from_source(study.lesion.astype(np.float32), order=1)
    levels, shape = levels_with_brain(prepared), (grid.rows, grid.columns)
    if not levels:
        return []
    bank = as_bank(prepared.images[levels], prepared.brain[levels], shape, marked[levels] > 0.5)
    return [replace(bank, runs=(len(levels),))]


def _few(labelled: Bank, seed: int) -> Bank:
    """Ten slices that show a lesion, of as many places as there are."""
    assert labelled.lesion is not None
    sick = np.flatnonzero(labelled.lesion.any(axis=(1, 2)))
    if not len(sick):
        raise ValueError("no training slice shows a marked lesion")
    chosen = np.random.default_rng(seed).choice(sick, min(FEW_SLICES, len(sick)), replace=False)
    return part_of(labelled, np.sort(chosen))


def _synthetic(origins: Origins, grid: GridPlan, work: Path) -> Bank:
    maps = origins.training_maps
    plan = BankPlan(
        "restore",
        tuple(str(path) for path in maps),
        () if maps else origins.made,
        origins.per_head,
        origins.per_head,
        (grid.rows, grid.columns),
        grid.spacing_mm,
        seed=12,
    )
    bank = make_bank(work / f"synthetic-{_grid_name(grid)}", plan)
    return replace(bank, image=np.asarray(bank.image), brain=np.asarray(bank.brain), white=np.asarray(bank.white))


def _grid_name(grid: GridPlan) -> str:
    return f"{grid.rows}x{grid.columns}-{grid.spacing_mm:g}"


def _every_fifth(count: int, kept: bool) -> NDArray[np.intp]:
    return np.flatnonzero((np.arange(count) % 5 == 4) == kept)


def _worn(brain: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The mask up to two pixels too wide or one too narrow, half of the time exact."""
    how = int(torch.randint(0, 6, (1,), generator=generator).item())
    if how in (1, 2):
        return torch.nn.functional.max_pool2d(brain, 2 * how + 1, 1, how)
    if how == 3:
        return -torch.nn.functional.max_pool2d(-brain, 3, 1, 1)
    return brain


def _tensor(values: NDArray[np.float16] | NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]


def _source(reader: Reader, patients: int) -> Source:
    terms = terms_of(reader)
    return Source(name=reader.name, licence=terms.licence, use="training slices", digest="", count=patients)


def _synthetic_source(origins: Origins) -> Source:
    maps = origins.training_maps
    name = "SynthSeg training label maps (B. Billot)" if maps else "heads made by code (inference.phantom)"
    licence = "Apache-2.0" if maps else "this project's"
    return Source(name=name, licence=licence, use="synthetic slices", digest=_files_digest(maps), count=len(maps or origins.made))


def _soop_source(folder: Path) -> Source:
    return Source(
        name="SOOP axial FLAIR slices (C. Rorden; OpenNeuro ds004889)",
        licence="BSD-2-Clause",
        use="real texture, strokes and hyperintensities painted out; one slice in five only for calibration",
        digest=_files_digest(sorted(folder.glob("axial_*"))),
        count=1449,
    )


def _files_digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
