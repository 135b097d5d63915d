"""The two networks' training: its numbers, its losses, and the banks of slices it draws from.

The brain-mask network learns on whole synthetic heads of any weighting; the restoration network on standardised healthy
slices into which anomalies are painted, severity as the timestep. Both fits resume where they were killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inference.fit import FitPlan, fit, mean_weights, supports_bf16
from inference.networks import BRAIN_NET, RESTORER, BrainNet, Restorer
from inference.objectives import outline_loss
from inference.phantom.banks import UNIT, Bank, BankPlan, make_bank, part_of
from inference.phantom.lesions import AnomalyPainter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Every number of a training run; together with the data it determines the weights."""

    name: str
    seed: int
    brain_steps: int
    brain_batch: int
    restore_steps: int
    evidence_steps: int
    """Steps of the second phase, which learns to outline anomalies beside restoring them."""
    restore_batch: int
    brain_per_label_map: int
    restore_per_label_map: int
    """Slices drawn from each label map."""
    analytic_heads: int
    per_analytic: int
    brain_shape: tuple[int, int] = (128, 128)
    brain_spacing_mm: float = 2.0
    restore_shape: tuple[int, int] = (160, 128)
    """Size of the slices in the bank; training sees crops 16 pixels smaller."""
    restore_spacing_mm: float = 1.25
    real_share: float = 0.25
    """Share of every batch that is drawn from the real slices, where there are any."""
    held_out_label_maps: int = 4
    """The last label maps by name, never trained on: for calibration and for counting false findings."""
    reference_heads: int = 3
    """Lesion-free heads made of each of them."""


RECIPES = {
    "brain-flair": TrainingRecipe(
        "brain-flair",
        seed=1,
        brain_steps=3000,
        brain_batch=16,
        restore_steps=5600,
        evidence_steps=14000,
        restore_batch=8,
        brain_per_label_map=350,
        restore_per_label_map=500,
        analytic_heads=6,
        per_analytic=200,
    ),
    "smoke": TrainingRecipe(
        "smoke",
        seed=1,
        brain_steps=6,
        brain_batch=2,
        restore_steps=6,
        evidence_steps=4,
        restore_batch=2,
        brain_per_label_map=4,
        restore_per_label_map=4,
        analytic_heads=1,
        per_analytic=6,
        brain_shape=(64, 128),
        brain_spacing_mm=4.0,
        restore_shape=(80, 64),
        restore_spacing_mm=2.5,
        held_out_label_maps=0,
        reference_heads=1,
    ),
}


class BrainLoss:
    """Cross-entropy plus soft Dice on whole heads: shifted, mirrored, brightness and gamma varied, some with anomalies."""

    def __init__(self, bank: Bank, recipe: TrainingRecipe) -> None:
        self._bank, self._batch = bank, recipe.brain_batch
        rows, columns = recipe.brain_shape
        self._spare = columns // 4
        self._painter = AnomalyPainter((rows, columns - self._spare), recipe.brain_spacing_mm, recipe.seed + 1)

    def __call__(self, network: nn.Module, g: torch.Generator) -> Tensor:
        index = torch.randint(0, len(self._bank.image), (self._batch,), generator=g).sort().values.numpy()
        left = int(torch.randint(0, self._spare + 1, (1,), generator=g).item())
        window = slice(left, left + self._bank.image.shape[2] - self._spare)
        image, brain, white = (
            _tensor(array[index][:, :, window]) for array in (self._bank.image, self._bank.brain, self._bank.white)
        )
        brain, white = brain / 255, white / 255
        image = self._with_anomalies(image, brain, white, g)
        image, brain = self._move(image, g), self._move(brain, g, again=True)
        gain = torch.exp(0.25 * torch.randn(self._batch, 1, 1, 1, generator=g))
        gamma = torch.exp(0.15 * torch.randn(self._batch, 1, 1, 1, generator=g))
        logits = network(((image.clamp(min=0) + 1e-4) ** gamma * gain).clamp(0, 2.5)).float()
        likely = torch.sigmoid(logits)
        overlap = (2 * (likely * brain).sum() + 1) / (likely.sum() + brain.sum() + 1)
        return functional.binary_cross_entropy_with_logits(logits, brain) + 0.5 * (1 - overlap)

    def _with_anomalies(self, image: Tensor, brain: Tensor, white: Tensor, g: torch.Generator) -> Tensor:
        """Half of the slices get an anomaly, so that a tumour stays brain."""
        level = (image * brain).sum((1, 2, 3), keepdim=True) / brain.sum((1, 2, 3), keepdim=True).clamp(min=1)
        level = level.clamp(min=0.05)
        unit = (UNIT * (image / level - 1)).clamp(-UNIT, 14)
        severity = torch.rand(len(image), generator=g) * (torch.rand(len(image), generator=g) < 0.5)
        painted = self._painter(unit, brain, white, severity, g)
        inside = painted.amount > 0
        return torch.where(inside, level * (painted.image / UNIT + 1), image)

    def _move(self, image: Tensor, g: torch.Generator, again: bool = False) -> Tensor:
        """Shift and mirror the whole batch; `again` repeats the last movement."""
        if not again:
            down, right = (torch.randn(2, generator=g) * 9).round().int().tolist()
            self._last = (down, right, bool(torch.rand(1, generator=g).item() < 0.5))
        down, right, mirror = self._last
        moved = torch.roll(image, (down, right), (2, 3))
        return moved.flip(3) if mirror else moved


class RestoreLoss:
    """Mean absolute error of the healthy estimate inside the brain, anomalies weighted, on cropped standardised slices.

    A network that also gives evidence is asked for the anomaly's outline as well: cross-entropy plus soft Dice over the brain.
    """

    def __init__(self, bank: Bank, real: Bank | None, recipe: TrainingRecipe) -> None:
        self._bank, self._real = bank, real
        self._batch = recipe.restore_batch
        self._from_real = round(recipe.real_share * recipe.restore_batch) if real is not None else 0
        self._shape = (recipe.restore_shape[0] - 16, recipe.restore_shape[1] - 16)
        self._painter = AnomalyPainter(self._shape, recipe.restore_spacing_mm, recipe.seed + 2)

    def __call__(self, network: nn.Module, g: torch.Generator) -> Tensor:
        image, brain, white = self._slices(g)
        brain = self._worn(brain, g)
        image = torch.where(brain > 0.5, image, torch.full_like(image, -UNIT))
        severity = 0.05 + 0.95 * torch.rand(self._batch, generator=g)
        with torch.autocast("cpu", enabled=False):
            shown = self._painter(image, (brain > 0.5).float(), white, severity, g)
        answer = network(shown.image, severity).float()
        weight = (brain > 0.5) * (1 + 4 * (shown.amount > 0.1)) + 0.02
        restored = ((answer[:, :1] - shown.target).abs() * weight).sum() / weight.sum()
        return restored if answer.shape[1] == 1 else restored + outline_loss(answer[:, 1:], shown, brain > 0.5)

    def _slices(self, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        parts = [_pick(self._bank, self._batch - self._from_real, self._shape, g)]
        if self._real is not None and self._from_real:
            parts.append(_pick(self._real, self._from_real, self._shape, g))
        image, brain, white = (torch.cat(part) for part in zip(*parts, strict=True))
        gain = torch.exp(0.05 * torch.randn(self._batch, 1, 1, 1, generator=g))
        return (image + UNIT) * gain - UNIT, brain, white

    def _worn(self, brain: Tensor, g: torch.Generator) -> Tensor:
        """The mask as a network would give it: up to three pixels too wide or too narrow, a third of the time exact."""
        how = int(torch.randint(0, 9, (1,), generator=g).item())
        if how in (1, 2, 3):
            return functional.max_pool2d(brain, 2 * how + 1, 1, how)
        if how in (4, 5):
            return -functional.max_pool2d(-brain, 2 * (how - 3) + 1, 1, how - 3)
        return brain


def _tensor(values: NDArray[np.float16] | NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None]


def _pick(bank: Bank, count: int, shape: tuple[int, int], g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random slices of a bank, cropped at random (the same crop for all) and mirrored half of the time."""
    index = torch.randint(0, len(bank.image), (count,), generator=g).sort().values.numpy()
    top, left = (
        int(torch.randint(0, full - part + 1, (1,), generator=g).item())
        for full, part in zip(bank.image.shape[1:], shape, strict=True)
    )
    window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
    picked = [_tensor(array[index][:, *window]) for array in (bank.image, bank.brain, bank.white)]
    picked[1], picked[2] = picked[1] / 255, picked[2] / 255
    if torch.rand(1, generator=g).item() < 0.5:
        picked = [part.flip(3) for part in picked]
    return picked[0], picked[1], picked[2]


def brain_plan(recipe: TrainingRecipe, label_maps: Sequence[Path]) -> BankPlan:
    """The bank of whole heads for the brain-mask network."""
    return _plan(recipe, "brain", label_maps, recipe.brain_shape, recipe.brain_spacing_mm, 1, recipe.brain_per_label_map)


def restore_plan(recipe: TrainingRecipe, label_maps: Sequence[Path]) -> BankPlan:
    """The bank of standardised healthy slices for the restoration network."""
    return _plan(recipe, "restore", label_maps, recipe.restore_shape, recipe.restore_spacing_mm, 2, recipe.restore_per_label_map)


def analytic_seeds(recipe: TrainingRecipe) -> tuple[int, ...]:
    """Seeds of the heads made by code that training sees; the demo's seeds are below 1000, the reference's above 2000."""
    return tuple(range(1001, 1001 + recipe.analytic_heads))


def brain_config(recipe: TrainingRecipe) -> dict[str, int | float | str | list[int] | list[bool]]:
    """The arguments of the brain-mask network for this recipe's grids."""
    return {**BRAIN_NET, "spacing_mm": recipe.brain_spacing_mm, "grid_spacing_mm": recipe.restore_spacing_mm}


def _plan(
    recipe: TrainingRecipe,
    purpose: str,
    maps: Sequence[Path],
    shape: tuple[int, int],
    spacing_mm: float,
    salt: int,
    per_label_map: int,
) -> BankPlan:
    kept = len(maps) - recipe.held_out_label_maps
    return BankPlan(
        purpose,
        tuple(str(path) for path in sorted(maps)[: max(0, kept)]),
        analytic_seeds(recipe),
        per_label_map,
        recipe.per_analytic,
        shape,
        spacing_mm,
        recipe.seed * 10 + salt,
    )


def train_brain(recipe: TrainingRecipe, label_maps: Sequence[Path], work: Path) -> nn.Module:
    """The brain-mask network, trained or resumed in `work`."""
    torch.manual_seed(recipe.seed)
    network = BrainNet(brain_config(recipe))
    bank = make_bank(work / "bank-brain", brain_plan(recipe, label_maps))
    plan = FitPlan(recipe.brain_steps, 1e-3, recipe.seed, bf16=supports_bf16())
    seconds = fit(network, BrainLoss(bank, recipe), plan, work / "brain.ckpt")
    log.info("brain-mask network done", steps=recipe.brain_steps, seconds=round(seconds))
    return network


def train_restorer(recipe: TrainingRecipe, label_maps: Sequence[Path], real: Bank | None, work: Path) -> nn.Module:
    """The restoration network, trained or resumed in `work`: first to restore alone, then to outline as well."""
    bank = make_bank(work / "bank-restore", restore_plan(recipe, label_maps))
    torch.manual_seed(recipe.seed + 1)
    alone = Restorer({**RESTORER, "evidence": 0})
    plan = FitPlan(recipe.restore_steps, 4e-4, recipe.seed + 1, bf16=supports_bf16())
    seconds = fit(alone, RestoreLoss(bank, real, recipe), plan, work / "restore.ckpt")
    log.info("restoration network done", steps=recipe.restore_steps, seconds=round(seconds))
    torch.manual_seed(recipe.seed + 3)
    network = Restorer(RESTORER)
    take_over(network, mean_weights(work / "restore.ckpt")[1])
    plan = FitPlan(recipe.evidence_steps, 4e-4, recipe.seed + 3, averaging=0.999, bf16=supports_bf16())
    seconds = fit(network, RestoreLoss(bank, real, recipe), plan, work / "evidence.ckpt")
    log.info("evidence learned", steps=recipe.evidence_steps, seconds=round(seconds))
    return network


def take_over(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies the weights of a network with fewer outputs; the further outputs keep what they were initialised with."""
    own = network.state_dict()
    for name, value in weights.items():
        own[name][tuple(slice(0, size) for size in value.shape)] = value
    network.load_state_dict(own)


def part(real: Bank, training: bool) -> Bank:
    """Four of five real slices for training, or the fifth that is kept out of it."""
    return part_of(real, np.flatnonzero((np.arange(len(real.image)) % 5 != 4) == training))


def label_map_paths(folder: Path) -> list[Path]:
    """The label maps in a data folder. Raises FileNotFoundError naming the folder where there are none."""
    found = sorted((folder / "synthseg_label_maps").glob("*.npy.xz"))
    if not found:
        raise FileNotFoundError(f"no label maps (*.npy.xz) in {folder / 'synthseg_label_maps'}")
    return found
