"""The real images that tests use: glioma patients of the LGG set as arrays and as DICOM series, and a GE series as files.

The folder is named by the environment variable FOVEA_DATA; its README says what is in it. None of it is part of the product.
"""

from __future__ import annotations

import json
import lzma
import os
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from tests import studies
from tests.postgres import peer_missing

TILE = 256
TILES_WIDE = 8
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def data_folder() -> Path:
    """The folder with the real images. Fails or skips where it is absent."""
    folder = Path(os.environ.get("FOVEA_DATA", ""))
    if not os.environ.get("FOVEA_DATA") or not (folder / "lgg_flair" / "index.json").exists():
        peer_missing("real images are absent: set FOVEA_DATA to the folder that holds lgg_flair")
    return folder


@dataclass(frozen=True, slots=True, eq=False)
class Patient:
    """One glioma patient: FLAIR and the manual mask of its abnormality."""

    name: str
    flair: NDArray[np.uint8]
    """[slice, row, column], foot to head."""
    mask: NDArray[np.bool_]


@cache
def patient_names() -> tuple[str, ...]:
    """All patients, those with the fewest slices first."""
    index = json.loads((data_folder() / "lgg_flair" / "index.json").read_text(encoding="utf-8"))
    return tuple(sorted(index, key=lambda name: (index[name]["slices"], name)))


@cache
def patient(name: str) -> Patient:
    """The patient of that name."""
    folder = data_folder() / "lgg_flair"
    slices = json.loads((folder / "index.json").read_text(encoding="utf-8"))[name]["slices"]
    flair = _tiles(folder / f"{name}_flair.webp", slices)
    mask = _tiles(folder / f"{name}_mask.png", slices)
    return Patient(name, flair, mask > 0)


def _tiles(path: Path, slices: int) -> NDArray[np.uint8]:
    with Image.open(path) as grid:
        pixels = np.asarray(grid.convert("L"))
    places = (divmod(number, TILES_WIDE) for number in range(slices))
    return np.stack([pixels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] for row, column in places])


def patient_series(name: str, plan: studies.Plan) -> list[Dataset]:
    """The patient as a FLAIR series of MR images with the plan's geometry and headers, foot to head."""
    found = patient(name)
    made = studies.series(_sized(plan, found))
    for dataset, pixels in zip(made, found.flair, strict=True):
        dataset.PixelData = pixels.astype(np.uint16).tobytes()
        dataset["PixelData"].VR = "OW"
    return made


def _sized(plan: studies.Plan, found: Patient) -> studies.Plan:
    from dataclasses import replace

    slices, rows, columns = found.flair.shape
    return replace(plan, slices=slices, rows=rows, columns=columns)


def affine_index_to_lps(datasets: list[Dataset]) -> NDArray[np.float64]:
    """From (slice, row, column) to LPS mm, from the first and last image's own headers (PS3.3 C.7.6.2.1.1); images in order."""
    first, last = datasets[0], datasets[-1]
    along_row, along_column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)
    origin = np.array(first.ImagePositionPatient, float)
    affine = np.eye(4)
    affine[:3, 0] = (np.array(last.ImagePositionPatient, float) - origin) / (len(datasets) - 1)
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = along_row * column_mm
    affine[:3, 3] = origin
    return affine


def volume_of(datasets: list[Dataset]) -> Volume:
    """The images, in order, as a volume; made here and not by the product's reader."""
    pixels = np.stack([np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns) for one in datasets])
    return Volume(
        pixels.astype(np.float32),
        affine_index_to_lps(datasets),
        coordinate_system="PATIENT",
        frame_of_reference_uid=str(datasets[0].FrameOfReferenceUID),
    )


def ge_series(folder: Path) -> list[Path]:
    """The files of the real GE sagittal T1 series, unpacked into the folder."""
    packed = data_folder() / "dicom_ge_sag_spgr" / "series.tar.xz"
    if not packed.exists():
        peer_missing("the GE series is absent from FOVEA_DATA")
    with lzma.open(packed) as unpacked, tarfile.open(fileobj=unpacked) as archive:
        archive.extractall(folder, filter="data")
    return sorted(folder.rglob("*.dcm"))


def ge_datasets(folder: Path) -> list[Dataset]:
    """The images of the real GE series."""
    return [dcmread(path) for path in ge_series(folder)]


def labelled_flair(images: list[Dataset], study: str) -> list[Dataset]:
    """The images as a new study whose headers say FLAIR, whatever the pixels show; `study` is any word."""
    study_uid, series_uid = (str(generate_uid(entropy_srcs=[study, level])) for level in ("study", "series"))
    for number, image in enumerate(images):
        image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, series_uid
        image.SOPInstanceUID = generate_uid(entropy_srcs=[study, str(number)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesDescription = image.ProtocolName = "T2 FLAIR"
        image.ScanningSequence = ["SE", "IR"]
        image.RepetitionTime, image.EchoTime, image.InversionTime = "9000", "120", "2400"
        for word in ("SequenceName", "ScanOptions", "PatientAge"):
            image.pop(word, None)
    return images
