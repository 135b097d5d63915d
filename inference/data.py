"""Where studies for training and evaluation come from: one small reader protocol, and one rule that splits patients.

A reader yields `Study` values: an image with its grid in LPS, a marked lesion where the source has one. Readers exist
for folders of NIfTI files, folders of DICOM series, arrays in memory, and the public sets this project was built on.
Patients are split by a hash of their name, so the split needs no list and no source can leak across it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import structlog
from highdicom import Volume, get_volume_from_series
from highdicom.seg import segread
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.uid import SegmentationStorage
from scipy import ndimage

from inference.nifti import volume_from_nifti
from inference.phantom.banks import UNIT, Bank, open_bank
from inference.preprocess import BRIGHTEST, Grid, resample

log = structlog.get_logger()

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

SEGMENTATIONS = (SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and Label Map Segmentation (PS3.6), which pydicom 3.0 has no name for."""
_NEEDED: Final = ["SOPClassUID", "SeriesInstanceUID", "PatientID", "Rows"]
LGG_SPACING_MM = (5.0, 0.94, 0.94)
"""Nominal: the published set carries no header."""
SOOP_SPACING_MM = 1.0


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a patient and may matter for how well a model does; empty or NaN where it is not known."""

    site: str = ""
    sex: str = ""
    """`M`, `F` or `O`, as in DICOM."""
    age_years: float = math.nan


@dataclass(frozen=True, slots=True)
class Study:
    """One image of one patient."""

    patient: str
    """A pseudonym that is the same for all studies of a patient; decides the split."""
    volume: Volume
    """float32, in the patient coordinate system."""
    lesion: BoolArray | None
    """On the volume's grid; None where nothing is marked."""
    traits: Traits = Traits()


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms a source may be used."""

    licence: str
    distributable: bool = True
    """Whether weights that saw it may be handed on."""


OWN = Terms("the owner's")
"""A site's own studies: what is made of them is the site's."""


class Reader(Protocol):
    """A source of studies. One with an attribute `terms` says under which it stands; else they are the owner's."""

    @property
    def name(self) -> str:
        """What the source is called in the model card."""
        ...

    def studies(self) -> Iterator[Study]:
        """The studies in a fixed order, read one at a time."""
        ...


def terms_of(reader: Reader) -> Terms:
    """The terms of a source."""
    terms = getattr(reader, "terms", OWN)
    return terms if isinstance(terms, Terms) else OWN


@dataclass(frozen=True, slots=True)
class Chosen:
    """The studies of another reader whose patients pass a test."""

    reader: Reader
    keep: Callable[[str], bool]

    @property
    def name(self) -> str:
        """The other reader's name."""
        return self.reader.name

    @property
    def terms(self) -> Terms:
        """The other reader's terms."""
        return terms_of(self.reader)

    def studies(self) -> Iterator[Study]:
        """The chosen studies, in the other reader's order."""
        return (study for study in self.reader.studies() if self.keep(study.patient))


def fraction_of(patient: str) -> float:
    """A number in [0, 1) that depends on the patient's pseudonym alone."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:6], "big") / 2**48


def is_development(patient: str) -> bool:
    """Whether a patient of an evaluation set may choose thresholds (40 %); the others are measured on, once."""
    return fraction_of(patient) < 0.4


def is_validation(patient: str, share: float = 0.2) -> bool:
    """Whether a patient of a training set is kept out of training."""
    return fraction_of(patient) >= 1 - share


def chosen(studies: Iterable[Study], split: str) -> Iterator[Study]:
    """The studies of `development` patients, of `held-out` ones, or `all`. ValueError where the split is another word."""
    if split not in {"development", "held-out", "all"}:
        raise ValueError(f"split {split!r} is none of development, held-out, all")
    for study in studies:
        if split == "all" or is_development(study.patient) == (split == "development"):
            yield study


@dataclass(frozen=True, slots=True)
class Arrays:
    """Studies from memory: (patient, image[slice foot to head, row front to back, column right to left], lesion or None)."""

    name: str
    spacing_mm: tuple[float, float, float]
    items: Sequence[tuple[str, FloatArray, BoolArray | None]]

    def studies(self) -> Iterator[Study]:
        """One study per item, centred on the origin."""
        for patient, image, lesion in self.items:
            yield Study(patient, axial_volume(image, self.spacing_mm), lesion)


@dataclass(frozen=True, slots=True)
class NiftiFolder:
    """Every `*IMAGE_SUFFIX` below a folder; the lesion lies beside it under `LESION_SUFFIX`, where there is one.

    The patient is the file's name up to the suffix, or the name of the folder one level below `folder` where files are nested.
    """

    folder: Path
    image_suffix: str = ".nii.gz"
    lesion_suffix: str | None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    def studies(self) -> Iterator[Study]:
        """One study per image file, by sorted path."""
        for path in sorted(self.folder.rglob(f"*{self.image_suffix}")):
            stem = path.name[: -len(self.image_suffix)]
            if self.lesion_suffix is not None and path.name.endswith(self.lesion_suffix):
                continue
            nested = path.relative_to(self.folder).parts
            lesion = None
            if self.lesion_suffix is not None and (mask := path.with_name(stem + self.lesion_suffix)).exists():
                lesion = np.asarray(volume_from_nifti(mask).array > 0.5)
            yield Study(nested[0] if len(nested) > 1 else stem, volume_from_nifti(path), lesion)


class SeriesLeftOut(Exception):
    """Raised by a series reader for a series that is not wanted; the message says why."""


SeriesReader = Callable[[Sequence[Path]], Volume]
"""From the files of one series to its volume. Raises SeriesLeftOut where the series is not wanted."""


def any_series(files: Sequence[Path]) -> Volume:
    """The volume of any series. highdicom's errors name what is wrong with one."""
    return get_volume_from_series([dcmread(file) for file in files], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class DicomFolder:
    """Every series of images below a folder; the patient is a hash of Patient ID, which is never kept.

    A segmentation (SEG) anywhere below `folder` that names a series' images is its lesion, all segments together.
    """

    folder: Path
    read: SeriesReader = any_series

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    def studies(self) -> Iterator[Study]:
        """One study for each series, by path; what the reader does not want is left out and said in the log."""
        masks = self._segmentations()
        for uid, (patient, files) in self._series().items():
            try:
                volume = self.read(files)
            except SeriesLeftOut as reason:
                log.warning("series left out", series_instance_uid=uid, reason=str(reason))
                continue
            yield Study(patient, volume, _segmented(masks[uid], volume) if uid in masks else None)

    def _series(self) -> dict[str, tuple[str, list[Path]]]:
        """The patient's pseudonym and the files of each series of images, by Series Instance UID."""
        found: dict[str, tuple[str, list[Path]]] = {}
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file() and _is_dicom(path)):
            header = dcmread(
                path, specific_tags=["SOPClassUID", "SeriesInstanceUID", "PatientID", "Rows"], stop_before_pixels=True
            )
            if header.get("SOPClassUID") in SEGMENTATIONS or "Rows" not in header or "SeriesInstanceUID" not in header:
                continue
            name = str(header.get("PatientID") or path.parent.name)
            patient = hashlib.sha256(name.encode()).hexdigest()[:16]
            found.setdefault(str(header.SeriesInstanceUID), (patient, []))[1].append(path)
        return found

    def _segmentations(self) -> dict[str, list[Path]]:
        """Files of segmentations by the series they refer to."""
        masks: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and _is_dicom(path):
                header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "ReferencedSeriesSequence"])
                if header.SOPClassUID in SEGMENTATIONS:
                    for series in header.get("ReferencedSeriesSequence", []):
                        masks.setdefault(str(series.SeriesInstanceUID), []).append(path)
        return masks


def _segmented(paths: Sequence[Path], volume: Volume) -> BoolArray:
    """The union of all segments of these SEGs on the grid of the volume."""
    union = np.zeros(volume.spatial_shape, dtype=np.bool_)
    for path in paths:
        part = segread(path).get_volume(combine_segments=True, relabel=True, skip_overlap_checks=True, dtype=np.uint8)
        union |= np.asarray(part.match_geometry(volume).array > 0)
    return union


@dataclass(frozen=True, slots=True)
class Lgg:
    """Low-grade glioma, FLAIR with skull, manual masks (Buda et al. 2019): for evaluation only, never for weights."""

    folder: Path
    name: str = "lgg_flair"
    terms: Terms = Terms("CC BY-NC-SA 4.0 or CC BY 4.0, depending on the mirror: evaluation only", distributable=False)

    def studies(self) -> Iterator[Study]:
        """One study per patient, at the nominal spacing."""
        for path in sorted(self.folder.glob("*_flair.webp")):
            patient = path.name.removesuffix("_flair.webp")
            image = tiles(path, (256, 256))
            lesion = tiles(self.folder / f"{patient}_mask.png", (256, 256)) > 0
            count = _counts(self.folder)[patient]
            yield Study(patient, axial_volume(image[:count].astype(np.float32), LGG_SPACING_MM), lesion[:count])


def nichart(folder: Path) -> NiftiFolder:
    """Elderly subjects with automatic white-matter lesion masks: for evaluation only."""
    return NiftiFolder(folder, "_FL.nii.gz", "_WMH.nii.gz")


def open_ms(folder: Path) -> NiftiFolder:
    """Multiple sclerosis with a consensus mask (Lesjak et al. 2017): for evaluation."""
    return NiftiFolder(folder, "_FLAIR.nii.gz", "_lesions.nii.gz")


def axial_volume(image: FloatArray, spacing_mm: tuple[float, float, float]) -> Volume:
    """image[slice foot to head, row front to back, column right to left] as a volume centred on the origin."""
    affine = np.zeros((4, 4))
    for axis, lps in enumerate((2, 1, 0)):
        affine[lps, axis] = spacing_mm[axis]
        affine[lps, 3] = -spacing_mm[axis] * (image.shape[axis] - 1) / 2
    affine[3, 3] = 1
    return Volume(np.ascontiguousarray(image, dtype=np.float32), affine, "PATIENT")


def tiles(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture that is a grid of slices, as [slice, row, column]."""
    picture = np.asarray(Image.open(path).convert("L"))
    down, across = picture.shape[0] // size[0], picture.shape[1] // size[1]
    return picture.reshape(down, size[0], across, size[1]).swapaxes(1, 2).reshape(-1, *size)


def _counts(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    index = json.loads((folder / "index.json").read_text())
    for key, value in index.items():
        found[str(key)] = int(value["slices"] if isinstance(value, dict) else value)
    return found


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def soop_slices(folder: Path) -> Iterator[tuple[FloatArray, BoolArray, BoolArray]]:
    """Each SOOP slice: image[row, column] at 1 mm, brain, and the attenuated stroke overlay; front at the top."""
    index = json.loads((folder / "index.json").read_text())
    size = (int(index["rows"]), int(index["columns"]))
    left = len(index["ids"])
    for path in sorted(folder.glob("axial_????.webp")):
        images = tiles(path, size)[:left]
        strokes = tiles(path.with_name(f"{path.stem}_stroke.png"), size)[:left] > 0
        left -= len(images)
        for image, stroke in zip(images, strokes, strict=True):
            brain = ndimage.binary_fill_holes(ndimage.binary_opening(image > 8, iterations=2))
            yield image.astype(np.float32), np.asarray(brain, dtype=np.bool_), stroke


def paint_out(image: FloatArray, brain: BoolArray, doubtful: BoolArray) -> tuple[FloatArray, BoolArray]:
    """The image with doubtful and unusually bright tissue replaced by what surrounds it, and where that was done.

    Bright is 2.3 robust standard deviations above the median of tissue, after smoothing by 0.8 pixels: white-matter
    hyperintensities of the elderly, which must not be learned as normal.
    """
    usable = brain & ~doubtful
    median = float(np.median(image[usable])) if usable.any() else 1.0
    tissue = usable & (image > 0.6 * median)
    centre = float(np.median(image[tissue]))
    spread = 1.4826 * float(np.median(np.abs(image[tissue] - centre)))
    bright = brain & (ndimage.gaussian_filter(image, 0.8) > centre + 2.3 * spread)
    out = ndimage.binary_dilation(ndimage.binary_opening(bright, iterations=1) | doubtful, iterations=2) & brain
    kept = (tissue & ~out).astype(np.float32)
    around = ndimage.gaussian_filter(image * kept, 4.0) / (ndimage.gaussian_filter(kept, 4.0) + 1e-4)
    grain = np.where(kept > 0, image - around, 0).ravel()[::-1].reshape(image.shape)  # texture of the mirrored place
    filled = np.where(kept.ravel()[::-1].reshape(image.shape) > 0, around + grain, around)
    return np.where(out, filled, image).astype(np.float32), out


def soop_bank(folder: Path, shape: tuple[int, int], spacing_mm: float, cache: Path) -> Bank:
    """The bank of cleaned SOOP slices kept in `cache`, made there first if it is missing."""
    if not (cache / "white.npy").exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = _clean_soop(folder, shape, spacing_mm)
        for name, values in (("image", made.image), ("brain", made.brain), ("white", made.white)):
            np.save(cache / f"{name}.npy", values)
    return open_bank(cache)


def _clean_soop(folder: Path, shape: tuple[int, int], spacing_mm: float) -> Bank:
    """The SOOP slices without stroke and hyperintensities, standardised, on the network's grid; the worst left out.

    A slice is left out where more than a tenth of its brain is stroke or had to be painted out.
    """
    images: list[FloatArray] = []
    brains: list[FloatArray] = []
    whites: list[FloatArray] = []
    for image, brain, stroke in soop_slices(folder):
        area = int(brain.sum())
        doubtful = ndimage.binary_dilation(stroke, iterations=3)
        if area < 5000 or doubtful.sum() > 0.1 * area:
            continue
        cleaned, out = paint_out(image, brain, doubtful)
        if (out & ~doubtful).sum() > 0.12 * area:
            continue
        median = float(np.median(cleaned[brain]))
        standard = np.clip(UNIT * (cleaned / median - 1), -UNIT, BRIGHTEST)
        white = brain & (np.abs(ndimage.gaussian_filter(standard, 1.0)) < 0.6)
        for kept, values in ((images, standard), (brains, brain), (whites, white)):
            kept.append(_fit(np.asarray(values, dtype=np.float32), shape, spacing_mm))
    if not images:
        raise FileNotFoundError(f"no usable SOOP slices in {folder}")
    return Bank(
        np.stack(images).astype(np.float16),
        np.rint(np.stack(brains) * 255).astype(np.uint8),
        np.rint(np.stack(whites) * 255).astype(np.uint8),
    )


def _fit(values: FloatArray, shape: tuple[int, int], spacing_mm: float) -> FloatArray:
    """values[row, column] at 1 mm on a centred grid of `shape` at `spacing_mm`."""
    source = (1.0, SOOP_SPACING_MM, SOOP_SPACING_MM)
    return resample(values[None], source, Grid((1, *shape), (1.0, spacing_mm, spacing_mm)), order=1)[0]
