"""A whole FLAIR-like head made by code, without any file: for the demo, for tests, and as one style among the training heads.

The anatomy is a set of implicit shapes in millimetres around the brain's centre (x to the patient's left, y to the back,
z to the head), bent by smooth noise; sulci are the zero sheets of a random field, cortex is what lies near them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.phantom.appearance import draw_flair
from inference.phantom.fields import smooth_field
from inference.phantom.heads import (
    Lesions,
    Shape,
    Spacing,
    SyntheticHead,
    grid_points,
    moderate,
    plane_offsets,
    scan_head,
)
from inference.phantom.tissues import Atlas, Tissue, atlas_from_tissue

Array = NDArray[np.float32]

_NOISE_STEP_MM = 3.0  # lattice on which the bending and folding fields live
_NOISE_EXTENT = 96  # lattice points per axis: 288 mm


class _Anatomy:
    """The implicit shapes of one head; every random number is drawn on construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        size = (_NOISE_EXTENT,) * 3
        self.bends = [smooth_field(rng, size, wavelength) for wavelength in (16.0, 16.0, 16.0)]
        self.fold = smooth_field(rng, size, float(rng.uniform(5.5, 7.0)))
        self.folia = smooth_field(rng, size, 3.4)
        self.cerebrum = np.array([66.0, 84.0, 60.0]) * rng.uniform(0.95, 1.06, 3)
        self.ventricle = float(rng.uniform(0.8, 1.35))
        self.sulcus = float(rng.uniform(0.35, 0.9))
        self.cortex = float(rng.uniform(2.3, 3.0))
        self.bone = float(rng.uniform(5.5, 8.0))
        self.scalp = float(rng.uniform(4.0, 7.0))

    @staticmethod
    def _at(field: Array, p: Array) -> Array:
        index = p[::-1] / _NOISE_STEP_MM + _NOISE_EXTENT / 2
        return np.asarray(ndimage.map_coordinates(field, index, order=1, mode="wrap"), dtype=np.float32)

    @staticmethod
    def _ellipsoid(p: Array, centre: tuple[float, float, float], radii: NDArray[np.float64]) -> Array:
        """About the distance in mm to the surface of an ellipsoid, positive inside."""
        offset = [(p[axis] - np.float32(centre[axis])) / np.float32(radii[axis]) for axis in range(3)]
        rho = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
        return np.asarray((1 - rho) * np.float32(radii.mean()), dtype=np.float32)

    def _blob(self, p: Array, x: float, y: float, z: float, *radii: float) -> Array:
        """The same pair of ellipsoids left and right."""
        mirrored = np.stack([np.abs(p[0]), p[1], p[2]])
        return self._ellipsoid(mirrored, (x, y, z), np.array(radii))

    def tissue(self, points: Array) -> NDArray[np.uint8]:
        """Tissue class at points [3 = x y z in mm, ...]."""
        bend = np.stack([2.0 * self._at(field, points) for field in self.bends]).astype(np.float32)
        p = points + bend
        cerebrum = self._ellipsoid(p, (0, 0, 0), self.cerebrum)
        floor = p[2] + 34 + 10 * np.tanh(-(p[1] + 35) / 14)  # frontal lobes end higher than temporal ones
        cerebrum = np.minimum(cerebrum, floor)
        cerebellum = np.minimum(self._blob(p, 20, 44, -44, 32, 30, 22), -24 - p[2] + 0.12 * p[1])
        stem = self._stem(p)
        hull = np.maximum(np.maximum(cerebrum, self._ellipsoid(p, (0, 40, -42), np.array([52.0, 34.0, 27.0]))), stem)
        out = self._outside(p, hull)
        out[(hull > -2.5)] = Tissue.CSF
        self._cerebellum(out, p, cerebellum)
        self._cerebrum(out, p, cerebrum)
        out[stem > 0] = Tissue.BRAINSTEM
        out[(stem > 0) & (p[2] < -68)] = Tissue.CORD
        return out

    def _stem(self, p: Array) -> Array:
        pons = self._ellipsoid(p, (0, 14, -40), np.array([15.0, 13.0, 17.0]))
        radius = np.float32(8.5) + 0.06 * np.clip(p[2] + 60, -30, 30)
        axis = np.hypot(p[0], p[1] - 20 + 0.1 * (p[2] + 50))
        column = np.where(p[2] < -12, radius - axis, np.float32(-50))
        return np.asarray(np.maximum(pons, column), dtype=np.float32)

    def _outside(self, p: Array, hull: Array) -> NDArray[np.uint8]:
        out = np.zeros(hull.shape, dtype=np.uint8)
        skin = -(2.5 + self.bone + self.scalp)
        face = self._ellipsoid(p, (0, -38, -62), np.array([60.0, 52.0, 62.0]))
        neck = np.where(p[2] < -40, 56 - np.hypot(p[0], 0.9 * (p[1] - 25)), np.float32(-99))
        flesh = np.maximum(face, neck)
        body = np.maximum(hull - skin, flesh)
        out[body > 0] = Tissue.SKIN
        out[body > 3] = Tissue.SOFT
        table = (hull > -(2.5 + self.bone)) & (p[2] > -66)
        out[table] = Tissue.BONE
        middle = (hull < -(2.5 + 0.3 * self.bone)) & (hull > -(2.5 + 0.7 * self.bone)) & (p[2] > -66)
        out[middle] = Tissue.MARROW
        orbit = self._blob(p, 31, -70, -28, 19, 24, 17)
        out[(orbit > 0) & (hull < -5)] = Tissue.SOFT
        out[self._blob(p, 31, -80, -28, 12, 12, 12) > 0] = Tissue.EYE
        nose = self._ellipsoid(p, (0, -72, -46), np.array([15.0, 28.0, 24.0]))
        out[(nose > -3) & (hull < -6)] = Tissue.MUCOSA
        out[(nose > 0) & (hull < -6)] = Tissue.AIR
        out[self._ellipsoid(p, (0, -20, -85), np.array([12.0, 12.0, 40.0])) > 0] = Tissue.AIR
        spine = np.hypot(p[0], p[1] - 26) - 14
        out[(p[2] < -66) & (spine > 0) & (spine < 5)] = Tissue.BONE
        out[(p[2] < -66) & (spine <= 0)] = Tissue.CSF
        return out

    def _cerebellum(self, out: NDArray[np.uint8], p: Array, cerebellum: Array) -> None:
        folia = np.abs(self._at(self.folia, p))
        inside = cerebellum > 0
        out[inside] = Tissue.CEREBELLAR_CORTEX
        out[inside & (folia < 0.12) & (cerebellum < 12)] = Tissue.CSF
        out[(cerebellum > 8) & (folia > 0.5)] = Tissue.CEREBELLAR_WHITE
        out[cerebellum > 14] = Tissue.CEREBELLAR_WHITE
        fourth = self._ellipsoid(p, (0, 31, -42), np.array([7.0, 5.0, 10.0]) * self.ventricle)
        out[fourth > 0] = Tissue.VENTRICLE

    def _cerebrum(self, out: NDArray[np.uint8], p: Array, cerebrum: Array) -> None:
        sheet = np.abs(self._at(self.fold, p)) * 5.5  # about mm from the middle of the nearest sulcus
        depth = np.maximum(cerebrum - 18, 0) * 0.9  # sulci end about 18 mm below the surface
        fissure = np.where(p[2] > 14, np.abs(points_from_midline(p)), np.float32(99))
        fissure = np.where(np.abs(p[1]) > 42, np.abs(points_from_midline(p)), fissure)
        sulcus = np.minimum(sheet + depth, fissure)
        inside = cerebrum > 0
        out[inside] = Tissue.WHITE
        out[inside & ((sulcus < self.sulcus + self.cortex) | (cerebrum < self.cortex))] = Tissue.CORTEX
        out[inside & (sulcus < self.sulcus) & (cerebrum < 22)] = Tissue.CSF
        for shape in ((12, 9, -3, 8, 15, 9), (25, -6, -3, 6, 17, 11), (13, -20, 9, 5, 14, 8)):
            out[(self._blob(p, *shape) > 0) & inside] = Tissue.DEEP_GREY
        self._ventricles(out, p, inside)

    def _ventricles(self, out: NDArray[np.uint8], p: Array, inside: NDArray[np.bool_]) -> None:
        v = self.ventricle
        curved = np.stack([p[0], p[1], p[2] + 0.006 * (p[1] - 2) ** 2])
        spread = 7 + 0.012 * np.maximum(p[1], 0) ** 1.6
        lateral = np.stack([np.abs(np.abs(p[0]) - spread), curved[1], curved[2]])
        body = self._ellipsoid(lateral.astype(np.float32), (0, 4, 17), np.array([5.5, 42.0, 7.0]) * v)
        third = self._ellipsoid(p, (0, 2, -4), np.array([2.2, 13.0, 10.0]) * v)
        out[((body > 0) | (third > 0)) & inside] = Tissue.VENTRICLE
        plexus = self._blob(p, 15, 30, 13, 2.5, 7, 3)
        out[(plexus > 0) & (body > 0)] = Tissue.CHOROID


def points_from_midline(p: Array) -> Array:
    """Distance in mm from the plane between the hemispheres, positive to the patient's left."""
    return np.asarray(p[0], dtype=np.float32)


def analytic_atlas(seed: int) -> Atlas:
    """A head made by code as an atlas on the 1 mm grid, to be cut like the label maps."""
    anatomy = _Anatomy(np.random.default_rng([seed, 1]))
    points = grid_points((200, 240, 180), (1.0, 1.0, 1.0), (0.0, 0.0, -20.0))
    return atlas_from_tissue(f"analytic_{seed}", anatomy.tissue(points))


def synthetic_head(
    *,
    seed: int,
    shape: Shape = (36, 256, 256),
    spacing_mm: Spacing = (5.0, 0.9, 0.9),
    lesions: int = 2,
) -> SyntheticHead:
    """A FLAIR-like head on the grid asked for, with that many bright lesions in its white matter; made of nothing but `seed`.

    The grid's centre lies 12 mm below the centre of the cerebrum, so the default covers vertex to skull base. Lesions are
    bent balls of 9 to 20 mm radius, 60 to 90 % brighter than white matter.
    """
    rng = np.random.default_rng([seed, 2])
    anatomy = _Anatomy(np.random.default_rng([seed, 1]))
    look = moderate(draw_flair(rng))
    points = grid_points(shape, spacing_mm, (0.0, 0.0, -12.0))
    shifts = [np.array([0, 0, dz], np.float32)[:, None, None, None] for dz in plane_offsets(spacing_mm[0])]
    tissue = np.stack([anatomy.tissue(points + shift) for shift in shifts])
    return scan_head(tissue, points, spacing_mm, look, Lesions(lesions, (9.0, 20.0), (0.6, 0.9)), rng)
