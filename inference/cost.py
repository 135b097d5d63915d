"""What a localization spends: network evaluations, arithmetic, time and memory, counted where they happen.

Evaluations are counted by forward hooks on the networks themselves, so that no caller can forget one.
Arithmetic is measured once per network and slice shape by torch's own counter (two operations per
multiply-add).
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from inference.types import Cost

Shape = tuple[str, tuple[tuple[tuple[int, ...], torch.dtype], ...], bool]
"""The name of a network, for each tensor it was given its shape without the batch and its type, and whether the answer was
derived by the input (as guidance by a classifier does), which costs a pass backwards."""


_VOLUME_AXES = 4


class Meter:
    """Counts, while it is entered, what the named networks are asked; `cost` says it afterwards."""

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device, known: dict[Shape, int]) -> None:
        """`known` keeps operations per slice by shape from one run to the next; it is added to."""
        self._networks = networks
        self._device = device
        self._known = known
        self._slices: Counter[Shape] = Counter()
        self._handles: list[RemovableHandle] = []
        self._seconds = 0.0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._handles = [self._watch(name, network) for name, network in self._networks.items()]
        self._seconds = -time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._seconds += time.perf_counter()
        for handle in self._handles:
            handle.remove()

    def cost(self) -> Cost:
        """What was spent while entered. Memory is the peak of the process, on a GPU that of the device."""
        flop = sum(count * self._operations(shape) for shape, count in self._slices.items())
        return Cost(
            network_evaluations=sum(count * _slices_in(shape) for shape, count in self._slices.items()),
            gflop=flop / 1e9,
            seconds=self._seconds,
            peak_memory_mb=_peak_memory_mb(self._device),
            device=str(self._device),
            dtype="float32",
        )

    def _watch(self, name: str, network: nn.Module) -> RemovableHandle:
        def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            del module
            shapes = tuple((tuple(tensor.shape[1:]), tensor.dtype) for tensor in given)
            self._slices[(name, shapes, given[0].requires_grad)] += given[0].shape[0]

        return network.register_forward_pre_hook(count)

    def _operations(self, shape: Shape) -> int:
        if shape not in self._known:
            name, inputs, derived = shape
            given = [torch.zeros((1, *rest), dtype=dtype, device=self._device) for rest, dtype in inputs]
            with torch.set_grad_enabled(derived), FlopCounterMode(display=False) as counter:
                if derived:
                    given[0] = given[0].requires_grad_().clone()  # the counter cannot follow a gradient to a leaf
                answer = self._networks[name](*given)
                if derived:
                    torch.autograd.grad(answer.sum(), given[0])
            self._known[shape] = int(counter.get_total_flops())
        return self._known[shape]


def _slices_in(shape: Shape) -> int:
    """How many slices one of what the network was given holds: as many as a volume [channel, slice, row, column] is deep."""
    first, _ = shape[1][0]
    return first[1] if len(first) == _VOLUME_AXES else 1


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
