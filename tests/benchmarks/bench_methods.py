"""Our default recipe beside THOR's and AnoDDPM's inference, in one run: `python -m tests.benchmarks.bench_methods`.

Both are re-created from their papers as sequential ancestral sampling (Ho et al. 2020, eq. 11) with MONAI's DiffusionModelUNet of
the published size, untrained (arithmetic and time do not depend on the weights): THOR 350 evaluations at 128 x 128, AnoDDPM 250
at 256 x 256 with multi-octave noise drawn anew at each step. Ten evaluations are timed after one to warm up, and multiplied by
the number of steps. What THOR adds between steps (LPIPS maps, closing, harmonisation) is left out, which favours it. Once more
at our network's own grid, so that resolution is no excuse. Arithmetic is counted by torch, two operations per multiply-add.
Seconds are processor seconds of one thread, which other work on the machine changes little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.nets import DiffusionModelUNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dicom_node.catalog import shipped_models
from inference.data import axial_volume
from inference.localizer import Context, load_localizer
from inference.phantom import synthetic_head

TIMED = 10
STEPS = 1000
OURS_GRID = (160, 160)
"""A brain of 190 x 190 mm at our network's 1.25 mm, grown to a multiple of 32 that both networks take."""
SLICES = 20
MOST_OF_THOR = 1 / 200


@dataclass(frozen=True)
class Published:
    """One method's inference: network, size, number of sequential evaluations, noise added between them."""

    name: str
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    size: tuple[int, int]
    evaluations: int
    noise: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cost:
    """Of one slice."""

    name: str
    size: str
    evaluations: float
    gflop: float
    seconds: float
    """Of the processor, all threads together."""


def gaussian(like: Tensor) -> Tensor:
    """White noise."""
    return torch.randn_like(like)


def octaves(like: Tensor) -> Tensor:
    """Six octaves of smooth noise, each 0.8 as strong as the coarser one, at unit variance: AnoDDPM's, drawn as tensors."""
    total = torch.zeros_like(like)
    for octave in range(6):
        coarse = torch.randn(*like.shape[:2], *(max(2, n * 2**octave // 64) for n in like.shape[2:]))
        total += 0.8**octave * functional.interpolate(coarse, like.shape[2:], mode="bicubic", align_corners=False)
    return total / total.std()


THOR_CHANNELS, THOR_ATTENTION = (128, 256, 256), (False, True, True)
ANODDPM_CHANNELS = (128, 128, 256, 256, 512, 512)
ANODDPM_ATTENTION = (False, False, False, False, True, True)
METHODS = (
    Published("THOR, 350 evaluations", THOR_CHANNELS, THOR_ATTENTION, 1, (128, 128), 350, gaussian),
    Published("AnoDDPM, 250 evaluations", ANODDPM_CHANNELS, ANODDPM_ATTENTION, 2, (256, 256), 250, octaves),
    Published("THOR at our grid", THOR_CHANNELS, THOR_ATTENTION, 1, OURS_GRID, 350, gaussian),
    Published("AnoDDPM at our grid", ANODDPM_CHANNELS, ANODDPM_ATTENTION, 2, OURS_GRID, 250, octaves),
)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    console = Console(width=120)
    ours = measure_ours()
    table = Table("one slice", "grid", "evaluations", "GFLOP", "processor s", "arithmetic / ours", "time / ours")
    rows = [ours, *(measure(one) for one in METHODS)]
    for row in rows:
        ratios = (f"{row.gflop / ours.gflop:.0f}", f"{row.seconds / ours.seconds:.0f}")
        table.add_row(row.name, row.size, f"{row.evaluations:.1f}", f"{row.gflop:.1f}", f"{row.seconds:.3f}", *ratios)
    console.print(table)
    console.print(f"The others: {TIMED} sequential evaluations timed and multiplied; no brain mask, no post-processing.")
    console.print("Ours: brain mask, restoration, calibration and findings of a whole study, divided by its slices.")
    thor = rows[1]
    share = ours.gflop / thor.gflop
    console.print(f"Arithmetic of the default recipe: 1/{1 / share:.0f} of THOR's per slice; at most 1/200 is promised")
    if share > MOST_OF_THOR:
        raise SystemExit("the default recipe costs more than 1/200 of THOR's arithmetic")


def measure_ours() -> Cost:
    """The default recipe as it is delivered, per slice of a synthetic study."""
    localizer = load_localizer(shipped_models() / "brain-flair", device="cpu")
    head = synthetic_head(seed=4, shape=(SLICES, 200, 200), spacing_mm=(6.0, 1.0, 1.0))
    volume = axial_volume(head.image, head.spacing_mm)
    localizer.localize(volume, Context(threads=1))
    started = time.process_time()
    cost = localizer.localize(volume, Context(threads=1)).provenance.cost
    seconds = (time.process_time() - started) / SLICES
    return Cost("Fovea, default recipe", "1.25 mm", cost.network_evaluations / SLICES, cost.gflop / SLICES, seconds)


def measure(method: Published) -> Cost:
    """One slice by sequential ancestral sampling: TIMED steps timed, the rest by proportion."""
    torch.manual_seed(0)
    network = built(method)
    x = torch.randn(1, 1, *method.size)
    with torch.no_grad():
        network(x, torch.tensor([method.evaluations]))
        started = time.process_time()
        for t in range(method.evaluations, method.evaluations - TIMED, -1):
            x = ancestral(network, x, t, method.noise)
        seconds = (time.process_time() - started) / TIMED * method.evaluations
    return Cost(method.name, "x".join(map(str, method.size)), method.evaluations, gflop(method), seconds)


def built(method: Published) -> nn.Module:
    """The network, untrained."""
    return DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=method.channels, attention_levels=method.attention,
        num_res_blocks=method.blocks, num_head_channels=method.channels[-1] // 2, norm_num_groups=32,
    ).eval()  # fmt: skip


def gflop(method: Published) -> float:
    """Of all evaluations over one slice, counted on tensors that hold nothing."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(method)(torch.empty(1, 1, *method.size), torch.zeros(1, dtype=torch.long))
    return float(counter.get_total_flops()) / 1e9 * method.evaluations


def ancestral(network: nn.Module, x: Tensor, t: int, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """x_(t-1) from x_t; linear betas from 1e-4 to 0.02."""
    betas = torch.linspace(1e-4, 0.02, STEPS)
    kept = torch.cumprod(1 - betas, 0)
    beta, alpha_bar = betas[t - 1], kept[t - 1]
    mean = (x - beta / (1 - alpha_bar).sqrt() * network(x, torch.tensor([t]))) / (1 - beta).sqrt()
    return mean + beta.sqrt() * noise(x) if t > 1 else mean


if __name__ == "__main__":
    main()
