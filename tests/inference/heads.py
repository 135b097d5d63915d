"""Heads, cards and networks for the tests of this folder: everything made in code, any grid, known truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from highdicom import CoordinateSystemNames, Volume
from torch import Tensor, nn

from inference.bundle import weights_file, write_bundle
from inference.card import Calibration, ModelCard, OperatingPointCard, Validity
from inference.networks import build
from inference.recipes import RECIPES
from inference.slices import Network, SliceRandom, Slices

TINY: dict[str, object] = {
    "stem": 2,
    "multiple": 16,
    "in_channels": 1,
    "channels": [8, 8],
    "attention_levels": [False, False],
    "res_blocks": 1,
    "norm_groups": 4,
    "head_channels": 8,
    "brain_stem": 2,
    "brain_multiple": 32,
    "brain_features": [8, 8, 8, 8, 8, 8],
    "brain_norm_groups": 4,
    "brain_spacing_mm": 4.0,
    "brain_grid_spacing_mm": 2.0,
}
BRAIN_RADII_MM = (60.0, 75.0, 55.0)
"""Half-axes of the test brain along LPS: left-right, front-back, foot-head."""
TISSUE = 400.0


@dataclass(frozen=True)
class Blob:
    """A ball of other brightness in the test brain: LPS centre relative to the brain's, radius, factor."""

    centre_lps: tuple[float, float, float]
    radius_mm: float
    factor: float


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """Rotation about the LPS axes x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = one @ matrix
    return matrix


def affine(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    tilt_deg: tuple[float, float, float] = (0, 0, 0),
    axes: str = "HPL",
    centre_lps: tuple[float, float, float] = (0, 0, 0),
) -> np.ndarray:
    """Index-to-LPS affine of a grid with axes along the letters of `axes`, tilted, centred on `centre_lps`."""
    directions = {
        "L": (1, 0, 0),
        "R": (-1, 0, 0),
        "P": (0, 1, 0),
        "A": (0, -1, 0),
        "H": (0, 0, 1),
        "F": (0, 0, -1),
    }
    columns = rotation(tilt_deg) @ np.array([directions[letter] for letter in axes], dtype=float).T
    matrix = np.eye(4)
    matrix[:3, :3] = columns * np.array(spacing_mm)
    matrix[:3, 3] = np.array(centre_lps) - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return matrix


def positions_lps(shape: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """LPS position in mm of every voxel centre, [slice, row, column, axis]."""
    return np.moveaxis(np.indices(shape), 0, -1) @ matrix[:3, :3].T + matrix[:3, 3]


def volume(array: np.ndarray, matrix: np.ndarray, frame_of_reference_uid: str | None = "1.2.3.4") -> Volume:
    """The array on a grid in the patient's coordinates."""
    return Volume(array, matrix, CoordinateSystemNames.PATIENT, frame_of_reference_uid=frame_of_reference_uid)


def head(
    shape: tuple[int, int, int] = (30, 80, 72),
    spacing_mm: tuple[float, float, float] = (5.0, 2.2, 2.2),
    blobs: tuple[Blob, ...] = (),
    centre_lps: tuple[float, float, float] = (0, 0, 0),
    **grid: object,
) -> Volume:
    """An ellipsoid of tissue with a little noise, blobs in it, air around it; float32."""
    matrix = affine(shape, spacing_mm, centre_lps=centre_lps, **grid)  # type: ignore[arg-type]
    place = positions_lps(shape, matrix) - np.array(centre_lps)
    brain = np.sum((place / np.array(BRAIN_RADII_MM)) ** 2, axis=-1) <= 1
    tissue = TISSUE * (1 + 0.02 * np.random.default_rng(3).standard_normal(shape))
    for blob in blobs:
        inside = np.linalg.norm(place - np.array(blob.centre_lps), axis=-1) <= blob.radius_mm
        tissue[inside] *= blob.factor
    return volume(np.where(brain, tissue, 0).astype(np.float32), matrix)


def card(network: Mapping[str, object] = TINY, recipes: tuple[str, ...] = tuple(RECIPES), **changes: object) -> ModelCard:
    """A card for brains of any usual geometry, calibrated so that a raw score r has the score |r| up to 4."""
    steps = tuple(np.linspace(0, 4, 41).tolist())
    calibration = Calibration(
        reference="none: a ramp",
        voxels=10_000,
        raw={"brighter": steps, "darker": steps},
        exceedance=tuple(10.0**-step for step in steps),
    )
    point = OperatingPointCard(
        threshold={"brighter": 1.0, "darker": 1.0},
        minimum_volume_mm3=100.0,
        maximum_findings=20,
        rule="a test's",
    )
    fields: dict[str, object] = {
        "name": "Test model",
        "version": "1",
        "manufacturer": "Nobody",
        "summary": "",
        "intended_use": "Tests",
        "validity": Validity(
            modality="MR",
            body_part="BRAIN",
            contrast="FLAIR",
            echo_time_ms=(50, 500),
            inversion_time_ms=(1000, 3000),
            slices=(10, 400),
            pixel_spacing_mm=(0.3, 3.0),
            slice_spacing_mm=(0.5, 8.0),
            field_of_view_mm=(120, 400),
            maximum_tilt_deg=40,
            age_years=(18, 120),
        ),
        "recipes": recipes,
        "network": dict(network),
        "grid_spacing_mm": (2.0, 5.0),
        "calibration": dict.fromkeys(recipes, calibration),
        "operating_point": dict.fromkeys(recipes, point),
        "blind_spots": (),
        "sources": (),
        "training": {},
        "measured": {},
        "files": {},
    }
    return ModelCard.model_validate(fields | changes)


def shown(image: Tensor, seed: int = 0, most: int = 32, **networks: Network) -> Slices:
    """The image as slices that are brain wherever they are above -4, with these networks."""
    numbers = tuple(range(len(image)))
    return Slices(image, (image > -4).to(image), networks, SliceRandom(seed, numbers), most)


class Knows:
    """A denoiser that asks nobody: it answers with what it was made with, and keeps what it was shown."""

    def __init__(self, answer: Tensor | None = None) -> None:
        self.answer, self.asked = answer, list[tuple[float, Tensor]]()

    def estimate(self, x_t: Tensor, level: float | Tensor, slices: Slices) -> Tensor:
        """The answer; without any, what was shown."""
        levels = level.tolist() if isinstance(level, Tensor) else [level] * len(x_t)
        self.asked += [(one, image) for one, image in zip(levels, x_t, strict=True)]
        return x_t if self.answer is None else self.answer


class LocalMean(nn.Module):
    """A restorer without weights: healthy is the mean over 41 pixels square, so any blob stands out."""

    def __init__(self) -> None:
        super().__init__()
        along = [((41, 1), (20, 0)), ((1, 41), (0, 20))]
        self.pool = nn.Sequential(*(nn.AvgPool2d(size, stride=1, padding=padding) for size, padding in along))

    def forward(self, image: Tensor, severity: Tensor) -> Tensor:
        """The local mean over what is brain; the rest stays."""
        inside = (image > -3.9).float()
        mean = self.pool(image * inside) / self.pool(inside).clamp_min(1e-3)
        return torch.where(inside > 0, mean + 0.01 * severity[:, None, None, None], image)


class Bright(nn.Module):
    """A brain network without weights: what has signal is brain."""

    spacing_mm, grid_spacing_mm, multiple = 2.0, 2.0, 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits that rise with intensity."""
        return self.scale * (image - 0.88)


def restless(network: nn.Module, seed: int) -> nn.Module:
    """The network with small random numbers in every weight, so that no layer is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network


def tiny_bundle(folder: Path, seed: int = 0, **changes: object) -> ModelCard:
    """Write a bundle of tiny untrained networks; the card as written."""
    given = card(**changes)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {name: build(one.kind, one.arguments) for name, one in given.networks.items()}
    weights = {
        weights_file(name): restless(network, seed + number).state_dict()
        for number, (name, network) in enumerate(networks.items())
    }
    return write_bundle(folder, given, weights, {"MODEL_CARD.md": "# Test model\n"})
