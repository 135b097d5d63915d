"""Result objects spoilt on purpose, for the checks to find: mirrored, reversed, exchanged, in wrong colours or values."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from tests.viewer.cases import FINDINGS, Case


def mirrored(case: Case) -> Dataset:
    """The segmentation with every frame's columns reversed: left and right exchanged."""
    spoilt = _copy(case, "mirrored")
    size = int(spoilt.NumberOfFrames) * spoilt.Rows * spoilt.Columns
    bits = np.unpackbits(np.frombuffer(spoilt.PixelData, np.uint8), bitorder="little")[:size]
    frames = bits.reshape(-1, spoilt.Rows, spoilt.Columns)[:, :, ::-1]
    packed = np.packbits(np.ascontiguousarray(frames).ravel(), bitorder="little").tobytes()
    spoilt.PixelData = packed + b"\0" * (len(packed) % 2)
    return spoilt


def turned_over(case: Case) -> Dataset:
    """The segmentation with each frame on the image that lies as far from the other end of the series."""
    spoilt = _copy(case, "turned over")
    along = sorted(case.stored, key=lambda image: float(image.ImagePositionPatient[2]))
    opposite = dict(zip([str(one.SOPInstanceUID) for one in along], along[::-1], strict=True))
    for frame in spoilt.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = opposite[str(source.ReferencedSOPInstanceUID)]
        source.ReferencedSOPInstanceUID = image.SOPInstanceUID
        frame.PlanePositionSequence[0].ImagePositionPatient = list(image.ImagePositionPatient)
    return spoilt


def exchanged(case: Case) -> Dataset:
    """The segmentation with the frames of the two segments given to each other."""
    spoilt = _copy(case, "exchanged")
    for frame in spoilt.PerFrameFunctionalGroupsSequence:
        (segment,) = frame.SegmentIdentificationSequence
        segment.ReferencedSegmentNumber = len(FINDINGS) + 1 - segment.ReferencedSegmentNumber
        content = frame.FrameContentSequence[0]
        content.DimensionIndexValues = [segment.ReferencedSegmentNumber, *content.DimensionIndexValues[1:]]
    return spoilt


def recoloured(case: Case) -> Dataset:
    """The segmentation with the recommended colours of the two segments exchanged; masks and places are right."""
    spoilt = _copy(case, "recoloured")
    first, second = spoilt.SegmentSequence
    swapped = second.RecommendedDisplayCIELabValue, first.RecommendedDisplayCIELabValue
    first.RecommendedDisplayCIELabValue, second.RecommendedDisplayCIELabValue = swapped
    return spoilt


CONTROLS: dict[str, Callable[[Case], Dataset]] = {
    "mirrored": mirrored, "turned over": turned_over, "exchanged": exchanged, "recoloured": recoloured,
}  # fmt: skip


def _copy(case: Case, name: str, kind: str = "SEG") -> Dataset:
    spoilt = deepcopy(case.results[kind][0])
    spoilt.SOPInstanceUID = generate_uid(entropy_srcs=[case.name, name, "instance"])
    spoilt.file_meta.MediaStorageSOPInstanceUID = spoilt.SOPInstanceUID
    spoilt.SeriesInstanceUID = generate_uid(entropy_srcs=[case.name, name, "series"])
    spoilt.SeriesDescription = f"Control {name}"
    return spoilt


def misdrawn(case: Case) -> Dataset:
    """The report with every outline mirrored within its image."""
    spoilt = _copy(case, "misdrawn", "SR")
    width = float(case.stored[0].Columns)
    for item in spoilt.iterall():
        if item.keyword == "GraphicData":
            item.value = [width - value if index % 2 == 0 else value for index, value in enumerate(item.value)]
    return spoilt


def mirrored_map(case: Case) -> Dataset:
    """The map with every frame's columns reversed."""
    spoilt = _copy(case, "mirrored map", "MAP")
    values = np.frombuffer(spoilt.FloatPixelData, np.float32).reshape(-1, spoilt.Rows, spoilt.Columns)
    spoilt.FloatPixelData = np.ascontiguousarray(values[:, :, ::-1]).tobytes()
    return spoilt


def reversed_map(case: Case) -> Dataset:
    """The map with the frames' values in the opposite order, and everything said of the frames as it was."""
    spoilt = _copy(case, "reversed map", "MAP")
    values = np.frombuffer(spoilt.FloatPixelData, np.float32).reshape(-1, spoilt.Rows, spoilt.Columns)
    spoilt.FloatPixelData = np.ascontiguousarray(values[::-1]).tobytes()
    return spoilt


def rescaled_map(case: Case) -> Dataset:
    """The map whose mapping gives values half as high again; what is stored, and so what is drawn, is right."""
    spoilt = _copy(case, "rescaled map", "MAP")
    (mapping,) = spoilt.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    mapping.RealWorldValueSlope *= 1.5
    return spoilt


SPOILT_MAPS: dict[str, Callable[[Case], Dataset]] = {
    "mirrored map": mirrored_map, "reversed map": reversed_map, "rescaled map": rescaled_map,
}  # fmt: skip
