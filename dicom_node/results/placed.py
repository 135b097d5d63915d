"""Where results lie: position, orientation and spacing of each slice, and the reference to the image it was made from.

Coordinates are LPS in millimetres (PS3.3 C.7.6.2), as the source image states them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

from dicom_node.results import codes
from dicom_node.series import SeriesVolume

LONGEST_DECIMAL = 16
"""Characters of a DS (PS3.5 6.2)."""


def tag(keyword: str) -> BaseTag:
    """The tag of an attribute, as an Attribute Tag value holds it."""
    return Tag(keyword)


def decimals(values: NDArray[np.float64]) -> list[str]:
    """The numbers in at most 16 characters each."""
    return [format_number_as_ds(float(value)) for value in values]


def orientation(series: SeriesVolume) -> NDArray[np.float64]:
    """Direction cosines of row and column."""
    affine = series.volume.affine
    along_row, along_column = affine[:3, 2], affine[:3, 1]
    return np.concatenate([along_row / np.linalg.norm(along_row), along_column / np.linalg.norm(along_column)])


def position(series: SeriesVolume, index: int) -> NDArray[np.float64]:
    """Centre of the first pixel of one slice, as its source image says it."""
    return np.array(_position(series, index), dtype=np.float64)


def stated(series: SeriesVolume, index: int) -> list[str]:
    """The same in the very digits of the source, where they are no more than the standard allows."""
    return [
        text if len(text := str(value)) <= LONGEST_DECIMAL else format_number_as_ds(float(value))
        for value in _position(series, index)
    ]


def _position(series: SeriesVolume, index: int) -> Sequence[float]:
    instance, frame = series.source_of(index)
    if frame is None:
        return cast("Sequence[float]", instance.ImagePositionPatient)
    own = instance.PerFrameFunctionalGroupsSequence[frame - 1]
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    place = own if own.get("PlanePositionSequence") else shared
    return cast("Sequence[float]", place.PlanePositionSequence[0].ImagePositionPatient)


def thickness_mm(series: SeriesVolume) -> float:
    """Slice Thickness of the source, or the slice distance where it has none."""
    stated = series.source[0].get("SliceThickness")
    return float(stated) if stated else series.volume.spacing_between_slices


def analysed_frames_only(header: Dataset, series: SeriesVolume) -> Dataset:
    """A multi-frame header with the frames of the volume alone, in their order: two echoes share their places."""
    groups = header.PerFrameFunctionalGroupsSequence
    return with_changes(
        header,
        PerFrameFunctionalGroupsSequence=Items([groups[number - 1] for number in sorted(series.frames)]),
        NumberOfFrames=len(series.frames),
    )


def with_changes(header: Dataset, **values: object) -> Dataset:
    """The header with other values; the elements that stay are shared, and the header itself is left as it is."""
    changed = Dataset()
    changed.update(header)
    for keyword, value in values.items():
        if keyword in changed:
            del changed[keyword]  # assigning would write into the shared element
        setattr(changed, keyword, value)
    return changed


def source_reference(series: SeriesVolume, index: int, purpose: Code) -> Dataset:
    """The item that names the image, and in a multi-frame image the frame, behind one slice (PS3.3 C.7.6.1.1.4)."""
    instance, frame = series.source_of(index)
    item = Dataset()
    item.ReferencedSOPClassUID = instance.SOPClassUID
    item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = Items([coded(purpose)])
    item.SpatialLocationsPreserved = "YES"
    return item


def derivation(series: SeriesVolume, index: int, text: str) -> Dataset:
    """The item of Derivation Image Sequence for one slice (PS3.3 C.7.6.16.2.6)."""
    item = Dataset()
    item.DerivationDescription = text
    item.DerivationCodeSequence = Items([coded(codes.CALCULATION)])
    item.SourceImageSequence = Items([source_reference(series, index, codes.SOURCE_IMAGE)])
    return item


def coded(code: Code) -> Dataset:
    """The code as an item."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
