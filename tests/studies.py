"""Builders of DICOM studies in code, for every test: MR series in any geometry and spelling, and what comes beside them.

Nothing here is a patient: names are made up, voxels are an ellipsoid with noise. UIDs are derived from the arguments, so the
same call gives the same study.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_dataset
from pydicom.pixels import compress
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (
    *(0.9961946980917455, 0.08682408883346517, -0.007596123493895969),
    *(-0.08715574274765817, 0.992403876506104, -0.08682408883346517),
)
"""Axial turned by 5° about the head-feet axis and then by 5° about the row axis."""

COMPRESSED_SYNTAXES = (JPEGLSLossless, RLELossless, JPEG2000Lossless)


@dataclass(frozen=True)
class Patient:
    """Who the study claims to be of; invented."""

    patient_id: str = "TEST-0001"
    patient_name: str = "Example^Ada"
    birth_date: str = "19600102"
    sex: str = "F"
    age: str = "064Y"
    issuer: str = ""


@dataclass(frozen=True)
class Acquisition:
    """What kind of MR acquisition a series is."""

    description: str
    scanning: str | list[str]
    variant: str
    name: str
    echo_time: float
    repetition_time: float
    inversion_time: float | None
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")


FLAIR = Acquisition("AX FLAIR", ["SE", "IR"], "SK", "*tir2d1_16", 90.0, 9000.0, 2500.0)
T1 = Acquisition("AX T1 SE", "SE", "SK", "*se2d1", 12.0, 500.0, None)
T2 = Acquisition("AX T2 TSE", "SE", "SK", "*tse2d1_15", 100.0, 5000.0, None)
LOCALIZER = Acquisition("LOCALIZER", "GR", "SP", "*fl2d1", 5.0, 8.6, None, ("ORIGINAL", "PRIMARY", "LOCALIZER"))


@dataclass(frozen=True)
class Plan:
    """Geometry, identity and spelling of one MR series. `replace(plan, ...)` makes variants."""

    kind: Acquisition = FLAIR
    slices: int = 20
    rows: int = 256
    columns: int = 256
    pixel_spacing_mm: tuple[float, float] = (0.94, 0.94)
    gap_mm: float = 5.0
    thickness_mm: float = 5.0
    orientation: tuple[float, ...] = AXIAL
    centre_lps: tuple[float, float, float] = (0.0, -10.0, 20.0)
    patient: Patient = Patient()
    character_set: str | list[str] = "ISO_IR 100"
    study: str = "study 1"
    """Any text; the Study Instance UID is derived from it."""
    series: str = ""
    """Any text; the Series Instance UID is derived from study, kind and this."""
    series_number: int = 3
    accession_number: str = "ACC0001"
    body_part: str = "BRAIN"
    seed: int = 0

    @property
    def study_instance_uid(self) -> str:
        """Derived from the study's text."""
        return str(generate_uid(entropy_srcs=["study", self.study]))

    @property
    def series_instance_uid(self) -> str:
        """Derived from study, kind and series."""
        return str(generate_uid(entropy_srcs=["series", self.study, self.kind.description, self.series]))


def series(plan: Plan = Plan()) -> list[Dataset]:
    """One series, foot to head in acquisition order, Explicit VR Little Endian, 16 bit."""
    voxels = head(plan.slices, plan.rows, plan.columns, plan.seed)
    return [_instance(plan, index, voxels[index]) for index in range(plan.slices)]


def reversed_series(plan: Plan = Plan()) -> list[Dataset]:
    """The same places in space, numbered head to foot."""
    datasets = series(plan)[::-1]
    for number, dataset in enumerate(datasets, 1):
        dataset.InstanceNumber = number
    return datasets


def shuffled_series(plan: Plan = Plan()) -> list[Dataset]:
    """The same series in an order of files that tells nothing."""
    datasets = series(plan)
    random.Random(plan.seed).shuffle(datasets)
    return datasets


def study(plan: Plan = Plan()) -> list[Dataset]:
    """A small brain study: a localizer of three planes, T1 and FLAIR."""
    return [*localizer(plan), *series(replace(plan, kind=T1, series_number=2)), *series(plan)]


def localizer(plan: Plan = Plan()) -> list[Dataset]:
    """One slice in each of the three planes, one series."""
    planes = (AXIAL, CORONAL, SAGITTAL)
    found = []
    for number, plane in enumerate(planes, 1):
        (dataset,) = series(replace(plan, kind=LOCALIZER, slices=1, series_number=1, orientation=plane))
        dataset.InstanceNumber = number
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["localizer", plan.study, str(number)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        found.append(dataset)
    return found


def head(slices: int, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint16]:
    """An ellipsoid with a brighter rim and noise; voxels[slice, row, column], 0 to about 1000."""
    z, y, x = np.ogrid[-1.1 : 1.1 : slices * 1j, -1.15 : 1.15 : rows * 1j, -1.3 : 1.3 : columns * 1j]
    radius = np.sqrt(z * z * 0.6 + y * y + x * x)
    noise = np.random.default_rng(seed).normal(0.0, 12.0, (slices, rows, columns))
    shape = np.where(radius < 0.85, 420.0 + 120.0 * np.cos(5 * x) * np.cos(4 * y), 0.0)
    shape = np.where((radius > 0.92) & (radius < 1.0), 800.0, shape)
    return np.clip(shape + noise, 0, 4000).astype(np.uint16)


def _instance(plan: Plan, index: int, pixels: NDArray[np.uint16]) -> Dataset:
    uid = generate_uid(entropy_srcs=[plan.series_instance_uid, str(index)])
    dataset = _file(MRImageStorage, uid)
    dataset.SpecificCharacterSet = plan.character_set
    _write_identity(dataset, plan)
    _write_acquisition(dataset, plan)
    _write_plane(dataset, plan, index)
    _write_pixels(dataset, pixels)
    return dataset


def _file(sop_class_uid: str, sop_instance_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = sop_instance_uid
    return dataset


def _write_identity(dataset: Dataset, plan: Plan) -> None:
    who = plan.patient
    dataset.PatientName = who.patient_name
    dataset.PatientID = who.patient_id
    if who.issuer:
        dataset.IssuerOfPatientID = who.issuer
    dataset.PatientBirthDate = who.birth_date
    dataset.PatientSex = who.sex
    dataset.PatientAge = who.age
    dataset.PatientWeight = "70"
    dataset.StudyInstanceUID = plan.study_instance_uid
    dataset.SeriesInstanceUID = plan.series_instance_uid
    dataset.StudyDate, dataset.StudyTime = "20250301", "101500"
    dataset.SeriesDate, dataset.SeriesTime = "20250301", "102000"
    dataset.ContentDate, dataset.ContentTime = "20250301", "102500"
    dataset.AccessionNumber = plan.accession_number
    dataset.StudyID = "1"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "MR BRAIN"


def _write_acquisition(dataset: Dataset, plan: Plan) -> None:
    kind = plan.kind
    dataset.Modality = "MR"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Acme", "Magnet 3"
    dataset.InstitutionName = "General Hospital"
    dataset.SoftwareVersions = "1.0"
    dataset.DeviceSerialNumber = "4711"
    dataset.SeriesDescription = dataset.ProtocolName = kind.description
    dataset.SeriesNumber = plan.series_number
    dataset.ImageType = list(kind.image_type)
    dataset.ScanningSequence = kind.scanning
    dataset.SequenceVariant = kind.variant
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "2D"
    dataset.SequenceName = kind.name
    dataset.EchoTime, dataset.RepetitionTime = kind.echo_time, kind.repetition_time
    if kind.inversion_time is not None:
        dataset.InversionTime = kind.inversion_time
    dataset.EchoTrainLength = 16
    dataset.MagneticFieldStrength = "3"
    dataset.BodyPartExamined = plan.body_part
    dataset.PatientPosition = "HFS"


def _write_plane(dataset: Dataset, plan: Plan, index: int) -> None:
    row, column = np.array(plan.orientation[:3]), np.array(plan.orientation[3:])
    normal = np.cross(row, column)
    corner = (
        np.array(plan.centre_lps)
        - row * plan.pixel_spacing_mm[1] * (plan.columns - 1) / 2
        - column * plan.pixel_spacing_mm[0] * (plan.rows - 1) / 2
        + normal * plan.gap_mm * (index - (plan.slices - 1) / 2)
    )
    dataset.ImagePositionPatient = [_ds(value) for value in corner]
    dataset.ImageOrientationPatient = [_ds(value) for value in plan.orientation]
    dataset.PixelSpacing = [_ds(value) for value in plan.pixel_spacing_mm]
    dataset.SliceThickness = _ds(plan.thickness_mm)
    dataset.SpacingBetweenSlices = _ds(plan.gap_mm)
    dataset.SliceLocation = _ds(float(corner @ normal))
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", plan.study])
    dataset.PositionReferenceIndicator = ""
    dataset.InstanceNumber = index + 1
    dataset.AcquisitionNumber = 1


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2) that keeps what fits."""
    text = repr(round(float(value), 12))
    digits = 12
    while len(text) > 16 or "e" in text:
        digits -= 1
        text = f"{value:.{digits}f}"
    return text


def _write_pixels(dataset: Dataset, pixels: NDArray[np.uint16]) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "400", "800"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"


def compressed(dataset: Dataset, transfer_syntax_uid: str = JPEGLSLossless) -> Dataset:
    """A copy with losslessly compressed pixel data (JPEG-LS, RLE or JPEG 2000) under the same UIDs."""
    copied = deepcopy(dataset)
    compress(copied, transfer_syntax_uid, generate_instance_uid=False)
    return copied


def recoded(dataset: Dataset, transfer_syntax_uid: str) -> Dataset:
    """A copy to be written in another uncompressed transfer syntax; big endian swaps the pixels' bytes."""
    copied = deepcopy(dataset)
    copied.file_meta.TransferSyntaxUID = transfer_syntax_uid
    if transfer_syntax_uid == ExplicitVRBigEndian:
        copied.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    return copied


def secondary_capture(plan: Plan = Plan()) -> Dataset:
    """A grey Secondary Capture of the same study, as a workstation makes them."""
    dataset = _file(SecondaryCaptureImageStorage, generate_uid(entropy_srcs=["capture", plan.study]))
    dataset.SpecificCharacterSet = plan.character_set
    _write_identity(dataset, plan)
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["capture series", plan.study])
    dataset.Modality, dataset.ConversionType, dataset.SeriesNumber, dataset.InstanceNumber = "OT", "WSD", 99, 1
    dataset.Laterality, dataset.PatientOrientation = "", ""
    _write_pixels(dataset, head(1, 64, 64, plan.seed)[0])
    return dataset


def structured_report(plan: Plan = Plan(), manufacturer: str = "Acme") -> Dataset:
    """A minimal Comprehensive SR of the same study (`manufacturer` and model "Fovea" make it look like one of ours)."""
    dataset = _file(ComprehensiveSRStorage, generate_uid(entropy_srcs=["report", plan.study, manufacturer]))
    dataset.SpecificCharacterSet = plan.character_set
    _write_identity(dataset, plan)
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["report series", plan.study, manufacturer])
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "SR", 98, 1
    dataset.Manufacturer = dataset.ManufacturerModelName = manufacturer
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence = [_code("126000", "DCM", "Imaging Measurement Report")]
    finding = Dataset()
    finding.RelationshipType, finding.ValueType = "CONTAINS", "TEXT"
    finding.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
    finding.TextValue = "Nothing to see"
    dataset.ContentSequence = [finding]
    return dataset


def segmentation(sources: Sequence[Dataset], seed: int = 0) -> Dataset:
    """A binary SEG over the sources, made by highdicom for an invented device, one box as its segment."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), np.uint8)
    mask[len(sources) // 2, sources[0].Rows // 3 : sources[0].Rows // 2, sources[0].Columns // 3 : -8] = 1
    algorithm = AlgorithmIdentificationSequence("Box", codes.DCM.ArtificialIntelligence, "1")
    segment = SegmentDescription(1, "box", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "AUTOMATIC", algorithm)
    made = Segmentation(
        list(sources), mask, SegmentationTypeValues.BINARY, [segment],
        series_instance_uid=generate_uid(entropy_srcs=["seg series", sources[0].SeriesInstanceUID]),
        series_number=97,
        sop_instance_uid=generate_uid(entropy_srcs=["seg", sources[0].SeriesInstanceUID, str(seed)]),
        instance_number=1, manufacturer="Acme", manufacturer_model_name="Boxer", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip
    return made


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def encoded(dataset: Dataset) -> bytes:
    """The data set's bytes as a C-STORE carries them, in the syntax its file meta names; deflated ones are deflated."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_deflated:
        return _data_set_of(part10(dataset))
    buffer = _Encoder(is_little_endian=syntax != ExplicitVRBigEndian, is_implicit_vr=syntax == ImplicitVRLittleEndian)
    return buffer.bytes_of(dataset)


class _Encoder:
    def __init__(self, *, is_little_endian: bool, is_implicit_vr: bool) -> None:
        from pydicom.filebase import DicomBytesIO

        self._file = DicomBytesIO()
        self._file.is_little_endian, self._file.is_implicit_VR = is_little_endian, is_implicit_vr

    def bytes_of(self, dataset: Dataset) -> bytes:
        write_dataset(self._file, dataset)
        return bytes(self._file.getvalue())


def part10(dataset: Dataset) -> bytes:
    """The data set as a DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _data_set_of(file: bytes) -> bytes:
    length = int.from_bytes(file[140:144], "little")  # value of File Meta Information Group Length (0002,0000)
    return file[144 + length :]


def save(datasets: Iterable[Dataset], folder: Path) -> list[Path]:
    """The data sets as DICOM files `0000.dcm`, `0001.dcm` … in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:04}.dcm"
        path.write_bytes(part10(dataset))
        paths.append(path)
    return paths
