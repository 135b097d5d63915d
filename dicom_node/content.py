"""Whether two data sets say the same: what an archive gives back, against what was sent to it.

Compared element by element after decoding, so that another transfer syntax or character set makes no difference. Left out
is what an archive may add or coerce (PS3.4 B.4.1.3, PS3.4 C.6.1): who the patient is, and its own notes about storage.
"""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag, tag_for_keyword

_ARCHIVES_OWN = (
    "SpecificCharacterSet",
    "InstanceCoercionDateTime",
    "RetrieveAETitle",
    "RetrieveURL",
    "RetrieveURI",
    "InstanceAvailability",
    "TimezoneOffsetFromUTC",
    "OriginalAttributesSequence",
    "ContributingEquipmentSequence",
    "DataSetTrailingPadding",
)
_COERCIBLE = (
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "InstitutionName",
)
_LEFT_OUT = frozenset(tag for tag in (tag_for_keyword(keyword) for keyword in (*_ARCHIVES_OWN, *_COERCIBLE)) if tag)
PATIENT_GROUP = 0x0010
COMPARED = "every element of the data set except patient, order and archive attributes"


def differences(ours: Dataset, theirs: Dataset) -> list[str]:
    """Keywords (or tags) of the elements that differ, in order; empty where both say the same."""
    mine, other = _comparable(ours), _comparable(theirs)
    tags = sorted(mine.keys() | other.keys())
    return [_name(tag) for tag in tags if mine.get(tag) != other.get(tag)]


def _comparable(dataset: Dataset) -> dict[int, Any]:
    """Tag to value, as DICOM JSON spells it, without the value representation, which implicit encodings lose."""
    decoded = Dataset()
    for element in dataset:
        tag = int(element.tag)
        if element.tag.group == PATIENT_GROUP or element.tag.element == 0 or tag in _LEFT_OUT:
            continue
        decoded.add(element)
    model = decoded.to_json_dict()
    return {int(tag, 16): value for tag, element in model.items() if (value := _without_vr(element)) is not None}


def _without_vr(element: dict[str, Any]) -> Any:
    """The value; an empty element and an absent one are alike."""
    if "InlineBinary" in element:
        return element["InlineBinary"]
    values = element.get("Value")
    if not values:
        return None
    return [_item(value) for value in values]


def _item(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()):
        return {tag: inner for tag, one in value.items() if (inner := _without_vr(one)) is not None}
    return value


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
