"""The findings as a Label Map Segmentation, for sites that ask for it (PS3.3 A.51, Supplement 243).

Not the default: many archives and viewers do not know the class yet. It is encoded by highdicom, and checked afterwards.
"""

from __future__ import annotations

import numpy as np
from highdicom.seg import Segmentation, SegmentationTypeValues
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.planes import tolerance_mm
from dicom_node.results import equipment, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.grid import MisplacedMask, on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.results.segmentation import WORD, describe
from dicom_node.series import SeriesVolume


def build_labelmap(account: Account, analysis: Analysis, identity: Identity, series_number: int) -> Dataset:
    """The Label Map of the account's findings, of which there must be at least one. Raises MisplacedMask."""
    labels = on_source_grid(analysis.localization.labels, analysis.series)
    made = Segmentation(
        source_images=_source_images(account, analysis.series),
        pixel_array=_in_source_order(labels, analysis.series),
        segmentation_type=SegmentationTypeValues.LABELMAP,
        segment_descriptions=[describe(finding, account, identity) for finding in analysis.localization.findings],
        series_instance_uid=identity.uid(WORD, "series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(WORD, "instance"),
        instance_number=1,
        manufacturer=equipment.MANUFACTURER,
        manufacturer_model_name=equipment.MODEL_NAME,
        software_versions=equipment.software_versions(account.model),  # type: ignore[arg-type]  # a tuple cannot be written
        device_serial_number=equipment.device_serial_number(account.model),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        content_label="FINDINGS",
        content_description=account.title,
        series_description=account.title,
        content_date=account.created.date(),
        content_time=account.created.time(),
        contributing_equipment=[equipment.model_as_equipment(account.model, account.created, account.output.station_name)],
        specific_character_set=account.headers[0].SpecificCharacterSet,
    )
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = identity.uid(WORD, "dimensions")
    _number_frames_as_in_the_source(made, analysis.series)
    _list_only_sources(made)
    check_frames(made, labels, analysis.series)
    return made


def check_frames(made: Dataset, labels: NDArray[np.uint16], series: SeriesVolume) -> None:
    """Raise MisplacedMask unless each frame names the one source image it lies on, and every marked slice is there."""
    encoded = set()
    by_source = {_source_key(*series.source_of(index)): index for index in range(len(labels))}
    for number_of_frame, frame in enumerate(made.PerFrameFunctionalGroupsSequence):
        derivations = frame.get("DerivationImageSequence") or []
        sources = [source for derivation in derivations for source in derivation.SourceImageSequence]
        if len(sources) != 1:
            raise MisplacedMask(f"a frame names {len(sources)} source images")
        number = sources[0].get("ReferencedFrameNumber")
        index = by_source[str(sources[0].ReferencedSOPInstanceUID), None if number is None else int(number)]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        off = float(np.linalg.norm(position - series.volume.affine[:3] @ np.array([index, 0, 0, 1.0])))
        if off > 2 * tolerance_mm(max(series.volume.spacing)):
            raise MisplacedMask(f"a frame lies {off:.2f} mm from the slice whose image it names")
        encoded |= {(index, label) for label in _labels_in_frame(made, number_of_frame)}
    marked = {(index, int(label)) for index, plane in enumerate(labels) if plane.any() for label in np.unique(plane[plane > 0])}
    if encoded != marked:
        raise MisplacedMask(f"{len(encoded ^ marked)} of {len(marked)} marked slices differ from the encoded frames")


def _list_only_sources(made: Dataset) -> None:
    """Keep in the list of references the images that a frame names (PS3.3 C.12.2); the encoder lists the whole series."""
    named = {
        str(source.ReferencedSOPInstanceUID)
        for frame in made.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence") or []
        for source in derivation.SourceImageSequence
    }
    for series in made.get("ReferencedSeriesSequence") or []:
        series.ReferencedInstanceSequence = [
            item for item in series.ReferencedInstanceSequence if str(item.ReferencedSOPInstanceUID) in named
        ]


def _labels_in_frame(made: Dataset, frame: int) -> set[int]:
    size = int(made.Rows) * int(made.Columns)
    stored = np.frombuffer(made.PixelData, np.uint8 if made.BitsAllocated == 8 else np.dtype("<u2"))
    return {int(label) for label in np.unique(stored[frame * size : (frame + 1) * size]) if label}


def _source_key(instance: Dataset, frame: int | None) -> tuple[str, int | None]:
    return str(instance.SOPInstanceUID), frame


def _source_images(account: Account, series: SeriesVolume) -> list[Dataset]:
    return [placed.analysed_frames_only(account.headers[0], series)] if series.frames else list(account.headers)


def _in_source_order(labels: NDArray[np.uint16], series: SeriesVolume) -> NDArray[np.uint16]:
    """The mask in the order of the source: as it is for single frames, by frame number in a multi-frame image."""
    mask = labels[np.argsort(series.frames)] if series.frames else labels
    return mask if mask.max(initial=0) > 255 else mask.astype(np.uint8)


def _number_frames_as_in_the_source(made: Dataset, series: SeriesVolume) -> None:
    """The encoder counted the analysed frames alone; the references count all the source has."""
    numbers = sorted(series.frames)
    for frame in made.PerFrameFunctionalGroupsSequence if numbers else ():
        for derivation in frame.get("DerivationImageSequence") or []:
            for source in derivation.SourceImageSequence:
                source.ReferencedFrameNumber = numbers[int(source.ReferencedFrameNumber) - 1]
