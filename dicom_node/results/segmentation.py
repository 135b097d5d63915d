"""The findings as a DICOM Segmentation (PS3.3 A.51): BINARY unless told otherwise, on the source grid, a segment for each.

Every frame names the source image it lies on; that is checked after encoding, because no validator does and a viewer
cannot overlay a frame without it.
"""

from __future__ import annotations

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as HighdicomSegmentation
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.planes import tolerance_mm
from dicom_node.results import codes, equipment, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.colours import colour_of
from dicom_node.results.grid import MisplacedMask, on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.series import SeriesVolume
from inference.types import Finding, ModelIdentity


def build_segmentation(account: Account, analysis: Analysis, identity: Identity, series_number: int) -> Dataset:
    """The Segmentation of the account's findings, of which there must be at least one."""
    findings = analysis.localization.findings
    labels = on_source_grid(analysis.localization.labels, analysis.series)
    segmentation = HighdicomSegmentation(
        source_images=_source_images(account, analysis.series),
        pixel_array=_in_source_order(labels, analysis.series),
        segmentation_type=_form(account),
        segment_descriptions=[_describe(finding, account, identity) for finding in findings],
        series_instance_uid=identity.uid("segmentation", "series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("segmentation", "instance"),
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
        contributing_equipment=[
            equipment.model_as_equipment(account.model, account.created, account.output.station_name)
        ],
        specific_character_set=account.headers[0].SpecificCharacterSet,
    )
    for item in segmentation.DimensionOrganizationSequence:
        item.DimensionOrganizationUID = identity.uid("segmentation", "dimensions")
    for item in segmentation.DimensionIndexSequence:
        item.DimensionOrganizationUID = identity.uid("segmentation", "dimensions")
    _number_frames_as_in_the_source(segmentation, analysis.series)
    _list_only_sources(segmentation)
    check_frames(segmentation, labels, analysis.series)
    return segmentation


def tracking_uid(identity: Identity, finding: Finding) -> str:
    """The UID that says in segmentation and report that this is the same finding."""
    return identity.uid("finding", str(finding.number))


def tracking_id(model: ModelIdentity, finding: Finding) -> str:
    """The name that goes with it."""
    return f"{model.name} finding {finding.number}"[:64]


def check_frames(segmentation: Dataset, labels: NDArray[np.uint16], series: SeriesVolume) -> None:
    """Raise MisplacedMask unless each frame names the one source image it lies on, and every marked slice is there."""
    encoded = set()
    by_source = {_source_key(*series.source_of(index)): index for index in range(len(labels))}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for number_of_frame, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        derivations = frame.get("DerivationImageSequence") or []
        sources = [source for derivation in derivations for source in derivation.SourceImageSequence]
        if len(sources) != 1:
            raise MisplacedMask(f"a frame names {len(sources)} source images")
        number = sources[0].get("ReferencedFrameNumber")
        key = (str(sources[0].ReferencedSOPInstanceUID), None if number is None else int(number))
        index = by_source[key]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        off = float(np.linalg.norm(position - series.volume.affine[:3] @ np.array([index, 0, 0, 1.0])))
        if off > 2 * tolerance_mm(max(series.volume.spacing)):
            raise MisplacedMask(f"a frame lies {off:.2f} mm from the slice whose image it names")
        if segmentation.SegmentationType == "LABELMAP":
            encoded |= {(index, label) for label in _labels_in_frame(segmentation, number_of_frame)}
            continue
        groups = frame if "SegmentIdentificationSequence" in frame else shared
        encoded.add((index, int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)))
    marked = {
        (index, int(label)) for index, plane in enumerate(labels) if plane.any() for label in np.unique(plane[plane > 0])
    }
    if encoded != marked:
        raise MisplacedMask(f"{len(encoded ^ marked)} of {len(marked)} marked slices differ from the encoded frames")


def _list_only_sources(segmentation: Dataset) -> None:
    """Keep in the list of references the images that a frame names (PS3.3 C.12.2); the encoder lists the whole series."""
    named = {
        str(source.ReferencedSOPInstanceUID)
        for frame in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in frame.get("DerivationImageSequence") or []
        for source in derivation.SourceImageSequence
    }
    for series in segmentation.get("ReferencedSeriesSequence") or []:
        series.ReferencedInstanceSequence = [
            item for item in series.ReferencedInstanceSequence if str(item.ReferencedSOPInstanceUID) in named
        ]


def _labels_in_frame(segmentation: Dataset, frame: int) -> set[int]:
    size = int(segmentation.Rows) * int(segmentation.Columns)
    stored = np.frombuffer(segmentation.PixelData, np.uint8 if segmentation.BitsAllocated == 8 else np.dtype("<u2"))
    return {int(label) for label in np.unique(stored[frame * size : (frame + 1) * size]) if label}


def _form(account: Account) -> SegmentationTypeValues:
    return SegmentationTypeValues.LABELMAP if account.output.segmentation == "labelmap" else SegmentationTypeValues.BINARY


def _source_key(instance: Dataset, frame: int | None) -> tuple[str, int | None]:
    return str(instance.SOPInstanceUID), frame


def _source_images(account: Account, series: SeriesVolume) -> list[Dataset]:
    if series.frames:
        return [placed.analysed_frames_only(account.headers[0], series)]
    headers = list(account.headers)
    for header in headers:
        if not header.get("SliceThickness"):
            header.SliceThickness = f"{series.volume.spacing_between_slices:.6g}"
    return headers


def _in_source_order(labels: NDArray[np.uint16], series: SeriesVolume) -> NDArray[np.uint16]:
    """The mask in the order of the source: as it is for single frames, by frame number in a multi-frame image."""
    mask = labels[np.argsort(series.frames)] if series.frames else labels
    return mask if mask.max(initial=0) > 255 else mask.astype(np.uint8)


def _number_frames_as_in_the_source(segmentation: Dataset, series: SeriesVolume) -> None:
    """The encoder counted the analysed frames alone; the references count all the source has."""
    numbers = sorted(series.frames)
    for frame in segmentation.PerFrameFunctionalGroupsSequence if numbers else ():
        for derivation in frame.get("DerivationImageSequence") or []:
            for source in derivation.SourceImageSequence:
                source.ReferencedFrameNumber = numbers[int(source.ReferencedFrameNumber) - 1]


def _describe(finding: Finding, account: Account, identity: Identity) -> SegmentDescription:
    region = codes.REGIONS.get(account.body_part)
    side = f", {finding.hemisphere}" if finding.hemisphere else ""
    return SegmentDescription(
        segment_number=finding.number,
        segment_label=f"Finding {finding.number}: {finding.contrast}{side}",
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.LESION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=account.model.name[:64],
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=account.model.version[:64],
            source=account.model.manufacturer[:64] or None,
        ),
        tracking_uid=tracking_uid(identity, finding),
        tracking_id=tracking_id(account.model, finding),
        anatomic_regions=[region] if region else None,
        display_color=CIELabColor.from_rgb(*colour_of(finding.number)),
    )
