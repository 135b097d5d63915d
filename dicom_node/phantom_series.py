"""A synthetic head as the DICOM series a scanner would send: axial FLAIR, classic MR images, valid headers."""

from __future__ import annotations

from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from inference.phantom import SyntheticHead


def head_series(
    head: SyntheticHead, *, accession_number: str, patient_id: str = "PHANTOM", at: datetime | None = None
) -> list[Dataset]:
    """One image per slice of the head, foot to head, in the head's own LPS coordinates."""
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    moment = at or datetime.now().astimezone()
    images = []
    for index, pixels in enumerate(np.clip(np.rint(head.image), 0, 4095).astype(np.uint16)):
        image = Dataset()
        image.file_meta = _file_meta()
        image.SpecificCharacterSet = "ISO_IR 192"
        _patient_and_study(image, accession_number, patient_id, moment)
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = frame_of_reference
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        _sequence(image)
        _plane(image, head, index)
        _pixels(image, pixels)
        images.append(image)
    return images


def _file_meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.ImplementationClassUID = UID("2.25.302345921345098234509823450982345")
    return meta


def _patient_and_study(image: Dataset, accession_number: str, patient_id: str, moment: datetime) -> None:
    image.PatientName = "Synthetic^Head"
    image.PatientID = patient_id
    image.PatientBirthDate = "19600101"
    image.PatientSex = "O"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = f"{moment:%Y%m%d}"
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = f"{moment:%H%M%S}"
    image.AccessionNumber = accession_number
    image.StudyID = "1"
    image.ReferringPhysicianName = ""
    image.StudyDescription = "MR brain, synthetic"


def _sequence(image: Dataset) -> None:
    image.Modality = "MR"
    image.Manufacturer = "Fovea simulator"
    image.SeriesNumber = 3
    image.SeriesDescription = "AX T2 FLAIR"
    image.ProtocolName = "T2 FLAIR"
    image.BodyPartExamined = "BRAIN"
    image.PatientPosition = "HFS"
    image.PositionReferenceIndicator = ""
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    image.ScanningSequence = ["SE", "IR"]
    image.SequenceVariant = "SK"
    image.ScanOptions = ""
    image.MRAcquisitionType = "2D"
    image.RepetitionTime, image.EchoTime, image.InversionTime = 9000, 120, 2500
    image.EchoTrainLength = 16
    image.MagneticFieldStrength = 3


def _plane(image: Dataset, head: SyntheticHead, index: int) -> None:
    slice_mm, row_mm, column_mm = head.spacing_mm
    x, y, z = head.origin_lps
    image.InstanceNumber = index + 1
    image.ImagePositionPatient = [f"{value:.4f}" for value in (x, y, z + index * slice_mm)]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [f"{row_mm:g}", f"{column_mm:g}"]
    image.SliceThickness = f"{slice_mm:g}"
    image.SpacingBetweenSlices = f"{slice_mm:g}"


def _pixels(image: Dataset, pixels: np.ndarray) -> None:
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.WindowCenter, image.WindowWidth = 350, 700
    image.PixelData = pixels.tobytes()
