"""A training loop that can be killed at any moment and ends with the same weights.

Every step draws from a generator seeded by (seed, step), so the state of a run is the step's number, the weights, their
running mean and the optimiser's moments; all four are written together, atomically, every few minutes and at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import structlog
import torch
from torch import Tensor, nn

log = structlog.get_logger()

LossOfStep = Callable[[nn.Module, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float
    """Running mean."""
    seconds_left: float
    """At the pace of this sitting."""


Told = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    seed: int
    warm_up: int = 100
    cool_down: float = 0.3
    """The last fraction of the steps, over which the learning rate falls to nothing."""
    averaging: float = 0.998
    """Decay per step of the running mean of the weights, which is what the bundle gets."""
    checkpoint_every_s: float = 120.0
    bf16: bool = False
    """Automatic bfloat16; worth it only where the processor has the instruction (`supports_bf16`)."""


class _State(TypedDict):
    step: int
    seconds: float
    network: dict[str, Tensor]
    mean: dict[str, Tensor]
    optimiser: dict[str, object]
    losses: list[float]
    """Of every step so far."""


def supports_bf16(device: torch.device | None = None) -> bool:
    """Whether the device multiplies bfloat16 in hardware; without it, bfloat16 is several times slower than float32."""
    if device is not None and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())


def rate_at(plan: FitPlan, step: int) -> float:
    """Learning rate: linear warm-up, constant, then a linear fall over the last `cool_down` of the steps."""
    fall = max(1.0, plan.cool_down * plan.steps)
    return plan.learning_rate * min(1.0, (step + 1) / plan.warm_up, (plan.steps - step) / fall)


def fit(network: nn.Module, loss_of_step: LossOfStep, plan: FitPlan, checkpoint: Path, told: Told | None = None) -> float:
    """Train until `plan.steps`, from `checkpoint` where there is one; leaves the mean weights in `network`.

    Returns the seconds spent in training over all sittings. Killed and started again, it ends with the same weights.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=1e-4)
    mean = {name: value.detach().clone() for name, value in network.state_dict().items()}
    losses: list[float] = []
    step, spent = _resume(network, optimiser, mean, losses, checkpoint)
    started = saved = time.monotonic()
    recent, first = 0.0, step
    device = next(network.parameters()).device.type
    network.train()
    while step < plan.steps:
        for group in optimiser.param_groups:
            group["lr"] = rate_at(plan, step)
        optimiser.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        with torch.autocast(device, torch.bfloat16, enabled=plan.bf16):
            loss = loss_of_step(network, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _average(mean, network, min(plan.averaging, (step + 1) / (step + 10)))
        step += 1
        losses.append(loss.item())
        recent = losses[-1] if step == first + 1 else 0.98 * recent + 0.02 * losses[-1]
        if step % 100 == 0:
            log.info("trained", step=step, of=plan.steps, loss=round(recent, 4), s=round(time.monotonic() - started))
        if told is not None and step % 10 == 0:
            left = (plan.steps - step) * (time.monotonic() - started) / (step - first)
            told(Progress(step, plan.steps, recent, left))
        if time.monotonic() - saved > plan.checkpoint_every_s:
            _save(checkpoint, network, optimiser, mean, losses, step, spent + time.monotonic() - started)
            saved = time.monotonic()
    spent += time.monotonic() - started
    _save(checkpoint, network, optimiser, mean, losses, step, spent)
    network.load_state_dict(mean)
    network.eval()
    return spent


def mean_weights(checkpoint: Path) -> tuple[int, dict[str, Tensor]]:
    """Steps done and the running mean of the weights, from a checkpoint that a run (still going or not) has written."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    return int(state["step"]), state["mean"]


def fall_of(checkpoint: Path) -> float:
    """By how much of itself the loss fell from the third quarter of a training to the last; 0 of fewer than eight steps."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    losses = list(state.get("losses", []))
    quarter = len(losses) // 4
    if quarter < 2:
        return 0.0
    before, last = sum(losses[-2 * quarter : -quarter]), sum(losses[-quarter:])
    return 1 - last / before if before > 0 else 0.0


def _average(mean: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                mean[name].lerp_(value, 1 - decay)
            else:
                mean[name].copy_(value)


def _resume(
    network: nn.Module, optimiser: torch.optim.Optimizer, mean: dict[str, Tensor], losses: list[float], checkpoint: Path
) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    state: _State = torch.load(checkpoint, weights_only=True, map_location="cpu")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for name, value in state["mean"].items():
        mean[name].copy_(value)
    losses += state.get("losses", [])
    log.info("resumed", step=state["step"], checkpoint=str(checkpoint))
    return state["step"], state["seconds"]


def _save(
    checkpoint: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    mean: dict[str, Tensor],
    losses: list[float],
    step: int,
    seconds: float,
) -> None:
    state = _State(
        step=step,
        seconds=seconds,
        network=network.state_dict(),
        mean=mean,
        optimiser=optimiser.state_dict(),
        losses=losses,
    )
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(checkpoint)
