"""Series with two known findings, the results that Fovea encodes for them, and results spoilt on purpose.

A finding is an ellipsoid in patient coordinates; where it lies in each image is worked out here from that image's header
alone, so that neither the product's reader nor its encoder has a part in the expected masks. The images show the findings
brighter, so that a person who looks at the screenshots sees whether the overlay lies on them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from dicom_node.outcome import ResultObject
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import read_series
from tests import studies
from tests.dicom_node.results.builders import account_of, localization_of

Point = tuple[float, float, float]
Masks = dict[str, NDArray[np.uint8]]
"""By SOP Instance UID the label of each pixel, labels[row, column]: 0, or the number of the finding."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A region in patient coordinates, LPS mm, its axes along the patient's."""

    centre_lps: Point
    semi_axes_mm: Point

    def holds(self, points_lps: NDArray[np.float64]) -> NDArray[np.bool_]:
        """For points_lps[..., 3] whether each lies inside."""
        offset = (points_lps - np.array(self.centre_lps)) / np.array(self.semi_axes_mm)
        return np.asarray((offset**2).sum(axis=-1) <= 1)


FINDINGS = (Ellipsoid((42.0, -22.0, 26.0), (16.0, 24.0, 14.0)), Ellipsoid((-36.0, 14.0, 8.0), (11.0, 13.0, 12.0)))
"""The larger one on the patient's left (x > 0), in front and high, the other on the right, behind and low."""
LEFT_SIDED, RIGHT_SIDED = 1, 2
BRIGHTER_BY = 160


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One series, in the archive's order, and what a viewer must show over it."""

    name: str
    images: tuple[Dataset, ...]
    truth: Masks
    segmentation: Dataset
    report: Dataset

    @property
    def study_instance_uid(self) -> str:
        """Of everything in the case."""
        return str(self.images[0].StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Of the images."""
        return str(self.images[0].SeriesInstanceUID)

    def image(self, sop_instance_uid: str) -> Dataset:
        """The image with that UID."""
        return next(one for one in self.images if one.SOPInstanceUID == sop_instance_uid)

    def fullest(self, finding: int) -> str:
        """The SOP Instance UID of the image on which the finding has most pixels."""
        return max(self.truth, key=lambda uid: int(np.count_nonzero(self.truth[uid] == finding)))


def world(image: Dataset, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where pixel centres lie, points_lps[..., 3] in mm, by PS3.3 C.7.6.2.1.1."""
    along_row, along_column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(value) for value in image.PixelSpacing)
    corner = np.array(image.ImagePositionPatient, float)
    return np.asarray(corner + along_row * (columns[..., None] * column_mm) + along_column * (rows[..., None] * row_mm))


def labels_of(image: Dataset) -> NDArray[np.uint8]:
    """The findings in one image, labels[row, column]."""
    rows, columns = np.indices((image.Rows, image.Columns), dtype=np.float64)
    points = world(image, rows, columns)
    labels = np.zeros((image.Rows, image.Columns), np.uint8)
    for number, finding in enumerate(FINDINGS, 1):
        labels[finding.holds(points)] = number
    return labels


def oblique() -> list[Dataset]:
    """Axial images turned about two axes, foot to head."""
    return studies.series(_plan("oblique", studies.OBLIQUE))


def sagittal() -> list[Dataset]:
    """Sagittal images, from the patient's left to the right."""
    return studies.series(replace(_plan("sagittal", studies.SAGITTAL), slices=28))


def reversed_order() -> list[Dataset]:
    """The oblique images numbered and stored head to foot."""
    return studies.reversed_series(_plan("reversed", studies.OBLIQUE))


def oblong() -> list[Dataset]:
    """Coronal images whose pixels are taller than wide."""
    return studies.series(replace(_plan("oblong", studies.CORONAL), slices=30, pixel_spacing_mm=(2.0, 1.7)))


SERIES: dict[str, Callable[[], list[Dataset]]] = {
    "oblique": oblique, "sagittal": sagittal, "reversed": reversed_order, "oblong": oblong,
}  # fmt: skip
SQUARE = ("oblique", "sagittal", "reversed")
"""The series with square pixels."""


def _plan(name: str, orientation: tuple[float, ...]) -> studies.Plan:
    return studies.Plan(
        rows=112,
        columns=128,
        pixel_spacing_mm=(1.8, 1.8),
        gap_mm=5.5,
        orientation=orientation,
        study=f"viewer {name}",
        accession_number=name.upper(),
        patient=studies.Patient(patient_id=f"VIEWER-{name}", patient_name=f"Viewer^{name.title()}"),
    )


def build(name: str, folder: Path) -> Case:
    """The case: images written and read as files, findings handed to the product's own encoder."""
    images = SERIES[name]()
    truth = {str(image.SOPInstanceUID): labels_of(image) for image in images}
    for image in images:
        _brighten(image, truth[str(image.SOPInstanceUID)] > 0)
    series = read_series(studies.save(images, folder))
    grid = np.moveaxis(np.indices(series.volume.spatial_shape, dtype=np.float64), 0, -1)
    points = grid @ series.volume.affine[:3, :3].T + series.volume.affine[:3, 3]
    account = account_of(series, localization_of(series.volume, [finding.holds(points) for finding in FINDINGS]))
    segmentation, report = encode(account, identity_of(account))
    return Case(name, tuple(images), truth, _decoded(segmentation), _decoded(report))


def _brighten(image: Dataset, where: NDArray[np.bool_]) -> None:
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    image.PixelData = (pixels + BRIGHTER_BY * where.astype(np.uint16)).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"


def _decoded(result: ResultObject) -> Dataset:
    return dcmread(io.BytesIO(result.data))


# ------------------------------------------------------------------------------------------------ spoilt on purpose


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
    along = sorted(case.images, key=lambda image: float(image.ImagePositionPatient[2]))
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


def _copy(case: Case, name: str) -> Dataset:
    spoilt = deepcopy(case.segmentation)
    spoilt.SOPInstanceUID = generate_uid(entropy_srcs=[case.name, name, "instance"])
    spoilt.file_meta.MediaStorageSOPInstanceUID = spoilt.SOPInstanceUID
    spoilt.SeriesInstanceUID = generate_uid(entropy_srcs=[case.name, name, "series"])
    spoilt.SeriesDescription = f"Control {name}"
    return spoilt


def misdrawn(case: Case) -> Dataset:
    """The report with every outline mirrored within its image."""
    spoilt = deepcopy(case.report)
    spoilt.SOPInstanceUID = generate_uid(entropy_srcs=[case.name, "misdrawn", "instance"])
    spoilt.file_meta.MediaStorageSOPInstanceUID = spoilt.SOPInstanceUID
    spoilt.SeriesInstanceUID = generate_uid(entropy_srcs=[case.name, "misdrawn", "series"])
    spoilt.SeriesDescription = "Control misdrawn"
    width = float(case.images[0].Columns)
    for item in spoilt.iterall():
        if item.keyword == "GraphicData":
            item.value = [width - value if index % 2 == 0 else value for index, value in enumerate(item.value)]
    return spoilt
