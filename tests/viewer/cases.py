"""Series with two known findings and the results that Fovea encodes for them; what is spoilt on purpose is in spoilt.py.

A finding is an ellipsoid in patient coordinates, the score a function of them; where they lie in each image is worked out
here from that image's header alone, so that neither the product's reader nor its encoder has a part in what is expected.
The images show the findings brighter, so that a person who looks at the screenshots sees whether the overlay lies on them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from dicom_node.outcome import KIND_OF_OBJECT, Outcome, OutputOptions, Reason
from dicom_node.results.account import Account
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import SeriesVolume, read_series
from inference.types import Localization
from tests import studies
from tests.dicom_node.results.builders import account_of, localization_of
from tests.dicom_node.test_variants import enhanced

Point = tuple[float, float, float]
Results = dict[str, tuple[Dataset, ...]]
"""Result objects by kind, as rows and the web page name them: SEG, SR, MAP, HEALTHY, CAPTURE, GSPS, PDF."""
Masks = dict[str, NDArray[np.uint8]]
"""By the name of an image, `<SOP Instance UID>/frames/<number>`, its findings: labels[row, column], 0 or the finding."""


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
ORDINARY_SCORE, PEAKS = 0.2, (5.6, 4.4)
"""What the score is far from the findings, and by how much it is higher in the middle of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One series, in the archive's order, and what a viewer must show over it."""

    name: str
    stored: tuple[Dataset, ...]
    """The instances of the series: single images, or one with many frames."""
    planes: dict[str, Dataset]
    """By its name each image with its place: the single images, or what the frames were made of."""
    truth: Masks
    results: Results

    @property
    def study_instance_uid(self) -> str:
        """Of everything in the case."""
        return str(self.stored[0].StudyInstanceUID)

    @property
    def series_instance_uid(self) -> str:
        """Of the images."""
        return str(self.stored[0].SeriesInstanceUID)

    @property
    def segmentation(self) -> Dataset:
        """The findings' masks."""
        return self.results["SEG"][0]

    @property
    def report(self) -> Dataset:
        """The structured report."""
        return self.results["SR"][0]

    @property
    def score_map(self) -> Dataset:
        """The parametric map of the score."""
        return self.results["MAP"][0]

    def fullest(self, finding: int) -> str:
        """The name of the image on which the finding has most pixels."""
        return max(self.truth, key=lambda name: int(np.count_nonzero(self.truth[name] == finding)))


def score_at(points_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The departure score at points_lps[..., 3]: high in the findings, without symmetry."""
    score = np.full(points_lps.shape[:-1], ORDINARY_SCORE)
    for finding, peak in zip(FINDINGS, PEAKS, strict=True):
        distance = (points_lps - np.array(finding.centre_lps)) / np.array(finding.semi_axes_mm)
        score += peak * np.exp(-(distance**2).sum(axis=-1))
    return score


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


def frames() -> list[Dataset]:
    """Oblique images to be the frames of one enhanced image."""
    return studies.series(_plan("frames", studies.OBLIQUE))


SERIES: dict[str, Callable[[], list[Dataset]]] = {
    "oblique": oblique, "sagittal": sagittal, "reversed": reversed_order, "oblong": oblong, "frames": frames,
}  # fmt: skip
MULTI_FRAME = ("frames",)
"""The series that is one enhanced image."""
SQUARE = ("oblique", "sagittal", "reversed", "frames")
"""The series with square pixels."""
WITHOUT_FINDINGS = {
    "negative": (Outcome.NO_FINDING, None),
    "refused": (Outcome.REFUSED, Reason("contrast", "T1 weighted, the model is for FLAIR")),
    "failed": (Outcome.FAILED, Reason("memory", "the analysis took more than 4096 MB")),
}
EVERYTHING = OutputOptions(objects=tuple(KIND_OF_OBJECT))


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
    """The case: images written and read as files, findings and score handed to the product's own encoder."""
    images = SERIES[name]()
    truth = [labels_of(image) for image in images]
    for image, labels in zip(images, truth, strict=True):
        _brighten(image, labels > 0)
    stored = [_one_enhanced(images)] if name in MULTI_FRAME else images
    names = [_name(stored[0], number) if name in MULTI_FRAME else _name(one, 1) for number, one in enumerate(images, 1)]
    series = read_series(studies.save(stored, folder))
    found = _localization(series)
    results = _encoded(series, found, EVERYTHING)
    return Case(name, tuple(stored), dict(zip(names, images, strict=True)), dict(zip(names, truth, strict=True)), results)


def without_findings(name: str, folder: Path) -> Case:
    """An oblique series in which nothing was found, or that was not analysed."""
    outcome, reason = WITHOUT_FINDINGS[name]
    images = studies.series(_plan(name, studies.OBLIQUE))
    series = read_series(studies.save(images, folder))
    found = localization_of(series.volume, []) if outcome is Outcome.NO_FINDING else None
    account = account_of(series, found, output=EVERYTHING, reason=reason, outcome=outcome)
    return Case(name, tuple(images), {_name(one, 1): one for one in images}, {}, _by_kind(account))


def other_map(name: str, folder: Path, output: OutputOptions) -> Dataset:
    """The score of the case as a map in another form, a series of its own."""
    images = SERIES[name]()
    for image in images:
        _brighten(image, labels_of(image) > 0)
    series = read_series(studies.save(images, folder))
    (made,) = _encoded(series, _localization(series), output)["MAP"]
    return made


def _name(image: Dataset, frame: int) -> str:
    return f"{image.SOPInstanceUID}/frames/{frame}"


def _one_enhanced(images: list[Dataset]) -> Dataset:
    """The images as the frames of one Enhanced MR Image."""
    made = enhanced([(cast("list[FileDataset]", images), "1", None)])
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["enhanced"])
    return made


def _localization(series: SeriesVolume) -> Localization:
    """What a model would have found: the ellipsoids, the score, an estimate of nine tenths of the images."""
    volume = series.volume
    grid = np.moveaxis(np.indices(volume.spatial_shape, dtype=np.float64), 0, -1)
    points = grid @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return localization_of(
        volume,
        [finding.holds(points) for finding in FINDINGS],
        score=volume.with_array(score_at(points).astype(np.float32)),
        pseudo_healthy=volume.with_array((volume.array * 0.9).astype(np.float32)),
    )


def _encoded(series: SeriesVolume, found: Localization, output: OutputOptions) -> Results:
    return _by_kind(account_of(series, found, output=output))


def _by_kind(account: Account) -> Results:
    found: Results = {}
    for one in encode(account, identity_of(account)):
        found[one.kind] = (*found.get(one.kind, ()), dcmread(io.BytesIO(one.data)))
    return found


def _brighten(image: Dataset, where: NDArray[np.bool_]) -> None:
    pixels = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    image.PixelData = (pixels + BRIGHTER_BY * where.astype(np.uint16)).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
