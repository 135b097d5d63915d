"""The departure score, and the uncertainty of the healthy estimate, as Parametric Maps (PS3.3 A.75).

Values are given on the pixels of the source, each frame naming its source image: for every pixel, which OHIF asks for, or
inside the brain's bounding box only. Frames rise along the normal of the images: dcmqi takes them for that, whatever their
positions say. Real World Value Mapping gives the value. Stored is a float32 that is 1 at the kind's full scale, because OHIF
colours what is stored from 0 to 1; or a uint16, exact to a 65535th of the largest value, which OHIF misdraws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.results import codes, equipment, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.grid import values_on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.series import SeriesVolume

FloatArray = NDArray[np.float32]
Box = tuple[slice, slice, slice]

LARGEST_STORED = 65535


@dataclass(frozen=True, slots=True)
class MapKind:
    """What one map shows, in the words and codes of the object."""

    word: str
    """As in `output.objects`; part of the UIDs."""
    title: str
    label: str
    explanation: str
    quantity: Code
    unit: Code
    full_scale: float
    """The value that is stored as 1 in a map of floats: the end of the colour scale in viewers that do not ask for it."""


SCORE = MapKind(
    "parametric-map", "AI departure score", "DEPARTURE", "Minus log10 of the fraction of reference voxels at least as high",
    codes.SCORE, codes.SCORE_UNIT, 6.0,
)  # fmt: skip
UNCERTAINTY = MapKind(
    "uncertainty", "AI uncertainty", "UNCERTAINTY", "Standard deviation of the healthy estimate, standardised units",
    codes.UNCERTAINTY, codes.NO_UNIT, 1.0,
)  # fmt: skip


def build_map(account: Account, analysis: Analysis, kind: MapKind, identity: Identity, series_number: int) -> Dataset | None:
    """The map of that kind; None where the localization has none (an uncertainty needs several draws or levels)."""
    localization = analysis.localization
    values = localization.score if kind is SCORE else localization.uncertainty
    if values is None:
        return None
    series = analysis.series
    box = _box(values_on_source_grid(localization.brain, series) > 0, account.output.map_extent)
    cropped = np.ascontiguousarray(values_on_source_grid(values, series)[box])
    stored, slope = _stored(cropped, account.output.map_values, kind.full_scale)
    made = ParametricMap(
        source_images=_source_images(account, series),
        pixel_array=stored,
        series_instance_uid=identity.uid(kind.word, "series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(kind.word, "instance"),
        instance_number=1,
        manufacturer=equipment.MANUFACTURER,
        manufacturer_model_name=equipment.MODEL_NAME,
        software_versions=equipment.software_versions(account.model),  # type: ignore[arg-type]  # a tuple cannot be written
        device_serial_number=equipment.device_serial_number(account.model),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(kind, stored, slope)],
        voi_lut_transformations=[_window(cropped, slope)],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_label=kind.label,
        content_description=kind.explanation,
        series_description=account.described(kind.title),
        pixel_measures=_measures(series),
        plane_orientation=PlaneOrientationSequence("PATIENT", placed.orientation(series).tolist()),
        plane_positions=[_position(series, index, box) for index in range(box[0].start, box[0].stop)],
        contributing_equipment=[
            equipment.model_as_equipment(account.model, account.created, account.output.station_name)
        ],
        specific_character_set=account.headers[0].SpecificCharacterSet,
    )
    made.ContentCreatorName = None  # type 2: nobody but the software
    _name_sources(made, series, box, kind)
    _name_anatomy(made, account)
    _let_frames_rise(made, series)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = identity.uid(kind.word, "dimensions")
    return made


def bounding_box(brain: NDArray[np.bool_]) -> Box:
    """The smallest box [slice, row, column] around what is set; everything where nothing is."""
    if not brain.any():
        return slice(0, brain.shape[0]), slice(0, brain.shape[1]), slice(0, brain.shape[2])
    ranges = []
    for axis in range(3):
        hit = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
        ranges.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def _box(brain: NDArray[np.bool_], extent: str) -> Box:
    return bounding_box(brain if extent == "brain" else np.ones_like(brain))


def _source_images(account: Account, series: SeriesVolume) -> list[Dataset]:
    return [placed.analysed_frames_only(account.headers[0], series)] if series.frames else list(account.headers)


def _stored(values: FloatArray, form: str, full_scale: float) -> tuple[NDArray[np.generic], float]:
    """What is written, and by what it is multiplied to give the value."""
    if form == "float32":
        return values / np.float32(full_scale), full_scale
    slope = max(float(values.max()), 1e-6) / LARGEST_STORED
    return np.clip(np.round(values / slope), 0, LARGEST_STORED).astype(np.uint16), slope


def _mapping(kind: MapKind, stored: NDArray[np.generic], slope: float) -> RealWorldValueMapping:
    value_range = (0, LARGEST_STORED) if stored.dtype == np.uint16 else (float(stored.min()), float(stored.max()))
    return RealWorldValueMapping(
        lut_label=kind.label,
        lut_explanation=kind.explanation,
        unit=kind.unit,
        value_range=value_range,
        slope=slope,
        intercept=0.0,
        quantity_definition=kind.quantity,
    )


def _window(values: FloatArray, slope: float) -> VOILUTTransformation:
    width = max(float(values.max()), 1e-6) / slope
    return VOILUTTransformation(
        window_center=float(f"{width / 2:.6g}"), window_width=float(f"{width:.6g}"), voi_lut_function="LINEAR_EXACT"
    )


def _measures(series: SeriesVolume) -> PixelMeasuresSequence:
    return PixelMeasuresSequence(
        pixel_spacing=[float(f"{value:.8g}") for value in series.volume.pixel_spacing],
        slice_thickness=float(f"{placed.thickness_mm(series):.8g}"),
        spacing_between_slices=float(f"{series.volume.spacing_between_slices:.8g}"),
    )


def _position(series: SeriesVolume, index: int, box: Box) -> PlanePositionSequence:
    affine = series.volume.affine
    corner = placed.position(series, index) + affine[:3, 1] * box[1].start + affine[:3, 2] * box[2].start
    return PlanePositionSequence("PATIENT", [float(value) for value in placed.decimals(corner)])


def _name_sources(made: Dataset, series: SeriesVolume, box: Box, kind: MapKind) -> None:
    """Let each frame name the image it was made from: by its own place, cropped as it is, it cannot be found."""
    shared = made.SharedFunctionalGroupsSequence[0]
    if "DerivationImageSequence" in shared:
        del shared.DerivationImageSequence
    corner = series.volume.affine[:3, 1] * box[1].start + series.volume.affine[:3, 2] * box[2].start
    origins = {tuple(np.round(placed.position(series, index) + corner, 3)): index for index in range(box[0].start, box[0].stop)}
    for frame in made.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        index = origins[tuple(np.round(np.array(place, dtype=np.float64), 3))]
        frame.DerivationImageSequence = Sequence([placed.derivation(series, index, kind.explanation)])
    made.ReferencedSeriesSequence = Sequence([_referenced_series(series, range(box[0].start, box[0].stop))])


def _name_anatomy(made: Dataset, account: Account) -> None:
    """The region all frames show (PS3.3 C.7.6.16.2.8), where the model's card names one that has a code."""
    region = codes.REGIONS.get(account.body_part)
    if region is None:
        return
    item = Dataset()
    item.FrameLaterality = "B" if account.body_part == "BRAIN" else "U"
    item.AnatomicRegionSequence = Sequence([placed.coded(region)])
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = Sequence([item])


def _let_frames_rise(made: Dataset, series: SeriesVolume) -> None:
    """Put the frames into the order of rising position along the normal, if they are in falling order."""
    frames = list(made.PerFrameFunctionalGroupsSequence)
    along = placed.orientation(series)
    across = np.cross(along[:3], along[3:])
    first, last = (np.array(frames[end].PlanePositionSequence[0].ImagePositionPatient, float) for end in (0, -1))
    if (last - first) @ across >= 0:
        return
    made.PerFrameFunctionalGroupsSequence = Sequence(frames[::-1])
    keyword = "FloatPixelData" if "FloatPixelData" in made else "PixelData"
    stored = np.frombuffer(made[keyword].value, np.float32 if keyword == "FloatPixelData" else np.uint16)
    made[keyword].value = stored.reshape(len(frames), -1)[::-1].tobytes()


def _referenced_series(series: SeriesVolume, indices: range) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = series.source[0].SeriesInstanceUID
    instances = {str(series.source_of(index)[0].SOPInstanceUID): series.source_of(index)[0] for index in indices}
    item.ReferencedInstanceSequence = Sequence(
        [_reference(instance) for instance in instances.values()]
    )
    return item


def _reference(instance: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.SOPClassUID
    item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
    return item
