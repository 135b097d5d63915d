"""The findings as a DICOM Segmentation (PS3.3 A.51): BINARY, on the source grid, a segment for each.

Every frame names the source image it lies on. That is checked here, because no validator does and a viewer cannot
overlay a frame without it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.sequence import Sequence as Items
from pydicom.uid import SegmentationStorage

from dicom_node.planes import tolerance_mm
from dicom_node.results import codes, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.colours import colour_of
from dicom_node.results.derived import derived_image
from dicom_node.results.frame_bytes import coded, element, items, raw_sequence, sequence
from dicom_node.results.grid import MarkedPlane, MisplacedMask, marked_planes, on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.series import SeriesVolume
from inference.types import Finding, ModelIdentity

WORD = "segmentation"
DIMENSIONS = (
    ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
    ("ImagePositionPatient", "PlanePositionSequence"),
)


class _Frame(NamedTuple):
    segment: int
    plane: MarkedPlane
    place: int
    """Rank of its slice among the marked ones, from 1."""


def build_segmentation(account: Account, analysis: Analysis, identity: Identity, series_number: int) -> Dataset:
    """The Segmentation of the account's findings, of which there must be at least one. Raises MisplacedMask."""
    series = analysis.series
    labels = on_source_grid(analysis.localization.labels, series)
    frames = _frames(labels, analysis.localization.findings)
    planes = sorted({frame.plane.slice_index for frame in frames})
    check_places(series, planes)
    made = derived_image(account, identity, WORD, SegmentationStorage, series_number=series_number, number=1)
    made.Modality = "SEG"
    made.SeriesDescription = account.title
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.ContentLabel = "FINDINGS"
    made.ContentDescription = account.title
    made.ContentCreatorName = None  # type 2: nobody but the software
    made.FrameOfReferenceUID = series.volume.frame_of_reference_uid
    made.PositionReferenceIndicator = account.headers[0].get("PositionReferenceIndicator") or None
    made.SegmentationType = "BINARY"
    made.SegmentsOverlap = "NO"
    made.SegmentSequence = Items([describe(one, account, identity) for one in analysis.localization.findings])
    _say_compression(made, account.headers[0])
    _add_dimensions(made, identity)
    made.SharedFunctionalGroupsSequence = Items([_shared(series)])
    _write_pixels(made, labels, frames)
    made["ReferencedSeriesSequence"] = raw_sequence("ReferencedSeriesSequence", [_references(series, planes)])
    made["PerFrameFunctionalGroupsSequence"] = raw_sequence("PerFrameFunctionalGroupsSequence", _groups(series, frames))
    made.SpecificCharacterSet = account.headers[0].SpecificCharacterSet
    # tells pydicom that the raw sequences are in the encoding that is written, so that it takes them as they are
    made.set_original_encoding(False, True, convert_encodings(account.headers[0].SpecificCharacterSet))
    return made


def tracking_uid(identity: Identity, finding: Finding) -> str:
    """The UID that says in segmentation and report that this is the same finding."""
    return identity.uid("finding", str(finding.number))


def tracking_id(model: ModelIdentity, finding: Finding) -> str:
    """The name that goes with it."""
    return f"{model.name} finding {finding.number}"[:64]


def describe(finding: Finding, account: Account, identity: Identity) -> SegmentDescription:
    """The segment of a finding."""
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


def check_places(series: SeriesVolume, indices: Sequence[int]) -> None:
    """Raise MisplacedMask unless the images behind these slices lie where the volume has the slices, each its own."""
    sources = [series.source_of(index) for index in indices]
    if len({(str(instance.SOPInstanceUID), frame) for instance, frame in sources}) < len(indices):
        raise MisplacedMask("two slices name one source image")
    stated = np.array([placed.position(series, index) for index in indices])
    expected = series.volume.affine[:3, 3] + np.outer(indices, series.volume.affine[:3, 0])
    off_mm = np.linalg.norm(stated - expected, axis=1)
    if off_mm.max() > 2 * tolerance_mm(max(series.volume.spacing)):
        raise MisplacedMask(f"a frame lies {off_mm.max():.2f} mm from the slice whose image it names")


def _frames(labels: NDArray[np.uint16], findings: Sequence[Finding]) -> list[_Frame]:
    """One frame for each finding and slice that it lies on, ordered by finding and then by slice."""
    planes = marked_planes(labels)
    found = [
        _Frame(int(number), plane, place)
        for place, plane in enumerate(planes, start=1)
        for number in np.unique(labels[plane.slice_index, plane.rows, plane.columns])
        if number
    ]
    if {frame.segment for frame in found} != {finding.number for finding in findings}:
        raise MisplacedMask(f"{len(findings)} findings, and {len({frame.segment for frame in found})} labels in the mask")
    return sorted(found, key=lambda frame: (frame.segment, frame.place))


def _write_pixels(made: Dataset, labels: NDArray[np.uint16], frames: Sequence[_Frame]) -> None:
    """The frames as one stream of bits, the first pixel in the lowest bit (PS3.5 8.1.1); checked against the mask."""
    _, rows, columns = labels.shape
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.NumberOfFrames = len(frames)
    made.Rows, made.Columns = rows, columns
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = made.PixelRepresentation = 0
    bits = _packed(labels, frames) if columns % 8 == 0 else _packed_across_bytes(labels, frames)
    planes = {frame.plane.slice_index: frame.plane for frame in frames}.values()
    marked = sum(np.count_nonzero(labels[one.slice_index, one.rows, one.columns]) for one in planes)
    if int(np.bitwise_count(bits).sum(dtype=np.int64)) != marked:
        raise MisplacedMask(f"{marked} voxels are marked, another number was encoded")
    data = bits.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OB"


def _packed(labels: NDArray[np.uint16], frames: Sequence[_Frame]) -> NDArray[np.uint8]:
    """Where rows are whole bytes only the marked part of each frame is packed."""
    _, rows, columns = labels.shape
    bits = np.zeros((len(frames), rows, columns // 8), dtype=np.uint8)
    for number, (segment, plane, _) in enumerate(frames):
        first, last = plane.columns.start // 8, -(-plane.columns.stop // 8)
        mask = labels[plane.slice_index, plane.rows, first * 8 : last * 8] == segment
        bits[number, plane.rows, first:last] = np.packbits(mask, axis=1, bitorder="little")
    return bits


def _packed_across_bytes(labels: NDArray[np.uint16], frames: Sequence[_Frame]) -> NDArray[np.uint8]:
    mask = np.stack([labels[plane.slice_index] == segment for segment, plane, _ in frames])
    return np.packbits(mask.reshape(-1), bitorder="little")


def _groups(series: SeriesVolume, frames: Sequence[_Frame]) -> list[bytes]:
    """The functional groups of each frame (PS3.3 A.51.5): its segment, its place, and the image it was made from."""
    source = {index: _source_image(series, index) for index in {frame.plane.slice_index for frame in frames}}
    derivation = sequence("DerivationCodeSequence", coded(codes.SEGMENTATION))
    return [
        sequence("DerivationImageSequence", sequence("SourceImageSequence", source[plane.slice_index]) + derivation)
        + sequence("FrameContentSequence", element("DimensionIndexValues", struct.pack("<II", segment, place)))
        + sequence("PlanePositionSequence", element("ImagePositionPatient", "\\".join(placed.stated(series, plane.slice_index))))
        + sequence("SegmentIdentificationSequence", element("ReferencedSegmentNumber", struct.pack("<H", segment)))
        for segment, plane, place in frames
    ]


def _source_image(series: SeriesVolume, index: int) -> bytes:
    instance, frame = series.source_of(index)
    return (
        _reference(instance)
        + (b"" if frame is None else element("ReferencedFrameNumber", str(frame)))
        + element("SpatialLocationsPreserved", "YES")
        + sequence("PurposeOfReferenceCodeSequence", coded(codes.SOURCE_IMAGE))
    )


def _references(series: SeriesVolume, indices: Sequence[int]) -> bytes:
    """The images that frames name (PS3.3 C.12.2), each once."""
    instances = {str(instance.SOPInstanceUID): instance for instance, _ in map(series.source_of, indices)}
    references = [_reference(instance) for instance in instances.values()]
    return element("ReferencedInstanceSequence", items(references)) + element(
        "SeriesInstanceUID", str(series.source[0].SeriesInstanceUID)
    )


def _reference(instance: Dataset) -> bytes:
    return element("ReferencedSOPClassUID", str(instance.SOPClassUID)) + element(
        "ReferencedSOPInstanceUID", str(instance.SOPInstanceUID)
    )


def _shared(series: SeriesVolume) -> Dataset:
    measures, direction, shared = Dataset(), Dataset(), Dataset()
    measures.SliceThickness = placed.decimals(np.array([placed.thickness_mm(series)]))[0]
    measures.SpacingBetweenSlices = placed.decimals(np.array([series.volume.spacing_between_slices]))[0]
    measures.PixelSpacing = placed.decimals(np.array(series.volume.pixel_spacing))
    direction.ImageOrientationPatient = placed.decimals(placed.orientation(series))
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([direction])
    return shared


def _add_dimensions(made: Dataset, identity: Identity) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = identity.uid(WORD, "dimensions")
    made.DimensionOrganizationSequence = Items([organization])
    indices = []
    for keyword, group in DIMENSIONS:
        index = Dataset()
        index.DimensionOrganizationUID = organization.DimensionOrganizationUID
        index.DimensionIndexPointer, index.FunctionalGroupPointer = placed.tag(keyword), placed.tag(group)
        index.DimensionDescriptionLabel = keyword
        indices.append(index)
    made.DimensionIndexSequence = Items(indices)


def _say_compression(made: Dataset, header: Dataset) -> None:
    """A mask drawn on images that lost detail says so too (PS3.3 C.7.6.1.1.5)."""
    lossy = header.get("LossyImageCompression") == "01"
    made.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod") if lossy else ():
        if header.get(keyword):
            setattr(made, keyword, header[keyword].value)
