"""MR series and localizations built in code, for the tests of reading and of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from highdicom import Volume
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.outcome import Outcome, OutputOptions, PassedOver, Predecessor, Reason, SeriesInput
from dicom_node.results.account import Account, Analysis
from dicom_node.results.headers import character_set_for, content_moment, sanitise_series
from dicom_node.series import SeriesVolume
from inference.types import (
    Contrast,
    Cost,
    Finding,
    Localization,
    ModelIdentity,
    OperatingPoint,
    Provenance,
)

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
STARTED_AT = "2026-03-04T05:06:07+00:00"
OPTIONS = OutputOptions()
MODEL = ModelIdentity("brain-flair", "0.1", "Fovea", "ab" * 32)


def axial(tilt_x_deg: float = 0.0, tilt_z_deg: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Row and column direction of axial slices, turned about x and then about z."""
    x, z = math.radians(tilt_x_deg), math.radians(tilt_z_deg)
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    turn = about_z @ about_x
    return turn @ np.array([1.0, 0, 0]), turn @ np.array([0, 1.0, 0])


AXIAL = axial()
OBLIQUE = axial(14, 6)
SAGITTAL = (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]))
CORONAL = (np.array([1.0, 0, 0]), np.array([0, 0, -1.0]))


@dataclass(frozen=True)
class SeriesPlan:
    """A classic MR series; the array is pixels[slice, row, column] in the order of rising position along the normal."""

    shape: tuple[int, int, int] = (12, 48, 40)
    directions: tuple[np.ndarray, np.ndarray] = OBLIQUE
    spacing_mm: tuple[float, float, float] = (5.5, 0.9, 0.9)
    """Between slices, between rows, between columns."""
    study_uid: str = "1.2.826.0.1.3680043.8.498.1"
    series_uid: str = "1.2.826.0.1.3680043.8.498.1.5"
    falling: bool = False
    """Instance numbers run against the normal."""
    edit: Callable[[Dataset, int], None] | None = None
    """Called with each data set and the index of its slice."""
    seed: int = 0
    pixels: np.ndarray | None = None
    """Stored values of that shape; None: `pixels_of` makes them up."""
    attributes: dict[str, object] = field(default_factory=dict)


def pixels_of(plan: SeriesPlan) -> np.ndarray:
    """Stored values: a bright ellipsoid with texture, different on every slice and asymmetric in every axis."""
    if plan.pixels is not None:
        return plan.pixels.round().astype(np.uint16)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in plan.shape), indexing="ij"))
    head = (grid[0] / 1.1) ** 2 + (grid[1] / 0.85) ** 2 + (grid[2] / 0.8) ** 2 < 1
    values = 300 + 120 * grid[0] + 60 * grid[1] + 30 * grid[2]
    noise = np.random.default_rng(plan.seed).normal(0, 8, plan.shape)
    return np.where(head, values + noise, 20).round().astype(np.uint16)


def datasets(plan: SeriesPlan) -> list[FileDataset]:
    """The instances in the order of rising position along the normal."""
    row, column = plan.directions
    normal = np.cross(row, column)
    pixels = pixels_of(plan)
    count, rows, columns = plan.shape
    diagonal = normal * (count - 1) * plan.spacing_mm[0] + column * rows * plan.spacing_mm[1] + row * columns * plan.spacing_mm[2]
    first = -diagonal / 2
    made = []
    with disable_value_validation():
        for index in range(count):
            number = count - index if plan.falling else index + 1
            dataset = _instance(plan, number, pixels[index])
            dataset.ImagePositionPatient = [f"{value:.6g}" for value in first + normal * index * plan.spacing_mm[0]]
            dataset.ImageOrientationPatient = [f"{value:.10f}" for value in (*row, *column)]
            for keyword, value in plan.attributes.items():
                setattr(dataset, keyword, value)
            if plan.edit is not None:
                plan.edit(dataset, index)
            made.append(dataset)
    return made


def _instance(plan: SeriesPlan, number: int, pixels: np.ndarray) -> FileDataset:
    uid = f"{plan.series_uid}.{number}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MR_IMAGE_STORAGE
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": MR_IMAGE_STORAGE,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": plan.study_uid,
        "SeriesInstanceUID": plan.series_uid,
        "FrameOfReferenceUID": f"{plan.study_uid}.77",
        "PositionReferenceIndicator": "",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "PatientID": "P 0042",
        "IssuerOfPatientID": "HOSP",
        "PatientBirthDate": "19600229",
        "PatientSex": "M",
        "PatientAge": "066Y",
        "PatientWeight": "71.5",
        "StudyDate": "20260304",
        "StudyTime": "040000",
        "StudyID": "S1",
        "StudyDescription": "MR Kopf",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Ref^Erring",
        "SeriesNumber": 5,
        "SeriesDescription": "ax FLAIR",
        "SeriesDate": "20260304",
        "SeriesTime": "041000",
        "AcquisitionDate": "20260304",
        "AcquisitionTime": "041230.5",
        "ContentDate": "20260304",
        "ContentTime": "041500",
        "InstanceNumber": number,
        "AcquisitionNumber": 1,
        "Modality": "MR",
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        "Manufacturer": "ACME",
        "ManufacturerModelName": "Tesla",
        "DeviceSerialNumber": "17",
        "SoftwareVersions": "v1",
        "InstitutionName": "St. Elsewhere",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "9000",
        "EchoTime": "120",
        "InversionTime": "2500",
        "EchoTrainLength": "16",
        "MagneticFieldStrength": "1.5",
        "SliceThickness": "5.0",
        "SpacingBetweenSlices": f"{plan.spacing_mm[0]:g}",
        "PixelSpacing": [f"{plan.spacing_mm[1]:g}", f"{plan.spacing_mm[2]:g}"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def save(made: Sequence[FileDataset], folder: Path) -> list[Path]:
    """The data sets as files whose names say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with disable_value_validation():
        for index, dataset in enumerate(made):
            path = folder / f"{(index * 7919) % 10007:05}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
    return sorted(paths)


def write(plan: SeriesPlan, folder: Path) -> list[Path]:
    """The files of a plan."""
    return save(datasets(plan), folder)


def ball(shape: Sequence[int], centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
    """A boolean ellipsoid in index coordinates."""
    grid = np.indices(tuple(shape)).astype(float)
    return sum(((grid[axis] - centre[axis]) / radius[axis]) ** 2 for axis in range(3)) <= 1


def localization_of(volume: Volume, masks: Sequence[np.ndarray], **changes: object) -> Localization:
    """A localization whose findings are these masks on the grid of `volume`, largest first."""
    ordered = sorted(masks, key=np.count_nonzero, reverse=True)
    labels = np.zeros(volume.spatial_shape, dtype=np.uint16)
    for number, mask in enumerate(ordered, start=1):
        labels[mask] = number
    score = np.where(labels > 0, 4.2, 0.3).astype(np.float32)
    findings = tuple(_finding(volume, labels, number) for number in range(1, len(ordered) + 1))
    values: dict[str, object] = {
        "score": volume.with_array(score),
        "raw": volume.with_array(score / 10),
        "brain": volume.with_array((volume.array > 100).astype(np.uint8)),
        "labels": volume.with_array(labels),
        "pseudo_healthy": None,
        "uncertainty": None,
        "findings": findings,
        "findings_left_out": 0,
        "study_score": 3.25,
        "provenance": Provenance(
            model=MODEL,
            recipe="coarse-ensemble",
            recipe_digest="cd" * 32,
            seed=7,
            levels=(0.25, 0.5),
            operating_point=OperatingPoint(3.5, 100.0, "One false region in ten healthy volumes."),
            cost=Cost(24, 1.5, 2.0, 512.0, "cpu", "float32"),
            quality=("The slices are thicker than the model was measured with.",),
        ),
    }
    return Localization(**{**values, **changes})  # type: ignore[arg-type]


def _finding(volume: Volume, labels: np.ndarray, number: int) -> Finding:
    indices = np.argwhere(labels == number)
    points = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    centre = points.mean(axis=0)
    low, high = indices.min(axis=0), indices.max(axis=0) + 1
    extent = np.ptp(points, axis=0)
    return Finding(
        number=number,
        contrast=Contrast.BRIGHTER if number % 2 else Contrast.DARKER,
        voxels=len(indices),
        volume_mm3=len(indices) * volume.voxel_volume,
        centroid_lps=tuple(float(value) for value in centre),  # type: ignore[arg-type]
        long_axis_mm=float(np.linalg.norm(extent)),
        extents_mm=tuple(float(value) + 0.9 for value in extent),  # type: ignore[arg-type]
        bounding_box=tuple((int(a), int(b)) for a, b in zip(low, high, strict=True)),  # type: ignore[arg-type]
        peak_score=4.8,
        mean_score=4.1,
        hemisphere="left" if centre[0] > 0 else "right",
    )


def two_masks(shape: Sequence[int]) -> list[np.ndarray]:
    """Two regions, away from every symmetry of the grid."""
    s, r, c = shape
    return [
        ball(shape, (s * 0.35, r * 0.35, c * 0.3), (max(1.6, s * 0.15), r * 0.12, c * 0.1)),
        ball(shape, (s * 0.7, r * 0.6, c * 0.65), (max(1.2, s * 0.1), r * 0.07, c * 0.08)),
    ]


def account_of(
    series: SeriesVolume,
    localization: Localization | None,
    *,
    reason: Reason | None = None,
    output: OutputOptions = OPTIONS,
    predecessors: tuple[Predecessor, ...] = (),
    started_at: str = STARTED_AT,
    outcome: Outcome | None = None,
    revision: int = 1,
) -> Account:
    """The account of a run over that series."""
    headers = sanitise_series(series.source, output.character_set)
    character_set = character_set_for(headers, output.character_set)
    for header in headers:
        header.SpecificCharacterSet = character_set
    if outcome is None:
        outcome = Outcome.REFUSED if localization is None else (Outcome.FINDINGS if localization.findings else Outcome.NO_FINDING)
    source = series.source[0]
    analysed = SeriesInput(str(source.SeriesInstanceUID), 5, "ax FLAIR", "MR", tuple("x" for _ in series.source))
    over = PassedOver("1.2.3.4", 3, "sag T1", "MR", Reason("contrast", "T1 weighted, the model is for FLAIR"))
    return Account(
        study_instance_uid=str(source.StudyInstanceUID),
        revision=revision,
        input_digest="12" * 32,
        recipe_digest="34" * 32,
        outcome=outcome,
        reason=reason,
        analysed=analysed,
        passed_over=(over,),
        headers=tuple(headers),
        analysis=None if localization is None else Analysis(series, localization),
        model=MODEL,
        body_part="BRAIN",
        blind_spots=("Regions smaller than 5 mm are missed in nine of ten.",),
        quality=localization.provenance.quality if localization else (),
        created=content_moment(started_at, headers),
        output=output,
        taken_series_numbers=(5, 9001),
        predecessors=predecessors,
    )
