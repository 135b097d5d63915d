"""The planes of a series in the patient, and whether they are one even, straight stack (PS3.3 C.7.6.2 and C.7.6.16).

highdicom would straighten a slightly sheared stack without a word, so every plane's place is compared here with its
Image Position (Patient) first. Positions are LPS in millimetres.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.unsuitable import Unsuitable, UnsuitableSeries

Vector = NDArray[np.float64]

TOLERANCE_MM = 0.1
"""Smallest tolerance on a plane's place; the tolerance is this or a tenth of a voxel, whichever is larger."""
SAME_PLACE_MM = 0.01
"""Planes closer than this show the same slice: positions are written with micrometres at best."""
UNIT_TOLERANCE = 1e-3
"""How far direction cosines may be from unit length and a right angle, as written with three digits or more."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One image plane."""

    instance: int
    """Index of its header."""
    frame: int | None
    """Frame number from 1 where the instance is a multi-frame image."""
    sop_instance_uid: str
    name: str
    """What a message calls it: its Instance Number or frame number."""
    position: Vector
    row_direction: Vector
    """Unit vector along a row: the direction of rising column index."""
    column_direction: Vector
    spacing_mm: tuple[float, float]
    """Between rows, between columns (Pixel Spacing)."""
    shape: tuple[int, int]

    @property
    def normal(self) -> Vector:
        """Row direction cross column direction."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def height_mm(self) -> float:
        """Position along the normal."""
        return float(self.position @ self.normal)


def planes_of(headers: Sequence[Dataset]) -> list[Plane]:
    """Every plane of the instances; raises UnsuitableSeries where one says not where it lies."""
    return [plane for index, header in enumerate(headers) for plane in _planes(index, header)]


def is_multiframe(header: Dataset) -> bool:
    """Whether the instance keeps its geometry in functional groups (PS3.3 C.7.6.16)."""
    return "PerFrameFunctionalGroupsSequence" in header or "SharedFunctionalGroupsSequence" in header


def largest_stack(planes: Sequence[Plane]) -> tuple[list[Plane], list[str]]:
    """The planes of the commonest orientation, and a sentence about those passed over."""
    stacks: list[list[Plane]] = []
    for plane in planes:
        stack = next((known for known in stacks if _is_parallel(known[0], plane)), None)
        if stack is None:
            stacks.append([plane])
        else:
            stack.append(plane)
    stacks.sort(key=len, reverse=True)
    if len(stacks) == 1:
        return stacks[0], []
    if len(stacks[0]) == len(stacks[1]):
        sizes = " and ".join(str(len(stack)) for stack in stacks)
        raise UnsuitableSeries(
            Unsuitable.MIXED_ORIENTATION, f"images of {len(stacks)} orientations, none with the most: {sizes} images"
        )
    others = sum(len(stack) for stack in stacks[1:])
    return stacks[0], [f"{others} of {len(planes)} images have another orientation than the rest and were not used."]


def sort_planes(planes: Sequence[Plane]) -> list[Plane]:
    """The planes against their normal, as highdicom orders a right-handed volume [slice, row, column]."""
    normal = planes[0].normal
    return sorted(planes, key=lambda plane: -float(plane.position @ normal))


def same_places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Sorted planes, those that lie in the same place together."""
    groups: list[list[Plane]] = []
    for plane in planes:
        if groups and np.linalg.norm(plane.position - groups[-1][0].position) < SAME_PLACE_MM:
            groups[-1].append(plane)
        else:
            groups.append([plane])
    return groups


def affine_index_to_lps(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """The 4x4 map of (slice, row, column) to LPS mm of sorted planes; raises UnsuitableSeries unless they fit it.

    Tolerance: 0.1 mm or a tenth of a voxel, the larger, of the slice distance along the normal and of the pixel
    spacing across it.
    """
    first, last = planes[0], planes[-1]
    _check_gaps(planes)
    spacing_mm = (first.height_mm - float(last.position @ first.normal)) / (len(planes) - 1)
    affine = np.eye(4)
    affine[:3, 0] = -first.normal * spacing_mm
    affine[:3, 1] = first.column_direction * first.spacing_mm[0]
    affine[:3, 2] = first.row_direction * first.spacing_mm[1]
    affine[:3, 3] = first.position
    _check_places(planes, affine, spacing_mm)
    return affine


def tolerance_mm(voxel_mm: float) -> float:
    """The larger of 0.1 mm and a tenth of the voxel."""
    return max(TOLERANCE_MM, voxel_mm / 10)


def _check_gaps(planes: Sequence[Plane]) -> None:
    normal = planes[0].normal
    gaps = [float((above.position - below.position) @ normal) for above, below in pairwise(planes)]
    expected = float(np.median(gaps))
    limit = tolerance_mm(expected)
    for gap, (above, below) in zip(gaps, pairwise(planes), strict=True):
        if abs(gap - expected) > limit:
            raise UnsuitableSeries(
                Unsuitable.GAP,
                f"slice gap {gap:.2f} mm between {above.name} and {below.name}, "
                f"expected {expected:.2f} mm within {limit:.2f} mm",
            )


def _check_places(planes: Sequence[Plane], affine: NDArray[np.float64], spacing_mm: float) -> None:
    normal = planes[0].normal
    along_limit, beside_limit = tolerance_mm(spacing_mm), tolerance_mm(min(planes[0].spacing_mm))
    worst_along, worst_beside = (0.0, planes[0]), (0.0, planes[0])
    for index, plane in enumerate(planes):
        off = plane.position - (affine @ np.array([index, 0.0, 0.0, 1.0]))[:3]
        along = float(off @ normal)
        beside = float(np.linalg.norm(off - along * normal))
        worst_along = max(worst_along, (abs(along), plane), key=lambda one: one[0])
        worst_beside = max(worst_beside, (beside, plane), key=lambda one: one[0])
    if worst_beside[0] > beside_limit:
        raise UnsuitableSeries(
            Unsuitable.SHEARED,
            f"the slices are not stacked along their normal: {worst_beside[1].name} lies {worst_beside[0]:.2f} mm "
            f"beside its place in a straight stack, limit {beside_limit:.2f} mm",
        )
    if worst_along[0] > along_limit:
        raise UnsuitableSeries(
            Unsuitable.IRREGULAR_SPACING,
            f"the slices are not evenly spaced: {worst_along[1].name} lies {worst_along[0]:.2f} mm from its place "
            f"in an even stack, limit {along_limit:.2f} mm",
        )


def _is_parallel(one: Plane, other: Plane) -> bool:
    """Whether the far corner of an image moves by less than the tolerance between the two orientations."""
    width, height = (one.shape[1] * one.spacing_mm[1], one.shape[0] * one.spacing_mm[0])
    moved = width * np.linalg.norm(one.row_direction - other.row_direction)
    moved += height * np.linalg.norm(one.column_direction - other.column_direction)
    return bool(moved <= tolerance_mm(min(one.spacing_mm)))


def _planes(index: int, header: Dataset) -> Iterator[Plane]:
    if not is_multiframe(header):
        number = header.get("InstanceNumber")
        name = f"instance {header.SOPInstanceUID if number is None else number}"
        yield _plane(index, None, name, header, (header, header, header))
        return
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for frame, own in enumerate(header.get("PerFrameFunctionalGroupsSequence") or [], start=1):
        groups = (
            _group("PlanePositionSequence", own, shared),
            _group("PlaneOrientationSequence", own, shared),
            _group("PixelMeasuresSequence", own, shared),
        )
        yield _plane(index, frame, f"frame {frame}", header, groups)


def _group(keyword: str, own: Dataset, shared: Dataset) -> Dataset:
    for place in (own, shared):
        if place.get(keyword):
            return place[keyword].value[0]
    return Dataset()


def _plane(
    index: int, frame: int | None, name: str, header: Dataset, groups: tuple[Dataset, Dataset, Dataset]
) -> Plane:
    position = _numbers(groups[0], "ImagePositionPatient", 3, name)
    orientation = _numbers(groups[1], "ImageOrientationPatient", 6, name)
    spacing = _numbers(groups[2], "PixelSpacing", 2, name)
    row, column = orientation[:3], orientation[3:]
    lengths = (float(np.linalg.norm(row)), float(np.linalg.norm(column)))
    angle = float(row @ column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(angle)) > UNIT_TOLERANCE or min(spacing) <= 0:
        raise UnsuitableSeries(
            Unsuitable.BAD_GEOMETRY,
            f"{name}: direction cosines of length {lengths[0]:.4f} and {lengths[1]:.4f} with scalar product {angle:.4f}, "
            f"pixel spacing {spacing[0]:g} and {spacing[1]:g} mm",
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    return Plane(
        instance=index,
        frame=frame,
        sop_instance_uid=str(header.SOPInstanceUID),
        name=name,
        position=position,
        row_direction=row,
        column_direction=column / np.linalg.norm(column),
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        shape=(int(header.Rows), int(header.Columns)),
    )


def _numbers(group: Dataset, keyword: str, count: int, name: str) -> Vector:
    try:
        values = np.array([float(value) for value in group[keyword].value], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if len(values) != count or not np.all(np.isfinite(values)):
        raise UnsuitableSeries(Unsuitable.MISSING_GEOMETRY, f"{name} has no usable {keyword}")
    return values
