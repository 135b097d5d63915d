"""Slices with the outlines of their findings and a warning burned in, as colour Secondary Capture (PS3.3 A.8).

For viewers that show neither segmentations nor reports. Only slices that a finding lies on are drawn: the pictures
stand upright as a radiologist reads them, and belong to no frame of reference.
"""

from __future__ import annotations

import numpy as np
from highdicom import Volume
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.pictures import LONGER_SIDE, render, turned, window_of
from dicom_node.results import codes, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.burned import OUTLINED_BY_AI, lettering
from dicom_node.results.derived import derived_image
from dicom_node.results.grid import on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.series import SeriesVolume

WORD = "capture"
MOST_IMAGES = 120
"""More slices than that are thinned evenly; the segmentation holds them all."""


def build_capture(account: Account, analysis: Analysis, identity: Identity, series_number: int) -> list[Dataset]:
    """One picture for each slice with a finding, in slice order."""
    series, localization = analysis.series, analysis.localization
    labels = on_source_grid(localization.labels, series)
    marked = np.flatnonzero(labels.any(axis=(1, 2)))
    if len(marked) > MOST_IMAGES:
        marked = marked[np.linspace(0, len(marked) - 1, MOST_IMAGES).round().astype(int)]
    window = window_of(series.volume.array, localization.brain.array > 0)
    on_grid: Volume = series.volume.with_array(labels)
    made = []
    for number, index in enumerate(marked.tolist(), start=1):
        shown = turned(series.volume, on_grid, index, window)
        picture = np.array(render(shown, LONGER_SIDE, set(np.unique(shown.labels).tolist()) - {0}))
        text, box = lettering(OUTLINED_BY_AI, *picture.shape[:2])
        picture[box] = 0
        picture[text] = (255, 210, 0)
        image = derived_image(
            account, identity, WORD, SecondaryCaptureImageStorage, series_number=series_number, number=number
        )
        image.Modality = "OT"
        image.ConversionType = "WSD"
        image.SeriesDescription = account.described("AI outlines, burned in")
        image.ImageType = ["DERIVED", "SECONDARY"]
        image.DerivationDescription = "Outlines of the findings and a warning drawn into the picture"
        image.SourceImageSequence = Sequence([_source(series, index)])
        image.BurnedInAnnotation = "YES"
        image.PatientOrientation = [shown.edges[1], shown.edges[3]]
        image.SamplesPerPixel = 3
        image.PhotometricInterpretation = "RGB"
        image.PlanarConfiguration = 0
        image.Rows, image.Columns = picture.shape[:2]
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit = 7
        image.PixelRepresentation = 0
        data = picture.tobytes()
        image.PixelData = data + b"\0" * (len(data) % 2)
        image["PixelData"].VR = "OB"
        made.append(image)
    return made


def _source(series: SeriesVolume, index: int) -> Dataset:
    item = placed.source_reference(series, index, codes.SOURCE_IMAGE)
    del item.SpatialLocationsPreserved  # the picture is turned and enlarged
    return item
