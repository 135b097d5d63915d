"""A known SOP Class in place of one that highdicom has no table for, while an object is built.

Archives hold images of private and retired classes. A report about them must be possible, so they pass for MR Image
Storage during the building, and the references are set right before the object is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pydicom import DataElement, Dataset
from pydicom.uid import UID, MRImageStorage

from dicom_node.results.account import Account
from dicom_node.results.placed import with_changes

REFERENCED_SOP_INSTANCE_UID: Final = 0x00081155


def with_known_classes(account: Account) -> tuple[Account, dict[str, str]]:
    """The account with images of unknown classes as MR images; and by SOP Instance UID the classes that were replaced."""
    headers, replaced = _known(account.headers)
    if not replaced or account.analysis is None:
        return replace(account, headers=headers), replaced
    source, _ = _known(account.analysis.series.source)
    analysis = replace(account.analysis, series=replace(account.analysis.series, source=source))
    return replace(account, headers=headers, analysis=analysis), replaced


def restore_classes(result: Dataset, replaced: dict[str, str]) -> None:
    """Let every reference to such an instance name its own class."""
    if not replaced:
        return

    def restore(dataset: Dataset, element: DataElement) -> None:
        if element.tag == REFERENCED_SOP_INSTANCE_UID and element.value in replaced:
            dataset.ReferencedSOPClassUID = replaced[element.value]

    result.walk(restore)


def _known(headers: Sequence[Dataset]) -> tuple[tuple[Dataset, ...], dict[str, str]]:
    replaced: dict[str, str] = {}
    known = []
    for header in headers:
        sop_class = UID(str(header.get("SOPClassUID", "")))
        if _is_unknown(sop_class):
            replaced[str(header.SOPInstanceUID)] = str(sop_class)
            known.append(with_changes(header, SOPClassUID=MRImageStorage))
        else:
            known.append(header)
    return tuple(known), replaced


def _is_unknown(sop_class: UID) -> bool:
    return sop_class.is_private or sop_class.name == sop_class or sop_class.is_retired or sop_class.type != "SOP Class"
