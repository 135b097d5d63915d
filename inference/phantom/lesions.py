"""Synthetic anomalies for training: shape, texture, sign, sharpness and mass effect drawn independently of one another.

Slices are standardised (see `inference.preprocess`): 0 is the brain's median, -4 is no signal, one unit is a quarter of
the median. Severity in 0..1 is how far the tissue has turned into the anomaly, the corruption level of cold diffusion.
The healthy target keeps the displacement that a mass causes, so that only the anomaly itself is restored. Follows the
idea of disentangled anomalies of DISYRE v2 (Naval Marimon et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_BLOBS = 8  # most small lesions in one slice
_FLUID = -1.3  # standardised signal below which a pixel counts as fluid


@dataclass(frozen=True, slots=True)
class Corruption:
    """Tensors [B, 1, H, W]: what the network sees, what it shall return, and how much of each pixel is anomaly."""

    image: Tensor
    target: Tensor
    amount: Tensor
    opacity: Tensor
    """The amount at full severity: the lesion's outline as a reader would draw it, however faint the lesion is."""

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors in the order of the fields."""
        return self.image, self.target, self.amount, self.opacity


class AnomalyPainter:
    """Paints anomalies into batches of slices; a bank of smooth noise is drawn once from `seed`."""

    def __init__(self, shape: tuple[int, int], spacing_mm: float, seed: int, fields: int = 192) -> None:
        self.shape, self.spacing_mm = shape, spacing_mm
        generator = torch.Generator().manual_seed(seed)
        self._noise = {
            scale: _smooth_noise(fields, shape, sigma, generator)
            for scale, sigma in (("fine", 0.7), ("medium", 3.0), ("coarse", 9.0))
        }
        rows = torch.arange(shape[0], dtype=torch.float32)
        columns = torch.arange(shape[1], dtype=torch.float32)
        self._rows, self._columns = torch.meshgrid(rows, columns, indexing="ij")

    def __call__(self, clean: Tensor, brain: Tensor, white: Tensor, severity: Tensor, g: torch.Generator) -> Corruption:
        """Anomalies in clean[B, 1, H, W], centred inside `brain`; small ones mostly in `white`; a seventh stay healthy."""
        count = clean.shape[0]
        kind = torch.rand(count, generator=g)
        small = kind < 0.33
        centre = _choose(brain, 1, g)[:, 0]
        radius = torch.where(torch.rand(count, generator=g) < 0.75, _between(count, 8, 45, g), _between(count, 3, 10, g))
        base = self._displace(clean, centre, radius / self.spacing_mm, small, g)
        level = self._mass(centre, radius, g) + self._along_white(white, g)
        if small.any():
            level[small] = self._blobs(brain[small], white[small], g)
        alpha = self._soften(level, small, g) * (kind < 0.86)[:, None, None]
        alpha = alpha[:, None] * brain * self._sparing_fluid(base, g)
        anomaly = self._anomaly(base, brain, level[:, None], small, g)
        amount = severity[:, None, None, None] * alpha
        return Corruption(base + amount * (anomaly - base), base, amount, alpha)

    def _draw(self, scale: str, count: int, g: torch.Generator) -> Tensor:
        bank = self._noise[scale]
        fields = bank[torch.randint(0, bank.shape[0], (count,), generator=g)]
        down, right = torch.randint(0, min(self.shape), (2,), generator=g).tolist()
        fields = torch.roll(fields, (down, right), (1, 2))
        return fields.flip(2) if torch.rand(1, generator=g).item() < 0.5 else fields

    def _displace(self, clean: Tensor, centre: Tensor, radius: Tensor, small: Tensor, g: torch.Generator) -> Tensor:
        """Push tissue away from the centre of a third of the large anomalies."""
        count = clean.shape[0]
        strength = _between(count, 0.1, 0.5, g) * (torch.rand(count, generator=g) < 0.4) * ~small
        dy = self._rows[None] - centre[:, 0, None, None]
        dx = self._columns[None] - centre[:, 1, None, None]
        reach = (dy**2 + dx**2) / (1.4 * radius[:, None, None]) ** 2
        pull = strength[:, None, None] * torch.exp(-reach)
        y = 2 * (self._rows[None] - pull * dy) / (self.shape[0] - 1) - 1
        x = 2 * (self._columns[None] - pull * dx) / (self.shape[1] - 1) - 1
        moved = functional.grid_sample(clean, torch.stack([x, y], -1), align_corners=True, padding_mode="border")
        return torch.where((strength > 0)[:, None, None, None], moved, clean)

    def _mass(self, centre: Tensor, radius: Tensor, g: torch.Generator) -> Tensor:
        """1 at the centre of a bent ellipse of the given radius in mm, 0 on its outline, negative outside."""
        count = centre.shape[0]
        dy = (self._rows[None] - centre[:, 0, None, None]) * self.spacing_mm
        dx = (self._columns[None] - centre[:, 1, None, None]) * self.spacing_mm
        angle = _between(count, 0, 3.1416, g)[:, None, None]
        along = dy * torch.cos(angle) + dx * torch.sin(angle)
        across = dx * torch.cos(angle) - dy * torch.sin(angle)
        stretch = _between(count, 1.0, 1.9, g)[:, None, None]
        rho = torch.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / radius[:, None, None]
        rough = _between(count, 0.05, 0.45, g)[:, None, None] * self._draw("coarse", count, g)
        rough = rough + _between(count, 0.0, 0.2, g)[:, None, None] * self._draw("medium", count, g)
        return 1 - rho / torch.exp(rough).clamp(0.3, 3)

    @staticmethod
    def _along_white(white: Tensor, g: torch.Generator) -> Tensor:
        """What white matter adds to the level in half of the slices: gliomas and oedema spread along it and spare the cortex."""
        count = white.shape[0]
        pull = _between(count, 0, 0.9, g) * (torch.rand(count, generator=g) < 0.5)
        return pull[:, None, None] * (functional.avg_pool2d(white, 5, 1, 2)[:, 0] - 0.6)

    def _blobs(self, brain: Tensor, white: Tensor, g: torch.Generator) -> Tensor:
        """The same for up to eight small round lesions of 1 to 6 mm radius."""
        count = brain.shape[0]
        place = torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.8, white, brain)
        centres = _choose(place, _BLOBS, g)
        radius = 1.0 + 5.0 * torch.rand(count, _BLOBS, generator=g) ** 2.0
        present = torch.rand(count, _BLOBS, generator=g) < torch.rand(count, 1, generator=g)
        present[:, 0] = True
        dy = (self._rows - centres[..., 0, None, None]) * self.spacing_mm
        dx = (self._columns - centres[..., 1, None, None]) * self.spacing_mm
        stretch = (1 + 0.6 * torch.rand(count, _BLOBS, generator=g))[..., None, None]
        swap = torch.rand(count, _BLOBS, generator=g)[..., None, None] < 0.5
        rho = torch.sqrt(
            (dy * torch.where(swap, stretch, 1 / stretch)) ** 2 + (dx * torch.where(swap, 1 / stretch, stretch)) ** 2
        )
        level = 1 - rho / radius[..., None, None]
        level = torch.where(present[..., None, None], level, torch.full_like(level, -9.0)).amax(1)
        return level + 0.15 * self._draw("medium", count, g)

    @staticmethod
    def _soften(level: Tensor, small: Tensor, g: torch.Generator) -> Tensor:
        """Opacity from level: anything from a sharp outline to one that fades all the way from the centre."""
        count = level.shape[0]
        edge = torch.where(small, _between(count, 0.3, 0.9, g), 0.05 + 0.95 * torch.rand(count, generator=g) ** 1.5)
        return torch.clamp(level / edge[:, None, None] + 0.25, 0, 1)

    @staticmethod
    def _sparing_fluid(base: Tensor, g: torch.Generator) -> Tensor:
        """0 in fluid for two thirds of the slices, 1 elsewhere."""
        spare = torch.rand(base.shape[0], 1, 1, 1, generator=g) < 0.65
        return torch.where(spare, torch.sigmoid((base - _FLUID) * 5), torch.ones_like(base))

    def _anomaly(self, base: Tensor, brain: Tensor, level: Tensor, small: Tensor, g: torch.Generator) -> Tensor:
        """The tissue at full severity: anatomy partly effaced, shifted up or down, mottled, with a core in some."""
        count = base.shape[0]
        bright = torch.rand(count, generator=g) < 0.75
        contrast = 0.35 * torch.exp(torch.rand(count, generator=g) * 2.8)  # 9 % to 140 % of the median
        delta = torch.where(bright, contrast, -contrast.clamp(max=2.5))[:, None, None, None]
        mottle = _between(count, 0, 0.5, g)[:, None, None, None] * self._draw("medium", count, g)[:, None]
        mottle = mottle + _between(count, 0, 0.35, g)[:, None, None, None] * self._draw("coarse", count, g)[:, None]
        kept = torch.rand(count, 1, 1, 1, generator=g)
        tissue = kept * base + (1 - kept) * _blur_inside(base, brain)
        tissue = tissue + delta * (1 + mottle).clamp(0.2, 2)
        tissue = tissue + _between(count, 0, 0.35, g)[:, None, None, None] * self._draw("fine", count, g)[:, None]
        return self._core(tissue, level, small, g).clamp(-4, 14)

    def _core(self, tissue: Tensor, level: Tensor, small: Tensor, g: torch.Generator) -> Tensor:
        """A cyst or necrosis in a quarter of the large anomalies, now and then a dark spot in a small one."""
        count = tissue.shape[0]
        wanted = torch.rand(count, generator=g) < torch.where(small, 0.08, 0.28)
        start = _between(count, 0.15, 0.6, g)[:, None, None, None]
        inside = torch.sigmoid((level - start) * 25) * wanted[:, None, None, None]
        value = torch.where(torch.rand(count, generator=g) < 0.8, _between(count, -3.4, -0.3, g), _between(count, 0, 3, g))
        return tissue + inside * (value[:, None, None, None] - tissue)


def _between(count: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=g)


def _choose(region: Tensor, number: int, g: torch.Generator) -> Tensor:
    """Row and column [B, number, 2] of random pixels where region[B, 1, H, W] is above one half; anywhere if there are none."""
    flat = (region.flatten(1) > 0.5).float() + 1e-6
    index = torch.multinomial(flat, number, replacement=True, generator=g)
    width = region.shape[-1]
    return torch.stack([index // width, index % width], -1).float()


def _smooth_noise(count: int, shape: tuple[int, int], sigma: float, g: torch.Generator) -> Tensor:
    """Periodic Gaussian noise [count, H, W] of zero mean and unit variance, smooth over `sigma` pixels."""
    fy, fx = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])[None]
    window = torch.exp(-2 * (torch.pi * sigma) ** 2 * (fy**2 + fx**2))
    noise = torch.fft.irfft2(torch.fft.rfft2(torch.randn(count, *shape, generator=g)) * window, s=shape)
    noise = noise - noise.mean((1, 2), keepdim=True)
    return noise / noise.std((1, 2), keepdim=True)


def _blur_inside(base: Tensor, brain: Tensor) -> Tensor:
    """The local mean over about 8 pixels, taken inside the brain only."""
    kernel, pad = 9, 4
    weight = functional.avg_pool2d(brain, kernel, 1, pad) + 1e-3
    return functional.avg_pool2d(base * brain, kernel, 1, pad) / weight
