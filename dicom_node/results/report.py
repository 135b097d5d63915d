"""The report as a Comprehensive 3D SR after TID 1500 (PS3.16): what was found, or why nothing was looked for.

One group speaks of the study, one volumetric and one planar group under the same Tracking UID of each finding; the
planar one is there because common viewers open a report only where every imaging measurement has coordinates in an image.
For the same reason the study's group stands under Derived Imaging Measurements wherever there are findings, and a report
without findings has a title of its own: under the usual one such viewers show nothing, under this one the report's words.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues
from pydicom import Dataset
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.outcome import Predecessor
from dicom_node.results import codes, equipment
from dicom_node.results.account import Account
from dicom_node.results.finding_groups import algorithm, finding_groups
from dicom_node.results.identity import Identity
from dicom_node.results.statements import Statement, statements

HEADLINES = (codes.IMPRESSION, codes.INTENDED_USE, codes.REASON)
"""Said in the study's group, with the coded outcome; the other statements follow."""

Made = Sequence[tuple[str, Dataset]]
"""What else the run made, by the word of the settings."""

_Group = (
    sr.MeasurementsAndQualitativeEvaluations
    | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | sr.PlanarROIMeasurementsAndQualitativeEvaluations
)


def build_report(account: Account, segmentation: Dataset | None, others: Made, identity: Identity, series_number: int) -> Dataset:
    """The report. `segmentation` holds the regions of the findings, None where there are none; `others` is what else was made."""
    evidence = [*account.headers, *([] if segmentation is None else [segmentation]), *(one for _, one in others)]
    report = sr.Comprehensive3DSR(
        evidence=evidence,
        content=_content(account, segmentation, others, identity),
        series_instance_uid=identity.uid("report", "series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("report", "instance"),
        instance_number=1,
        manufacturer=equipment.MANUFACTURER,
        manufacturer_model_name=equipment.MODEL_NAME,
        software_versions=equipment.software_versions(account.model),
        device_serial_number=equipment.device_serial_number(account.model),
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=[_reference(one) for one in account.predecessors] or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[equipment.model_as_equipment(account.model, account.created, account.output.station_name)],
        coding_schemes=codes.coding_schemes(),
        series_description=account.title,
        content_date=account.created.date(),
        content_time=account.created.time(),
        specific_character_set=account.headers[0].SpecificCharacterSet,
    )
    return report


def _content(account: Account, segmentation: Dataset | None, others: Made, identity: Identity) -> Dataset:
    study = _study_group(account, identity)
    findings: list[_Group] = []
    if account.analysis is not None and segmentation is not None:
        findings += finding_groups(account, account.analysis, segmentation, identity)
    content = sr.MeasurementReport(
        observation_context=_observer(account),
        procedure_reported=codes.PROCEDURES.get(account.analysed.modality, codes.IMAGING_PROCEDURE),
        imaging_measurements=findings or [study],
        title=codes.MEASUREMENT_REPORT if findings else codes.REPORT_WITHOUT_REGIONS,
    )[0]
    if findings:
        content.ContentSequence.append(_container(codes.DERIVED_MEASUREMENTS, study))
    content.ContentSequence.append(_container(codes.QUALITATIVE_EVALUATIONS, _in_words(account)))
    supporting = _supporting(others)
    if supporting:
        content.ContentSequence.append(_container(codes.EVIDENCE, supporting))
    _separate(content)
    return content


def _supporting(others: Made) -> list[sr.ContentItem]:
    """A reference to each map, document and state, and to the middle image of each series of single images."""
    by_word: dict[str, list[Dataset]] = {}
    for word, one in others:
        by_word.setdefault(word, []).append(one)
    references: list[sr.ContentItem] = []
    for word, ones in by_word.items():
        one = ones[len(ones) // 2]
        kind = sr.ImageContentItem if "Rows" in one else sr.CompositeContentItem
        references.append(
            kind(
                name=codes.EVIDENCE_OF[word],
                referenced_sop_class_uid=one.SOPClassUID,
                referenced_sop_instance_uid=one.SOPInstanceUID,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    return references


def _observer(account: Account) -> sr.ObservationContext:
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=dicom_codes.DCM.Device,
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=equipment.device_uid(account.model),
                name=account.output.station_name,
                manufacturer_name=equipment.MANUFACTURER,
                model_name=equipment.MODEL_NAME,
                serial_number=equipment.device_serial_number(account.model),
            ),
        )
    )


def _study_group(account: Account, identity: Identity) -> sr.MeasurementsAndQualitativeEvaluations:
    measurements = []
    if account.localization is not None:
        found = account.localization
        measurements = [
            _count(codes.NUMBER_OF_LESIONS, len(found.findings)),
            sr.Measurement(codes.PERCENTILE, round(found.study_score, 3), codes.SCORE_UNIT),
        ]
    region = codes.REGIONS.get(account.body_part)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=identity.uid("study"), identifier="Whole study"),
        algorithm_id=algorithm(account),
        finding_sites=[sr.FindingSite(region)] if region else None,
        measurements=measurements or None,
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.PROCESSING_SUMMARY, codes.SUMMARY_OF_OUTCOME[account.outcome])],
    )
    group[0].ContentSequence.extend(_text(one) for one in statements(account) if one.concept in HEADLINES)
    return group


def _count(name: Code, count: int) -> sr.Measurement:
    measurement = sr.Measurement(name, count, codes.COUNT_UNIT)
    measurement[0].MeasuredValueSequence[0].NumericValue = str(count)
    return measurement


def _in_words(account: Account) -> list[sr.TextContentItem]:
    return [_text(one) for one in statements(account) if one.concept not in HEADLINES]


def _container(name: Code, content: Sequence[sr.ContentItem] | sr.ContentSequence) -> sr.ContainerContentItem:
    container = sr.ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = sr.ContentSequence(content)
    return container


def _text(statement: Statement) -> sr.TextContentItem:
    return sr.TextContentItem(name=statement.concept, value=statement.text, relationship_type=RelationshipTypeValues.CONTAINS)


def _separate(item: Dataset) -> None:
    """Mark every container as separate items; continuous ones lose their names when rendered as text."""
    if item.get("ValueType") == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for child in item.get("ContentSequence") or []:
        _separate(child)


def _reference(predecessor: Predecessor) -> Dataset:
    reference = Dataset()
    reference.StudyInstanceUID = predecessor.study_instance_uid
    reference.SeriesInstanceUID = predecessor.series_instance_uid
    reference.SOPClassUID = predecessor.sop_class_uid
    reference.SOPInstanceUID = predecessor.sop_instance_uid
    return reference
