"""All result objects of one run, encoded as Part 10 files: the segmentation where there are findings, the report always."""

from __future__ import annotations

import warnings
from io import BytesIO

from pydicom import Dataset
from pydicom.config import disable_value_validation

from dicom_node.outcome import ResultObject
from dicom_node.results import equipment
from dicom_node.results.account import Account
from dicom_node.results.headers import copy_patient_study
from dicom_node.results.identity import Identity
from dicom_node.results.report import build_report
from dicom_node.results.segmentation import build_segmentation
from dicom_node.results.stand_in import restore_classes, with_known_classes

SEGMENTATION, REPORT = "SEG", "SR"


@disable_value_validation()
def encode(account: Account, identity: Identity) -> tuple[ResultObject, ...]:
    """The objects that tell `account`, in the order to send them: what a report refers to comes before it."""
    segmentation_number, report_number = account.series_numbers(2)
    account, replaced = with_known_classes(account)
    segmentation = None
    with warnings.catch_warnings():
        # identity is copied verbatim, so that it matches the archive's; the libraries may find it too long or ill-formed
        warnings.simplefilter("ignore", UserWarning)
        if account.analysis is not None and account.analysis.localization.findings:
            segmentation = build_segmentation(account, account.analysis, identity, segmentation_number)
            _finish(segmentation, account)
        report = build_report(account, segmentation, identity, report_number)
        _finish(report, account)
        for made in (segmentation, report):
            if made is not None:
                restore_classes(made, replaced)
        objects = [] if segmentation is None else [_encoded(SEGMENTATION, segmentation)]
        return (*objects, _encoded(REPORT, report))


def _finish(dataset: Dataset, account: Account) -> None:
    """What every object shares: identity, equipment, place and time."""
    header = account.headers[0]
    copy_patient_study(header, dataset)
    dataset.StudyInstanceUID = account.study_instance_uid
    dataset.StationName = account.output.station_name
    institution = header.get("InstitutionName") or account.output.institution
    if institution:
        dataset.InstitutionName = institution
    if account.body_part and dataset.Modality == "SEG":  # General Series has it, SR Document Series has not
        dataset.BodyPartExamined = account.body_part
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        setattr(dataset, keyword, account.created.strftime("%Y%m%d"))
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        setattr(dataset, keyword, account.created.strftime("%H%M%S"))
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
