"""All result objects of one run, encoded as Part 10 files: the segmentation where there are findings, the report always,
and beside them what the settings ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO

from pydicom import Dataset
from pydicom.config import disable_value_validation

from dicom_node.outcome import KIND_OF_OBJECT, ResultObject
from dicom_node.results import capture, document, equipment, parametric_map, presentation, pseudo_healthy
from dicom_node.results.account import Account, Analysis
from dicom_node.results.headers import copy_patient_study
from dicom_node.results.identity import Identity
from dicom_node.results.report import build_report
from dicom_node.results.segmentation import build_segmentation
from dicom_node.results.stand_in import restore_classes, with_known_classes

SEGMENTATION, REPORT = KIND_OF_OBJECT["seg"], KIND_OF_OBJECT["sr"]
WITHOUT_BODY_PART = frozenset({"SR", "DOC"})
"""Modalities whose series module has no Body Part Examined."""
ORDER = ("seg", "sr", "parametric-map", "uncertainty", "pseudo-healthy", "capture", "presentation-state", "pdf")
"""In which series numbers are given; the report is sent last, after what it refers to."""


@disable_value_validation()
def encode(account: Account, identity: Identity) -> tuple[ResultObject, ...]:
    """The objects that tell `account`, in the order to send them: what a report refers to comes before it."""
    words = [word for word in ORDER if word in account.output.objects or word in ("seg", "sr")]
    numbers = dict(zip(words, account.series_numbers(len(words)), strict=True))
    account, replaced = with_known_classes(account)
    objects: list[ResultObject] = []
    with warnings.catch_warnings():
        # identity is copied verbatim, so that it matches the archive's; the libraries may find it too long or ill-formed
        warnings.simplefilter("ignore", UserWarning)
        segmentation = None
        analysis = account.analysis
        if analysis is not None and analysis.localization.findings:
            segmentation = build_segmentation(account, analysis, identity, numbers["seg"])
            _finish(segmentation, account)
        report = build_report(account, segmentation, identity, numbers["sr"])
        _finish(report, account)
        made: list[tuple[str, Dataset]] = [] if segmentation is None else [("seg", segmentation)]
        for word in words[2:]:
            for one in _others(word, account, analysis, identity, numbers[word]):
                _finish(one, account)
                made.append((word, one))
        for word, one in (*made, ("sr", report)):
            restore_classes(one, replaced)
            objects.append(_encoded(KIND_OF_OBJECT[word], one))
    return tuple(objects)


def _others(word: str, account: Account, analysis: Analysis | None, identity: Identity, number: int) -> Iterator[Dataset]:
    """What beside segmentation and report is asked for, as far as there is something to show."""
    if word == document.WORD:
        yield document.build_document(account, identity, number)
    if analysis is None:
        return
    if word in (parametric_map.SCORE.word, parametric_map.UNCERTAINTY.word):
        kind = parametric_map.SCORE if word == parametric_map.SCORE.word else parametric_map.UNCERTAINTY
        one = parametric_map.build_map(account, analysis, kind, identity, number)
        if one is not None:
            yield one
    if word == pseudo_healthy.WORD:
        yield from pseudo_healthy.build_pseudo_healthy(account, analysis, identity, number)
    if word == capture.WORD:
        yield from capture.build_capture(account, analysis, identity, number)
    if word == presentation.WORD and analysis.localization.findings:
        yield presentation.build_presentation(account, analysis, identity, number)


def _finish(dataset: Dataset, account: Account) -> None:
    """What every object shares: identity, equipment, place and time."""
    header = account.headers[0]
    copy_patient_study(header, dataset)
    dataset.StudyInstanceUID = account.study_instance_uid
    dataset.StationName = account.output.station_name
    institution = header.get("InstitutionName") or account.output.institution
    if institution:
        dataset.InstitutionName = institution
    if account.body_part and dataset.Modality not in WITHOUT_BODY_PART:
        dataset.BodyPartExamined = account.body_part
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        setattr(dataset, keyword, account.created.strftime("%Y%m%d"))
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        setattr(dataset, keyword, account.created.strftime("%H%M%S"))
    if dataset.Modality == "PR":
        dataset.PresentationCreationDate, dataset.PresentationCreationTime = dataset.ContentDate, dataset.ContentTime
        del dataset.ContentDate, dataset.ContentTime
    equipment.fix_contribution_times(dataset, account.created)


def _encoded(kind: str, dataset: Dataset) -> ResultObject:
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return ResultObject(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        data=stream.getvalue(),
    )
