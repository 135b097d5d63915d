"""What the headers of one series say about its geometry, without decoding a pixel.

A series may hold a scout beside its stack; the facts are those of the largest group of images that share one
orientation and matrix. Directions are LPS unit vectors, distances millimetres.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dicom_node.header import InstanceHeader

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Stack:
    """The geometry of a series as its headers tell it; None where they do not."""

    slices: int
    plane: str | None
    """`axial`, `coronal` or `sagittal`, whichever is nearest."""
    slice_spacing_mm: float | None
    pixel_spacing_mm: tuple[float, float] | None
    axial: AxialView | None
    """The same voxels seen as axial slices; None where position or orientation is not stated."""


@dataclass(frozen=True, slots=True)
class AxialView:
    """The stack's voxel grid with the axis nearest to foot-head taken as the slice axis.

    A sagittal acquisition with small cubic voxels is as good as an axial one; one with thick slices is not, and shows
    it here as coarse pixels.
    """

    tilt_deg: float
    """Angle between that axis and the patient's foot-head axis."""
    slices: int
    slice_spacing_mm: float
    pixel_spacing_mm: tuple[float, float]
    field_of_view_mm: float
    """The shorter in-plane side."""


def stack_of(headers: Sequence[InstanceHeader]) -> Stack:
    """The largest stack among the series' images."""
    images = [header for header in headers if header.has_pixel_data]
    if not images:
        return Stack(0, None, None, None, None)
    groups = Counter(_group(header) for header in images)
    group = max(groups, key=lambda key: (groups[key], str(key)))
    members = [header for header in images if _group(header) == group]
    first = members[0]
    normal = _normal(first.image_orientation)
    slices = _slices(members, normal)
    slice_spacing_mm = _slice_spacing(members, normal)
    return Stack(
        slices=slices,
        plane=_plane(normal),
        slice_spacing_mm=slice_spacing_mm,
        pixel_spacing_mm=first.pixel_spacing_mm,
        axial=_axial_view(first, normal, slices, slice_spacing_mm),
    )


def _axial_view(header: InstanceHeader, normal: Vector | None, slices: int, slice_spacing_mm: float | None) -> AxialView | None:
    orientation, spacing = header.image_orientation, header.pixel_spacing_mm
    if normal is None or orientation is None or not spacing or not slice_spacing_mm or not header.rows or not header.columns:
        return None
    axes = [
        (abs(normal[2]), slice_spacing_mm, slices),
        (abs(orientation[5]), spacing[0], header.rows),
        (abs(orientation[2]), spacing[1], header.columns),
    ]
    through = max(range(3), key=lambda index: axes[index][0])
    cosine, through_mm, count = axes[through]
    one, other = (axes[index] for index in range(3) if index != through)
    return AxialView(
        tilt_deg=math.degrees(math.acos(min(1.0, cosine))),
        slices=count,
        slice_spacing_mm=through_mm,
        pixel_spacing_mm=(one[1], other[1]),
        field_of_view_mm=min(one[1] * one[2], other[1] * other[2]),
    )


def _group(header: InstanceHeader) -> tuple[object, ...]:
    orientation = header.image_orientation
    rounded = None if orientation is None else tuple(round(value, 2) for value in orientation)
    return (rounded, header.rows, header.columns)


def _normal(orientation: tuple[float, ...] | None) -> Vector | None:
    if orientation is None or len(orientation) != 6:
        return None
    rx, ry, rz, cx, cy, cz = orientation
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    length = math.sqrt(sum(value * value for value in normal))
    if length < 1e-6:
        return None
    return (normal[0] / length, normal[1] / length, normal[2] / length)


def _plane(normal: Vector | None) -> str | None:
    if normal is None:
        return None
    axis = max(range(3), key=lambda index: abs(normal[index]))
    return ("sagittal", "coronal", "axial")[axis]


def _slices(members: Sequence[InstanceHeader], normal: Vector | None) -> int:
    """Places, not images: echoes and time points of a series share theirs."""
    frames = sum(header.number_of_frames or 1 for header in members)
    if normal is None or frames != len(members) or not all(header.image_position_lps for header in members):
        return frames
    return len(_heights(members, normal))


def _heights(members: Sequence[InstanceHeader], normal: Vector) -> set[float]:
    return {
        round(sum(p * n for p, n in zip(m.image_position_lps, normal, strict=True)), 3) for m in members if m.image_position_lps
    }


def _slice_spacing(members: Sequence[InstanceHeader], normal: Vector | None) -> float | None:
    first = members[0]
    if normal is not None:
        gaps = sorted(high - low for low, high in pairwise(sorted(_heights(members, normal))))
        if gaps:
            return gaps[len(gaps) // 2]
    return first.spacing_between_slices_mm or first.slice_thickness_mm
