"""The brain mask: a small network on coarse axial slices, then what is known of brains: one piece, no holes, ends above the neck.

The network knows the grid it was trained for (`spacing_mm`) and the grid it is handed (`grid_spacing_mm`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torch.nn import functional

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

BRIGHTEST = 2.5
"""Normalised intensities above this are cut off, in training as well."""
_HEAD_QUANTILE = 0.9  # of the voxels above the mean: the intensity that becomes 1
_BATCH = 32
_ORDINARY_SHARE = 0.72
_REGROWTH = 1.3


class BrainMask:
    """Callable: images[slice, row, column] -> brain[slice, row, column]; axial, foot to head, front to back, right to left."""

    def __init__(self, network: nn.Module, threshold: float = 0.5, grid_spacing_mm: float | None = None) -> None:
        """`network` is one of the kind `brain` of `inference.networks`. Raises ValueError where it names no grid.

        `grid_spacing_mm` is the in-plane spacing of the images it will be handed, where that is not the network's own.
        """
        self._network = network
        grid = _number(network, "grid_spacing_mm") if grid_spacing_mm is None else grid_spacing_mm
        self._scale = grid / _number(network, "spacing_mm")
        self._multiple = int(_number(network, "multiple"))
        self._threshold = threshold

    def __call__(self, images: FloatArray) -> BoolArray:
        """The brain on the grid of `images`, whose in-plane spacing must be the network's `grid_spacing_mm`."""
        return without_neck(images, without_scalp(clean(self.probability(images), self._threshold)))

    def probability(self, images: FloatArray) -> FloatArray:
        """The network's own opinion, 0..1, on the grid of `images`."""
        rows, columns = images.shape[1:]
        size = (max(1, round(rows * self._scale)), max(1, round(columns * self._scale)))
        down, right = (-n % self._multiple for n in size)
        normalised = torch.from_numpy(normalise_head(images))[:, None]
        device = _device(self._network)
        found = []
        for batch in normalised.split(_BATCH):
            small = functional.interpolate(batch.to(device), size, mode="bilinear", antialias=True, align_corners=False)
            with torch.inference_mode():
                logits = self._network(functional.pad(small, (0, right, 0, down)))
            likely = torch.sigmoid(logits[..., : size[0], : size[1]].float())
            whole = functional.interpolate(likely, (rows, columns), mode="bilinear", align_corners=False)
            found.append(whole[:, 0].cpu().numpy())
        return np.concatenate(found)


def normalise_head(images: FloatArray) -> FloatArray:
    """Intensities divided by a bright one of the head (the 90th percentile of what is above the mean), cut off."""
    above = images[images > images.mean()]
    bright = float(np.quantile(above, _HEAD_QUANTILE)) if above.size else 1.0
    return np.clip(images / (bright if bright > 0 else 1.0), 0, BRIGHTEST).astype(np.float32)


def clean(probability: FloatArray, threshold: float = 0.5) -> BoolArray:
    """The largest connected piece above the threshold, thin bridges cut, holes filled slice by slice."""
    rough = probability > threshold
    cross = ndimage.generate_binary_structure(2, 1)[None]
    core = ndimage.binary_opening(rough, cross, iterations=2)
    pieces, count = ndimage.label(core, ndimage.generate_binary_structure(3, 1))
    if count == 0:
        return np.zeros_like(rough)
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    brain = ndimage.binary_dilation(largest, cross, iterations=3) & rough
    return np.stack([ndimage.binary_fill_holes(part) for part in brain])


def without_neck(images: FloatArray, brain: BoolArray) -> BoolArray:
    """The mask without the slices at its foot end that do not look like brain.

    Brain is even: nine pixels in ten lie between 0.6 and 1.6 times its median. In the neck, dark bone and bright fat lie
    inside a false mask. Slices go from the foot end, within its lower third, as long as fewer than 72 % of their pixels are
    ordinary; one better slice between two such does not stop it. Measured on glioma development patients.
    """
    levels = np.flatnonzero(brain.any(axis=(1, 2)))
    if levels.size < 6:
        return brain
    median = float(np.median(images[brain]))
    lower = levels[: levels.size // 3]
    ordinary = [_ordinary(images[level][brain[level]], median) for level in lower]
    cut, passed = 0, 0
    for number, share in enumerate(ordinary):
        if share < _ORDINARY_SHARE:
            cut, passed = number + 1, 0
        else:
            passed += 1
            if passed > 1:
                break
    kept = brain.copy()
    kept[levels[:cut]] = False
    return kept


def without_scalp(brain: BoolArray) -> BoolArray:
    """The mask without slices above the vertex: where it has shrunk to a third of its largest and then grows again."""
    areas = brain.sum(axis=(1, 2))
    top = int(np.argmax(areas))
    smallest = areas[top]
    for level in range(top + 1, len(areas)):
        if smallest < areas[top] / 3 and areas[level] > _REGROWTH * smallest:
            kept = brain.copy()
            kept[level:] = False
            return kept
        smallest = min(smallest, areas[level])
    return brain


def _ordinary(values: FloatArray, median: float) -> float:
    """The share of values between 0.6 and 1.6 medians."""
    return float(np.mean((values > 0.6 * median) & (values < 1.6 * median)))


def _number(network: nn.Module, name: str) -> float:
    value = getattr(network, name, None)
    if not isinstance(value, int | float):
        raise ValueError(f"the brain network does not say its {name}")
    return float(value)


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
