"""The measurement groups of each finding in the report: TID 1411 for its volume, TID 1410 for its largest slice."""

from __future__ import annotations

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.results import codes
from dicom_node.results.account import Account, Analysis
from dicom_node.results.grid import on_source_grid
from dicom_node.results.identity import Identity
from dicom_node.results.outline import outlines
from dicom_node.results.segmentation import tracking_id, tracking_uid
from inference.types import Finding

Groups = list[sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations]


def finding_groups(account: Account, analysis: Analysis, segmentation: Dataset, identity: Identity) -> Groups:
    """Two groups for each finding, volumetric and planar, under its one Tracking UID."""
    labels = on_source_grid(analysis.localization.labels, analysis.series)
    groups: Groups = []
    for finding in analysis.localization.findings:
        segment = _segment(finding, labels, analysis, segmentation)
        groups.append(_volumetric(finding, account, segment, identity))
        groups.append(_planar(finding, labels, account, analysis, identity))
    return groups


def algorithm(account: Account) -> sr.AlgorithmIdentification:
    """TID 4019: the model, and the few parameters that decide."""
    parameters = [f"model card SHA-256 {account.model.digest}"]
    if account.localization is not None:
        provenance = account.localization.provenance
        point = provenance.operating_point
        parameters += [
            f"recipe {provenance.recipe}, SHA-256 {provenance.recipe_digest}",
            f"threshold {point.threshold:.3f}, minimum volume {point.minimum_volume_mm3:.0f} mm3",
            f"seed {provenance.seed}",
        ]
    return sr.AlgorithmIdentification(
        name=account.model.name,
        version=account.model.version,
        manufacturer=account.model.manufacturer or None,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        parameters=parameters,
    )


def largest_slice(labels: NDArray[np.uint16], finding: Finding) -> int:
    """The index of the slice on which the finding has most pixels; the first of several."""
    return int(np.argmax(np.count_nonzero(labels == finding.number, axis=(1, 2))))


def _volumetric(
    finding: Finding, account: Account, segment: sr.ReferencedSegment, identity: Identity
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, account, identity),
        referenced_segment=segment,
        finding_type=codes.LESION,
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_sites=_sites(finding, account),
        algorithm_id=algorithm(account),
        measurements=_measurements(finding),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.CONTRAST, codes.CONTRASTS[finding.contrast])],
    )


def _planar(
    finding: Finding, labels: NDArray[np.uint16], account: Account, analysis: Analysis, identity: Identity
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    index = largest_slice(labels, finding)
    mask = labels[index] == finding.number
    instance, frame = analysis.series.source_of(index)
    row_mm, column_mm = analysis.series.volume.pixel_spacing
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=outlines(mask)[0],
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=instance.SOPClassUID,
            referenced_sop_instance_uid=instance.SOPInstanceUID,
            referenced_frame_numbers=None if frame is None else [frame],
        ),
    )
    area_mm2 = float(np.count_nonzero(mask)) * row_mm * column_mm
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(finding, account, identity),
        referenced_region=region,
        finding_type=codes.LESION,
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_sites=_sites(finding, account),
        measurements=[sr.Measurement(codes.AREA, round(area_mm2, 2), codes.SQUARE_MILLIMETRE)],
    )


def _segment(
    finding: Finding, labels: NDArray[np.uint16], analysis: Analysis, segmentation: Dataset
) -> sr.ReferencedSegment:
    """The reference to the finding's segment and the images that it lies on.

    Made by hand: highdicom's own way does not find a segment that is alone in its object.
    """
    marked = np.flatnonzero((labels == finding.number).any(axis=(1, 2)))
    by_instance: dict[str, tuple[Dataset, list[int]]] = {}
    for index in marked:
        instance, frame = analysis.series.source_of(int(index))
        frames = by_instance.setdefault(str(instance.SOPInstanceUID), (instance, []))[1]
        if frame is not None:
            frames.append(frame)
    return sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=finding.number,
        source_images=[
            sr.SourceImageForSegmentation(
                referenced_sop_class_uid=instance.SOPClassUID,
                referenced_sop_instance_uid=instance.SOPInstanceUID,
                referenced_frame_numbers=sorted(frames) or None,
            )
            for instance, frames in by_instance.values()
        ],
    )


def _tracking(finding: Finding, account: Account, identity: Identity) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=tracking_uid(identity, finding), identifier=tracking_id(account.model, finding))


def _sites(finding: Finding, account: Account) -> list[sr.FindingSite] | None:
    region = codes.REGIONS.get(account.body_part)
    if region is None:
        return None
    return [sr.FindingSite(region, laterality=codes.SIDES.get(finding.hemisphere or ""))]


def _measurements(finding: Finding) -> list[sr.Measurement]:
    """What decides comes first: some viewers show the first five alone."""
    volume_cm3 = float(f"{finding.volume_mm3 / 1000:.4g}")
    measured = [
        sr.Measurement(codes.VOLUME, volume_cm3, codes.CUBIC_CENTIMETRE, method=codes.SUM_OF_VOXELS),
        sr.Measurement(codes.PEAK_SCORE, round(finding.peak_score, 3), codes.SCORE_UNIT, derivation=codes.MAXIMUM),
        sr.Measurement(codes.MEAN_SCORE, round(finding.mean_score, 3), codes.SCORE_UNIT, derivation=codes.MEAN),
        sr.Measurement(codes.LONG_AXIS, round(finding.long_axis_mm, 2), codes.MILLIMETRE),
    ]
    measured += [
        sr.Measurement(name, round(extent, 2), codes.MILLIMETRE)
        for name, extent in zip(codes.EXTENTS, finding.extents_mm, strict=True)
    ]
    return measured
