"""All result objects of one run, encoded as Part 10 files: the segmentation where there are findings, the report always,
and beside them what the settings ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import numpy as np
from pydicom import Dataset
from pydicom.config import disable_value_validation

from dicom_node.outcome import KIND_OF_OBJECT, ResultObject
from dicom_node.results import capture, document, equipment, parametric_map, placed, presentation, pseudo_healthy
from dicom_node.results.account import Account, Analysis
from dicom_node.results.headers import copy_patient_study
from dicom_node.results.identity import Identity
from dicom_node.results.labelmap import build_labelmap
from dicom_node.results.report import build_report
from dicom_node.results.segmentation import build_segmentation
from dicom_node.results.stand_in import restore_classes, with_known_classes

SEGMENTATION, REPORT = KIND_OF_OBJECT["seg"], KIND_OF_OBJECT["sr"]
WITHOUT_BODY_PART = frozenset({"SR", "DOC"})
"""Modalities whose series module has no Body Part Examined."""
ORDER = ("seg", "sr", "parametric-map", "uncertainty", "pseudo-healthy", "capture", "presentation-state", "pdf")
"""In which series numbers are given; the report is sent last, after what it refers to."""


def encode(account: Account, identity: Identity) -> tuple[ResultObject, ...]:
    """The objects that tell `account`, in the order to send them: what a report refers to comes before it."""
    words = [word for word in ORDER if word in account.output.objects or word in ("seg", "sr")]
    numbers = dict(zip(words, account.series_numbers(len(words)), strict=True))
    known, replaced = with_known_classes(_with_thickness(account))
    with _copying_verbatim():
        made = _segmentation(known, identity, numbers["seg"])
        others = list(_others(words[2:], known, identity, numbers))
        report = build_report(known, made[0][1] if made else None, others, identity, numbers["sr"])
        _finish(report, known)
        objects = []
        for word, one in (*made, *others, ("sr", report)):
            restore_classes(one, replaced)
            objects.append(_encoded(KIND_OF_OBJECT[word], one))
    return tuple(objects)


def encode_segmentation(account: Account, identity: Identity) -> ResultObject:
    """The segmentation alone, of an account with findings."""
    with _copying_verbatim():
        [(word, one)] = _segmentation(account, identity, account.output.series_number_base)
        return _encoded(KIND_OF_OBJECT[word], one)


def _with_thickness(account: Account) -> Account:
    """Where headers do not say how thick a slice is, the distance between slices stands for it."""
    if account.analysis is None or account.analysis.series.frames:
        return account
    thickness_mm = placed.decimals(np.array([placed.thickness_mm(account.analysis.series)]))[0]
    headers = (
        header if header.get("SliceThickness") else placed.with_changes(header, SliceThickness=thickness_mm)
        for header in account.headers
    )
    return replace(account, headers=tuple(headers))


@contextmanager
def _copying_verbatim() -> Iterator[None]:
    """Identity is copied as it is, so that it matches the archive's; the libraries may find it too long or ill-formed."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _segmentation(account: Account, identity: Identity, number: int) -> list[tuple[str, Dataset]]:
    analysis = account.analysis
    if analysis is None or not analysis.localization.findings:
        return []
    build = build_labelmap if account.output.segmentation == "labelmap" else build_segmentation
    made = build(account, analysis, identity, number)
    _finish(made, account)
    return [("seg", made)]


def _others(
    words: Sequence[str], account: Account, identity: Identity, numbers: Mapping[str, int]
) -> Iterator[tuple[str, Dataset]]:
    for word in words:
        for one in _other(word, account, account.analysis, identity, numbers[word]):
            _finish(one, account)
            yield word, one


def _other(word: str, account: Account, analysis: Analysis | None, identity: Identity, number: int) -> Iterator[Dataset]:
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
