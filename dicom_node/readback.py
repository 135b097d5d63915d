"""Reads a segmentation and a structured report as any receiver would, with pydicom alone.

Independent of the encoders on purpose: what the demonstration and the tests show is what the objects say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One segment of a binary segmentation, laid over the source images."""

    number: int
    label: str
    tracking_uid: str
    mask: NDArray[np.bool_]
    """[image, row, column] in the order of the SOP Instance UIDs given."""
    volume_mm3: float


def segments_of(segmentation: Dataset, sop_instance_uids: Sequence[str]) -> list[Segment]:
    """The segments on the images with these UIDs. Raises ValueError where a frame names an image that is not among them."""
    shape = (len(sop_instance_uids), int(segmentation.Rows), int(segmentation.Columns))
    index = {uid: position for position, uid in enumerate(sop_instance_uids)}
    masks = {int(one.SegmentNumber): np.zeros(shape, dtype=bool) for one in segmentation.SegmentSequence}
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    size = shape[1] * shape[2]
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        source = str(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        if source not in index:
            raise ValueError(f"frame {number + 1} of the segmentation is derived from {source}, which is not among the images")
        segment = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        frame = bits[number * size : (number + 1) * size].reshape(shape[1:])
        masks[segment][index[source]] |= frame.astype(bool)
    voxel = _voxel_mm3(segmentation)
    return [
        Segment(
            number=int(one.SegmentNumber),
            label=str(one.SegmentLabel),
            tracking_uid=str(one.get("TrackingUID", "")),
            mask=masks[int(one.SegmentNumber)],
            volume_mm3=float(np.count_nonzero(masks[int(one.SegmentNumber)]) * voxel),
        )
        for one in segmentation.SegmentSequence
    ]


def _voxel_mm3(segmentation: Dataset) -> float:
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    between = measures.get("SpacingBetweenSlices", measures.get("SliceThickness"))
    return float(measures.PixelSpacing[0]) * float(measures.PixelSpacing[1]) * float(between)


def report_lines(report: Dataset) -> list[str]:
    """The report's content as indented lines, one content item each."""
    return list(_lines(report.ContentSequence, 0))


def _lines(items: Sequence[Dataset], depth: int) -> Iterator[str]:
    for item in items:
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        value = _value(item)
        if value is not None and item.get("RelationshipType") != "HAS CONCEPT MOD":
            yield "  " * depth + (f"{name}{_derivation(item)}: {value}" if value else str(name))
        if "ContentSequence" in item:
            yield from _lines(item.ContentSequence, depth + 1)


def _derivation(item: Dataset) -> str:
    """How a number was derived, e.g. ` (Mean)`; empty where nothing says so."""
    if item.get("ValueType") != "NUM":
        return ""
    words = [
        str(one.ConceptCodeSequence[0].CodeMeaning) for one in item.get("ContentSequence", []) if one.get("ValueType") == "CODE"
    ]
    return f" ({', '.join(words)})" if words else ""


def _value(item: Dataset) -> str | None:
    match item.get("ValueType"):
        case "TEXT":
            return str(item.TextValue)
        case "CODE":
            return str(item.ConceptCodeSequence[0].CodeMeaning)
        case "NUM":
            measured = item.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0]
            return f"{measured.NumericValue} {unit.CodeMeaning if unit.CodeValue == '1' else unit.CodeValue}"
        case "UIDREF":
            return str(item.UID)
        case "PNAME":
            return str(item.PersonName)
        case "CONTAINER":
            return ""
        case "DATETIME":
            return str(item.DateTime)
        case _:
            return None
