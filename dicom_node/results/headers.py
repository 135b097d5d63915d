"""Source headers made fit to build results from, and the patient and study attributes that every result repeats.

Real headers break strict libraries: multi-byte character sets, one-digit times, missing type 2 attributes. A copy of
the attributes that are needed is repaired in memory; who the patient is stays as it is, character for character.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import datetime, timedelta, timezone

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

UTF_8 = "ISO_IR 192"
PYTHON_CODEC = {UTF_8: "utf-8", "ISO_IR 100": "latin-1"}

PATIENT_AND_STUDY = (
    # Patient, PS3.3 C.7.1.1
    "PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence",
    "OtherPatientNames", "QualityControlSubject", "PatientComments", "PatientIdentityRemoved",
    "DeidentificationMethod", "EthnicGroup", "PatientSpeciesDescription", "ResponsiblePerson", "ResponsibleOrganization",
    # General Study, C.7.2.1
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence",
    "StudyDescription", "ReferringPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    # Patient Study, C.7.2.2
    "AdmittingDiagnosesDescription", "PatientAge", "PatientSize", "PatientWeight", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "AdditionalPatientHistory", "Occupation", "MedicalAlerts", "Allergies",
    "PregnancyStatus", "SmokingStatus", "LastMenstrualDate",
    # Clinical Trial Subject and Study, C.7.1.3 and C.7.2.3
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip
REQUIRED_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
IMAGE = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "InstanceNumber",
    "BodyPartExamined", "FrameOfReferenceUID", "PositionReferenceIndicator", "Rows", "Columns", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionOrganizationSequence",
    "DimensionIndexSequence", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
    "InstitutionName", "InstitutionalDepartmentName", "StationName", "TimezoneOffsetFromUTC",
    "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime",
)  # fmt: skip
WHO_TAGS = tuple(Tag(keyword) for keyword in PATIENT_AND_STUDY)
IMAGE_TAGS = tuple(Tag(keyword) for keyword in IMAGE)
TEXT = frozenset({"LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "DA", "TM", "AS", "UI"})
SEXES = frozenset({"", "M", "F", "O"})
MOMENTS = (
    ("ContentDate", "ContentTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?")
OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


@disable_value_validation()
def sanitise(header: Dataset, character_set: str) -> Dataset:
    """A copy that strict libraries accept: allow-listed attributes, readable in `character_set`, nothing private.

    Dates, times and a sex that the standard does not know are blanked; missing type 2 attributes are added empty.
    Everything else that identifies patient and study is kept verbatim, legal or not: it must match the archive's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # unknown character sets are read as well as may be
        fit = (_fit(header, tag) for tag in (*WHO_TAGS, *IMAGE_TAGS))
        copy = Dataset({element.tag: element for element in fit if element is not None})
        for keyword in REQUIRED_MAY_BE_EMPTY:
            if keyword not in copy:
                setattr(copy, keyword, None)
        sex = str(copy.PatientSex or "").strip().upper()
        _put(copy, "PatientSex", sex if sex in SEXES else "")
        _say_how_deidentified(header, copy)
        copy.SpecificCharacterSet = character_set
    return copy


def sanitise_series(headers: Iterable[Dataset], character_set: str) -> list[Dataset]:
    """Every header of a series made fit; patient and study are those of the first for all, as results repeat them.

    The images of a series say much the same: an element that another image spells in the same bytes is taken from there.
    """
    made: list[Dataset] = []
    known: dict[tuple[object, ...], DataElement | None] = {}
    for header in headers:
        if not made:
            made.append(sanitise(header, character_set))
            shared = {tag: one for tag, one in made[0].items() if tag not in IMAGE_TAGS}
            continue
        made.append(Dataset({**shared, **_image_elements(header, known)}))
    return made


def _image_elements(header: Dataset, known: dict[tuple[object, ...], DataElement | None]) -> dict[BaseTag, DataElement]:
    held = dict(header.items())
    spelt_in = str(header.get("SpecificCharacterSet", ""))
    elements: dict[BaseTag, DataElement] = {}
    for tag in IMAGE_TAGS:
        one = held.get(tag)
        if one is None:
            continue
        if not isinstance(one, RawDataElement):
            element = _fit(header, tag)
        elif (key := (spelt_in, tag, one.VR, one.value)) in known:
            element = known[key]
        else:
            element = known[key] = _fit(header, tag)
        if element is not None:
            elements[tag] = element
    return elements


def character_set_for(headers: Sequence[Dataset], wanted: str) -> str:
    """The wanted Specific Character Set, or UTF-8 where it cannot hold what the (sanitised) headers say."""
    text = "".join(str(header.get(keyword, "")) for header in headers[:1] for keyword in PATIENT_AND_STUDY)
    try:
        text.encode(PYTHON_CODEC[wanted])
    except UnicodeEncodeError:
        return UTF_8
    return wanted


@disable_value_validation()
def under_identity(header: Dataset, identity: Iterable[tuple[str, str]]) -> None:
    """Give the header another patient where the study's newest instance names one (a merge, or a quarantine that was ended)."""
    told = dict(identity)
    newest = told.get("PatientID", "").strip()
    if not newest or str(header.get("PatientID", "") or "").strip() == newest:
        return
    for keyword, value in told.items():
        if value or keyword in header:
            setattr(header, keyword, value)


def copy_patient_study(header: Dataset, result: Dataset) -> None:
    """Give `result` the very patient and study attributes of a sanitised header, and no others of that list."""
    for keyword in PATIENT_AND_STUDY:
        if keyword in header:
            result[keyword] = deepcopy(header[keyword])
        elif keyword in result:
            del result[keyword]
    result.SpecificCharacterSet = header.SpecificCharacterSet
    if "TimezoneOffsetFromUTC" in header:
        result.TimezoneOffsetFromUTC = header.TimezoneOffsetFromUTC


def content_moment(started_at: str, headers: Sequence[Dataset]) -> datetime:
    """When the analysis began (ISO 8601), in the time zone that the source's headers declare, else this machine's.

    Without a start the newest moment that the headers know is taken, so that the same request still gives the same
    object. Raises ValueError where there is neither.
    """
    if started_at:
        started = datetime.fromisoformat(started_at).replace(microsecond=0)
        return started.astimezone(_time_zone(headers[0])) if started.tzinfo else started
    moments = [moment for header in headers for moment in _moments(header)]
    if not moments:
        raise ValueError("the request does not say when the analysis began, and no header has a usable date")
    return max(moments)


def _fit(header: Dataset, tag: BaseTag) -> DataElement | None:
    """The element as a result may repeat it; None where it is absent or cannot be read at all."""
    element = _readable(header, tag)
    if element is None:
        return None
    if element.VR == "SQ":
        for item in element.value:
            item.remove_private_tags()
            item.walk(_drop_character_set)
    value = str(element.value or "") if element.VR in ("DA", "TM") else ""
    if value and not (_is_date(value) if element.VR == "DA" else TIME.fullmatch(value)):
        return DataElement(tag, element.VR, "")
    return element


def _readable(header: Dataset, tag: BaseTag) -> DataElement | None:
    """The element with its text as characters; None where it is absent or cannot be read at all."""
    try:
        if tag not in header:
            return None
        element = header[tag]
        if element.VR == "SQ":
            element = deepcopy(element)
            for item in element.value:
                item.decode()
        if element.VR in ("DS", "IS") and element.value:
            np.asarray(element.value, dtype=np.float64)  # ValueError where it is no number
            if element.VM > 1 and dictionary_VM(tag) == "1":
                return None
        if element.VR == "PN" and element.VM > 1:  # strict libraries want one name: the same characters as one
            return DataElement(tag, "PN", PersonName("\\".join(str(name) for name in element.value)))
        expected = dictionary_VR(tag)
        if expected == element.VR:
            return element
        return DataElement(tag, expected, str(element.value)) if expected in TEXT else None
    except (ValueError, TypeError, NotImplementedError, LookupError):
        return None


def _put(dataset: Dataset, keyword: str, value: object) -> None:
    """Let the data set hold the value in an element of its own: the old one may be another data set's too."""
    tag = Tag(keyword)
    dataset[tag] = DataElement(tag, dictionary_VR(tag), value)


def _drop_character_set(dataset: Dataset, element: DataElement) -> None:
    if element.keyword == "SpecificCharacterSet":
        del dataset[element.tag]


def _say_how_deidentified(header: Dataset, copy: Dataset) -> None:
    """Where only codes say how an identity was removed, their meanings as text: one of both is required (C.7.1.1)."""
    if copy.get("PatientIdentityRemoved") == "YES" and not copy.get("DeidentificationMethod"):
        meanings = [str(item.get("CodeMeaning", "")) for item in header.get("DeidentificationMethodCodeSequence") or []]
        _put(copy, "DeidentificationMethod", [meaning[:64] for meaning in meanings if meaning] or "not stated")


def _is_date(value: str) -> bool:
    if not value:
        return True
    try:
        datetime.strptime(value, "%Y%m%d")  # noqa: DTZ007  a DA has no time zone
    except ValueError:
        return False
    return len(value) == 8


def _time_zone(header: Dataset) -> timezone | None:
    match = OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC", "")))
    if match is None:
        return None
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def _moments(header: Dataset) -> list[datetime]:
    moments = []
    for date_keyword, time_keyword in MOMENTS:
        date = str(header.get(date_keyword) or "")
        time = str(header.get(time_keyword) or "").split(".")[0].ljust(6, "0")
        if date:
            second = min(int(time[4:]), 59)  # a leap second is legal in DICOM, not in Python
            moments.append(datetime.strptime(f"{date}{time[:4]}{second:02}", "%Y%m%d%H%M%S"))  # noqa: DTZ007  local
    return moments
