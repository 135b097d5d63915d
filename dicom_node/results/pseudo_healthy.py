"""The healthy estimate as a series of its own, slice for slice beside the source, marked so that nobody takes it for acquired.

It says so in Image Type, Series and Derivation Description and in the pixels. As an estimate it claims no acquisition:
its Scanning Sequence is RM, research mode (PS3.3 C.8.3.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, MRImageStorage

from dicom_node.results import codes, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.burned import NOT_ACQUIRED, lettering
from dicom_node.results.derived import derived_image
from dicom_node.results.grid import values_on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.series import SeriesVolume

WORD = "pseudo-healthy"
SERIES_DESCRIPTION = "AI pseudo-healthy, not acquired"
DERIVATION = "Healthy estimate by a model of what the slice would look like without departures; AI, not acquired"
LARGEST_STORED = 65535
FEWEST_GREYS = 256
"""Below that many whole numbers the values are stretched: a slope is written, which MR Image has as an extension only."""
AIR_HU = -1024.0


def build_pseudo_healthy(
    account: Account, analysis: Analysis, identity: Identity, series_number: int
) -> list[Dataset]:
    """One image for each slice; none where the localization holds no estimate or the modality is neither MR nor CT."""
    estimate = analysis.localization.pseudo_healthy
    if estimate is None or account.analysed.modality not in {"MR", "CT"}:
        return []
    series = analysis.series
    values = values_on_source_grid(estimate, series)
    slope, intercept = _scale(values, account.analysed.modality)
    stored = np.clip(np.round((values - intercept) / slope), 0, LARGEST_STORED).astype(np.uint16)
    text, box = lettering(NOT_ACQUIRED, *stored.shape[1:])
    low, high = int(stored.min()), int(stored.max())
    stored[:, box] = low
    stored[:, text] = high
    window = _window(values)
    made = []
    for index in range(len(stored)):
        image = derived_image(
            account, identity, WORD, CTImageStorage if account.analysed.modality == "CT" else MRImageStorage,
            series_number=series_number, number=index + 1,
        )  # fmt: skip
        _describe(image, account, series, index)
        _write_pixels(image, stored[index], slope, intercept, window)
        made.append(image)
    return made


def _scale(values: NDArray[np.float32], modality: str) -> tuple[float, float]:
    """Slope and intercept from stored to value; one and nothing wherever whole numbers serve."""
    if modality == "CT":
        return 1.0, AIR_HU
    low, high = float(values.min()), float(values.max())
    if high <= LARGEST_STORED and high - max(low, 0.0) >= FEWEST_GREYS:
        return 1.0, 0.0
    return float(f"{max(high - low, 1e-6) / LARGEST_STORED:.8g}"), float(f"{low:.8g}")


def _window(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(values[:: max(1, len(values) // 16)], [1.0, 99.5]))
    return (low + high) / 2, max(high - low, 1.0)


def _describe(image: Dataset, account: Account, series: SeriesVolume, index: int) -> None:
    image.Modality = account.analysed.modality
    image.SeriesDescription = account.described(SERIES_DESCRIPTION)
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if image.Modality == "CT" else "OTHER"]
    image.DerivationDescription = DERIVATION
    image.DerivationCodeSequence = Sequence([placed.coded(codes.CALCULATION)])
    image.SourceImageSequence = Sequence([placed.source_reference(series, index, codes.SOURCE_IMAGE)])
    image.BurnedInAnnotation = "YES"
    image.RecognizableVisualFeatures = "NO"
    image.ImageComments = NOT_ACQUIRED
    image.AcquisitionNumber = None
    image.PatientPosition = str(series.source[0].get("PatientPosition") or "")
    image.FrameOfReferenceUID = series.volume.frame_of_reference_uid
    image.PositionReferenceIndicator = account.headers[0].get("PositionReferenceIndicator") or None
    image.ImagePositionPatient = placed.decimals(placed.position(series, index))
    image.ImageOrientationPatient = placed.decimals(placed.orientation(series))
    image.PixelSpacing = placed.decimals(np.array(series.volume.pixel_spacing))
    image.SliceThickness = placed.decimals(np.array([placed.thickness_mm(series)]))[0]
    if image.Modality == "CT":
        image.KVP = None
        return
    image.SpacingBetweenSlices = placed.decimals(np.array([series.volume.spacing_between_slices]))[0]
    image.ScanningSequence = "RM"
    image.SequenceVariant = "NONE"
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        setattr(image, keyword, None)


def _write_pixels(
    image: Dataset, stored: NDArray[np.uint16], slope: float, intercept: float, window: tuple[float, float]
) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = stored.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    if image.Modality == "CT" or (slope, intercept) != (1.0, 0.0):
        image.RescaleSlope, image.RescaleIntercept = placed.decimals(np.array([slope, intercept]))
        image.RescaleType = "HU" if image.Modality == "CT" else "US"
    image.WindowCenter, image.WindowWidth = placed.decimals(np.array(window))
    image.PixelData = stored.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
