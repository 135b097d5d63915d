"""How tissue looks on FLAIR: signal levels drawn at random within the range of the literature and of clinical scanners.

White matter is 1. Fluid is suppressed, grey matter a little brighter than white, fat bright or saturated; what lies
outside the brain varies widely, because scanners differ there most. One `Look` is one scanner and one head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.phantom.fields import grain, smooth_field
from inference.phantom.tissues import Atlas, Tissue

_FLAIR: dict[Tissue, tuple[float, float]] = {
    Tissue.AIR: (0.0, 0.03),
    Tissue.WHITE: (1.0, 1.0),
    Tissue.CORTEX: (1.02, 1.4),
    Tissue.DEEP_GREY: (0.92, 1.25),
    Tissue.VENTRICLE: (0.08, 0.55),
    Tissue.CHOROID: (0.7, 1.5),
    Tissue.BRAINSTEM: (0.92, 1.2),
    Tissue.CEREBELLAR_WHITE: (0.92, 1.15),
    Tissue.CEREBELLAR_CORTEX: (1.0, 1.35),
    Tissue.CSF: (0.08, 0.6),
    Tissue.SKIN: (0.4, 2.8),
    Tissue.SOFT: (0.3, 1.3),
    Tissue.BONE: (0.02, 0.35),
    Tissue.MARROW: (0.15, 2.0),
    Tissue.EYE: (0.1, 0.6),
    Tissue.VEIN: (0.1, 1.3),
    Tissue.ARTERY: (0.0, 0.5),
    Tissue.MUCOSA: (0.7, 2.5),
    Tissue.CORD: (0.85, 1.25),
}
_ELSEWHERE = (0.05, 2.0)  # any weighting at all, for the brain-mask network


@dataclass(frozen=True, slots=True)
class Look:
    """One scanner and one head: levels per tissue, relative to white matter, and the strength of each imperfection."""

    levels: NDArray[np.float32]
    fat: float
    """Signal of fat, which soft tissue is partly made of."""
    regional: float
    """Standard deviation of the slow variation along the cortex and in fluid."""
    texture: float
    shading: float
    """Standard deviation of the logarithm of the coil's shading."""
    noise: float
    blur_mm: float
    rim: float
    """Brightness of the thin normal rim of the ventricles."""
    patchy: bool = False
    """Whether soft tissue is a patchwork of unrelated levels, as muscle, fat and bone make it, rather than a slow change."""

    def median(self, atlas: Atlas) -> float:
        """The median signal of this head's brain, expected from how much of each tissue it holds."""
        order = np.argsort(self.levels)
        reached = np.cumsum(atlas.shares[order])
        return float(self.levels[order][np.searchsorted(reached, 0.5)])


def draw_flair(rng: np.random.Generator) -> Look:
    """A FLAIR look at random."""
    levels = np.array([rng.uniform(*_FLAIR[t]) for t in Tissue], dtype=np.float32)
    levels[Tissue.CSF] = levels[Tissue.VENTRICLE] * rng.uniform(0.8, 1.5)
    return Look(
        levels=levels,
        fat=float(rng.uniform(0.6, 3.0)),
        regional=float(rng.uniform(0.02, 0.1)),
        texture=float(rng.uniform(0.005, 0.05)),
        shading=float(rng.uniform(0.0, 0.12)),
        noise=float(rng.uniform(0.01, 0.08)),
        blur_mm=float(rng.uniform(0.2, 1.3)),
        rim=float(max(0.0, rng.uniform(-0.15, 0.25))),
    )


def draw_t1(rng: np.random.Generator) -> Look:
    """A T1 look at random: grey matter darker than white, fluid dark, fat bright. What a FLAIR model must refuse."""
    look = draw_flair(rng)
    levels = look.levels
    levels[[Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX]] = rng.uniform(0.6, 0.78)
    levels[Tissue.DEEP_GREY] = rng.uniform(0.75, 0.9)
    levels[[Tissue.VENTRICLE, Tissue.CSF]] = rng.uniform(0.15, 0.35)
    return look


def draw_t2(rng: np.random.Generator) -> Look:
    """A T2 look at random: grey matter brighter than white, fluid brightest of all."""
    look = draw_flair(rng)
    levels = look.levels
    levels[[Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX]] = rng.uniform(1.3, 1.6)
    levels[Tissue.DEEP_GREY] = rng.uniform(1.0, 1.3)
    levels[[Tissue.VENTRICLE, Tissue.CSF]] = rng.uniform(2.5, 4.0)
    return look


def draw_any(rng: np.random.Generator) -> Look:
    """A look of any weighting, half of them FLAIR, with heavier imperfections: what a brain mask must stand."""
    look = draw_flair(rng)
    levels = look.levels
    if rng.random() < 0.5:
        levels = rng.uniform(*_ELSEWHERE, size=len(Tissue)).astype(np.float32)
        levels[Tissue.AIR] = rng.uniform(0, 0.05)
        levels[Tissue.BONE] = rng.uniform(0, 0.4)
    return Look(
        levels,
        look.fat,
        look.regional * 2,
        look.texture * 2,
        look.shading * 2.5,
        look.noise * 1.5,
        float(rng.uniform(0.2, 2.5)),
        look.rim,
        patchy=bool(rng.random() < 0.6),
    )


def paint(tissue: NDArray[np.uint8], look: Look, rng: np.random.Generator, spacing_mm: tuple[float, ...]) -> NDArray[np.float32]:
    """Signal of every voxel of tissue[plane, ...], before blur, shading and noise; the planes of a slab share their texture."""
    signal = look.levels[tissue]
    shape, step = tissue.shape[1:], min(spacing_mm)
    slow = look.regional * smooth_field(rng, shape, 35.0 / step)
    signal += _TEXTURED[tissue] * slow
    signal *= 1 + _FLUID[tissue] * np.expm1(3 * slow)
    fatty = np.clip(0.5 + 0.6 * smooth_field(rng, shape, 9.0 / step), 0, 1)
    signal += _FLESH[tissue] * ((look.fat - look.levels[Tissue.SOFT]) * fatty)
    if look.patchy:
        signal += _FLESH[tissue] * (_patchwork(rng, shape, step) - signal)
    signal *= 1 + _FATTY[tissue] * (0.8 * fatty - 0.4)
    signal *= 1 + look.texture * grain(rng, shape, 2.0)
    return np.asarray(signal, dtype=np.float32)


def _patchwork(rng: np.random.Generator, shape: tuple[int, ...], step_mm: float) -> NDArray[np.float32]:
    """Patches of 5 to 25 mm, each of one of six levels between bone and fat."""
    field = smooth_field(rng, shape, float(rng.uniform(7, 25)) / step_mm)
    levels = rng.uniform(0.05, 2.6, 6).astype(np.float32)
    return np.asarray(levels[np.clip((field + 1.8) / 3.6 * 6, 0, 5).astype(np.intp)], dtype=np.float32)


def _indicator(*tissues: Tissue) -> NDArray[np.float32]:
    table = np.zeros(len(Tissue), dtype=np.float32)
    table[list(tissues)] = 1
    return table


_TEXTURED = _indicator(Tissue.CORTEX, Tissue.CEREBELLAR_CORTEX, Tissue.DEEP_GREY)
_FLUID = _indicator(Tissue.CSF, Tissue.VENTRICLE)
_FLESH = _indicator(Tissue.SOFT)
_FATTY = _indicator(Tissue.MARROW, Tissue.SKIN, Tissue.MUCOSA)


def scan(
    signal: NDArray[np.float32], look: Look, rng: np.random.Generator, spacing_mm: tuple[float, float]
) -> NDArray[np.float32]:
    """The signal [.., row, column] as a scanner delivers it: blurred in the plane, shaded, with Rician noise."""
    flat = (0.0,) * (signal.ndim - 2)
    sigma = flat + tuple(look.blur_mm / s for s in spacing_mm)
    seen = ndimage.gaussian_filter(signal, sigma)
    if look.noise > 0:
        speckle = rng.standard_normal((2, *signal.shape), dtype=np.float32) * look.noise
        soften = flat + tuple(0.4 * look.blur_mm / s for s in spacing_mm)
        speckle = np.stack([ndimage.gaussian_filter(part, soften) for part in speckle])
        seen = np.hypot(seen + speckle[0], speckle[1])
    if look.shading > 0:
        seen = seen * np.exp(look.shading * smooth_field(rng, signal.shape, 110.0 / min(spacing_mm)))
    return np.asarray(seen, dtype=np.float32)
