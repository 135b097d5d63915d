"""From the files of one series to a checked volume with the headers that belong to its slices.

Nothing is repaired in silence: what is left out is said in a note, and what cannot be used raises UnsuitableSeries
with a stable code and the numbers that decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError

from dicom_node.part10 import read_header
from dicom_node.pixels import MAXIMUM_VOXELS, declared_voxels, read_pixels
from dicom_node.planes import (
    Plane,
    affine_index_to_lps,
    is_multiframe,
    largest_stack,
    planes_of,
    same_places,
    sort_planes,
)
from dicom_node.unsuitable import Unsuitable, UnsuitableSeries
from dicom_node.variants import one_variant

MINIMUM_SLICES = 2
"""With one slice there is no slice distance; how many a model needs is its card's matter."""

__all__ = ["SeriesVolume", "Unsuitable", "UnsuitableSeries", "read_headers", "read_series"]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesVolume:
    """One series as a volume [slice, row, column] and the headers its slices came from."""

    volume: Volume
    """float32 in the modality's units, with the affine to LPS mm and the Frame of Reference UID."""
    source: tuple[Dataset, ...]
    """Without pixels: for single-frame images the header of each slice in the volume's order, else the one instance."""
    frames: tuple[int, ...]
    """For a multi-frame instance the frame number, from 1, of each slice; empty for single-frame images."""
    notes: tuple[str, ...]
    """Sentences for the reader: what was left out or is remarkable."""

    def source_of(self, slice_index: int) -> tuple[Dataset, int | None]:
        """The instance and, in a multi-frame image, the frame number behind one slice."""
        if self.frames:
            return self.source[0], self.frames[slice_index]
        return self.source[slice_index], None


@disable_value_validation()
def read_series(files: Sequence[Path], echo_time_ms: tuple[float, float] | None = None) -> SeriesVolume:
    """The volume of a series' files, given in any order. Raises UnsuitableSeries.

    `echo_time_ms`: the range that decides where a series holds several echoes; None: such a series is refused.
    """
    headers = read_headers(files)
    _check_images(headers)
    planes, notes = largest_stack(planes_of(headers))
    planes, chosen = one_variant(planes, headers, echo_time_ms)
    _check_alike(planes, headers)
    planes, doubled = _without_duplicates(sort_planes(planes), files)
    if len(planes) < MINIMUM_SLICES:
        raise UnsuitableSeries(Unsuitable.TOO_FEW_SLICES, f"{len(planes)} slice, at least {MINIMUM_SLICES} are needed")
    affine = affine_index_to_lps(planes)
    volume = Volume(
        _stacked(planes, files),
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=str(headers[planes[0].instance].FrameOfReferenceUID),
    )
    multiframe = planes[0].frame is not None
    return SeriesVolume(
        volume=volume,
        source=(headers[0],) if multiframe else tuple(headers[plane.instance] for plane in planes),
        frames=tuple(plane.frame for plane in planes if plane.frame is not None),
        notes=(*notes, *chosen, *doubled, *_remarks(headers[planes[0].instance])),
    )


def read_headers(files: Sequence[Path]) -> list[Dataset]:
    """The headers of the files without their pixels, in the order given. Raises UnsuitableSeries."""
    if not files:
        raise UnsuitableSeries(Unsuitable.NO_FILES, "the series has no files")
    headers: list[Dataset] = []
    for path in files:
        try:
            headers.append(read_header(path))
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            raise UnsuitableSeries(
                Unsuitable.UNREADABLE, f"{path.name} is not readable as a DICOM file: {type(error).__name__}"
            ) from error
    return headers


def _check_images(headers: Sequence[Dataset]) -> None:
    series = {str(header.get("SeriesInstanceUID", "")) for header in headers}
    if len(series) > 1:
        raise UnsuitableSeries(Unsuitable.MIXED_SERIES, f"instances of {len(series)} series among the files")
    for header in headers:
        uid = header.get("SOPInstanceUID", "without UID")
        if not header.get("Rows") or not header.get("Columns"):
            raise UnsuitableSeries(Unsuitable.NO_PIXEL_DATA, f"instance {uid} is not an image")
        photometric = str(header.get("PhotometricInterpretation", ""))
        samples = header.get("SamplesPerPixel", 1)
        if not photometric.startswith("MONOCHROME") or samples != 1:
            raise UnsuitableSeries(
                Unsuitable.NOT_MONOCHROME, f"instance {uid} is {photometric or 'of unknown colour'}, {samples} samples"
            )
    if len(headers) > 1 and any(is_multiframe(header) for header in headers):
        raise UnsuitableSeries(Unsuitable.SEVERAL_MULTIFRAME, f"{len(headers)} multi-frame instances, one is expected")
    declared = sum(declared_voxels(header) for header in headers)
    if declared > MAXIMUM_VOXELS:
        raise UnsuitableSeries(
            Unsuitable.TOO_LARGE, f"{declared} voxels declared, at most {MAXIMUM_VOXELS} are read"
        )


def _check_alike(planes: Sequence[Plane], headers: Sequence[Dataset]) -> None:
    shapes = sorted({plane.shape for plane in planes})
    if len(shapes) > 1:
        named = " and ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise UnsuitableSeries(Unsuitable.MIXED_SIZE, f"images of {len(shapes)} sizes: {named}")
    spacings = np.array([plane.spacing_mm for plane in planes])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        low, high = spacings.min(), spacings.max()
        raise UnsuitableSeries(Unsuitable.MIXED_PIXEL_SPACING, f"pixel spacings from {low:g} to {high:g} mm")
    references = {str(headers[plane.instance].get("FrameOfReferenceUID") or "") for plane in planes}
    if "" in references:
        raise UnsuitableSeries(Unsuitable.NO_FRAME_OF_REFERENCE, "no Frame of Reference UID: no result could be placed")
    if len(references) > 1:
        raise UnsuitableSeries(Unsuitable.MIXED_FRAME_OF_REFERENCE, f"images of {len(references)} frames of reference")


def _without_duplicates(planes: Sequence[Plane], files: Sequence[Path]) -> tuple[list[Plane], list[str]]:
    kept, doubled = [], []
    for group in same_places(planes):
        if len(group) > 1:
            names = " and ".join(plane.name for plane in group)
            if not _show_the_same(group, files):
                raise UnsuitableSeries(
                    Unsuitable.DUPLICATE_POSITION, f"{names} lie at the same position and show different pixels"
                )
            doubled.append(names)
        kept.append(min(group, key=lambda plane: (plane.sop_instance_uid, plane.frame or 0)))
    if not doubled:
        return kept, []
    named = "; ".join(doubled[:3]) + ("; ..." if len(doubled) > 3 else "")
    return kept, [f"{len(doubled)} slices came more than once with the same pixels ({named}); one of each was used."]


def _show_the_same(group: Sequence[Plane], files: Sequence[Path]) -> bool:
    first, *others = (_pixels(plane, files) for plane in group)
    return all(np.array_equal(first, other) for other in others)


def _stacked(planes: Sequence[Plane], files: Sequence[Path]) -> NDArray[np.float32]:
    if planes[0].frame is not None:
        frames = read_pixels(files[planes[0].instance])
        return np.stack([frames[plane.frame - 1] for plane in planes if plane.frame is not None])
    array = np.empty((len(planes), *planes[0].shape), dtype=np.float32)
    for index, plane in enumerate(planes):
        array[index] = _pixels(plane, files)
    return array


def _pixels(plane: Plane, files: Sequence[Path]) -> NDArray[np.float32]:
    return read_pixels(files[plane.instance])[(plane.frame or 1) - 1]


def _remarks(header: Dataset) -> list[str]:
    remarks = []
    if header.PhotometricInterpretation == "MONOCHROME1":
        remarks.append("The images are stored for inverted display (MONOCHROME1); values were used as stored.")
    if header.get("LossyImageCompression") == "01":
        remarks.append("The images were compressed with loss.")
    return remarks
