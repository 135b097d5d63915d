"""The outlines of the findings as a Grayscale Softcopy Presentation State (PS3.3 A.33.1), for classic PACS viewers.

Graphic coordinates of a presentation state count pixels from 1, so that the centre of the first is (1, 1)
(C.10.5.1.2); outlines have it at (0.5, 0.5).
"""

from __future__ import annotations

import numpy as np
from highdicom import ModalityLUTTransformation
from highdicom.color import CIELabColor
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.pictures import window_of
from dicom_node.results import equipment, placed
from dicom_node.results.account import Account, Analysis
from dicom_node.results.burned import OUTLINED_BY_AI
from dicom_node.results.colours import colour_of
from dicom_node.results.grid import on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.results.outline import outlines
from dicom_node.results.segmentation import tracking_id, tracking_uid
from inference.types import Finding

WORD = "presentation-state"
TO_PRESENTATION = 0.5


def build_presentation(account: Account, analysis: Analysis, identity: Identity, series_number: int) -> Dataset:
    """The presentation state over the slices that a finding lies on; there must be at least one."""
    labels = on_source_grid(analysis.localization.labels, analysis.series)
    marked = np.flatnonzero(labels.any(axis=(1, 2))).tolist()
    layers = {one.number: _layer(one) for one in analysis.localization.findings}
    annotations = [
        _annotation(account, analysis, identity, labels[index], index, finding, layers[finding.number])
        for index in marked
        for finding in analysis.localization.findings
        if (labels[index] == finding.number).any()
    ]
    drawn = {annotation.GraphicLayer for annotation in annotations}
    modality, window = _display(analysis)
    return GrayscaleSoftcopyPresentationState(
        referenced_images=_referenced(account, analysis, marked),
        series_instance_uid=identity.uid(WORD, "series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(WORD, "instance"),
        instance_number=1,
        manufacturer=equipment.MANUFACTURER,
        manufacturer_model_name=equipment.MODEL_NAME,
        software_versions=equipment.software_versions(account.model),  # type: ignore[arg-type]  # a tuple cannot be written
        device_serial_number=equipment.device_serial_number(account.model),
        content_label="AI_OUTLINES",
        content_description=OUTLINED_BY_AI,
        series_description=account.described("AI outlines"),
        graphic_annotations=annotations,
        graphic_layers=[layer for layer in layers.values() if layer.GraphicLayer in drawn],
        modality_lut_transformation=modality,
        voi_lut_transformations=None if window is None else [window],
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[
            equipment.model_as_equipment(account.model, account.created, account.output.station_name)
        ],
        specific_character_set=account.headers[0].SpecificCharacterSet,
    )


def _layer(finding: Finding) -> GraphicLayer:
    return GraphicLayer(
        layer_name=f"FINDING_{finding.number}",
        order=finding.number,
        description=f"Finding {finding.number}, {OUTLINED_BY_AI}",
        display_color=CIELabColor.from_rgb(*colour_of(finding.number)),
    )


def _annotation(
    account: Account,
    analysis: Analysis,
    identity: Identity,
    labels: NDArray[np.uint16],
    index: int,
    finding: Finding,
    layer: GraphicLayer,
) -> GraphicAnnotation:
    loops = outlines(labels == finding.number)
    _, frame = analysis.series.source_of(index)
    return GraphicAnnotation(
        referenced_images=_referenced(account, analysis, [index]),
        referenced_frame_number=frame,
        graphic_layer=layer,
        graphic_objects=[
            GraphicObject(
                graphic_type="POLYLINE",
                graphic_data=loop.astype(np.float64) + TO_PRESENTATION,
                units="PIXEL",
                tracking_id=tracking_id(account.model, finding),
                tracking_uid=tracking_uid(identity, finding),
            )
            for loop in loops
        ],
        text_objects=[
            TextObject(f"AI {finding.number}", units="PIXEL", anchor_point=_anchor(loops[0]), anchor_point_visible=False)
        ],
    )


def _anchor(loop: NDArray[np.float32]) -> tuple[float, float]:
    x, y = loop[np.argmax(loop[:, 0] - loop[:, 1])]
    return float(x) + TO_PRESENTATION, float(y) + TO_PRESENTATION


def _referenced(account: Account, analysis: Analysis, indices: list[int]) -> list[Dataset]:
    headers = [account.headers[0]] if analysis.series.frames else [account.headers[index] for index in indices]
    if not analysis.series.frames:
        return [placed.with_changes(header, SamplesPerPixel=1) for header in headers]
    # the encoder refuses rescales that differ between frames; none is repeated here
    empty = Sequence([Dataset() for _ in range(int(headers[0].NumberOfFrames))])
    return [
        placed.with_changes(
            headers[0],
            SamplesPerPixel=1,
            SharedFunctionalGroupsSequence=Sequence([Dataset()]),
            PerFrameFunctionalGroupsSequence=empty,
        )
    ]


def _display(analysis: Analysis) -> tuple[ModalityLUTTransformation | None, SoftcopyVOILUTTransformation | None]:
    """Rescale and window, where one serves all slices; else the viewer's own."""
    series = analysis.series
    rescales = {(one.get("RescaleSlope"), one.get("RescaleIntercept")) for one in series.source}
    if series.frames or len(rescales) > 1:
        return None, None
    [(slope, intercept)] = rescales
    low, high = window_of(series.volume.array, analysis.localization.brain.array > 0)
    window = SoftcopyVOILUTTransformation(float(f"{(low + high) / 2:.6g}"), float(f"{max(high - low, 1.0):.6g}"))
    if slope is None or intercept is None:
        return None, window
    kind = "HU" if series.source[0].get("Modality") == "CT" else "US"
    return ModalityLUTTransformation(float(intercept), float(slope), kind), window
