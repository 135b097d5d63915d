"""What is wrong with a set of DICOM objects: their modules, the references among them, their places and their identity.

Independent of the encoders on purpose. Modules are dciodvfy's matter where it is installed (dicom3tools, PS3.3); the rest
is what no validator of single files can see: that a report's segment exists, that a frame lies on the image it names.
"""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

DCIODVFY = "dciodvfy"
TIMEOUT_S = 120.0
LIMIT_MM = 0.1
"""How far a frame may lie beside the plane of the image it names, or a tenth of the slice distance where that is more."""
IDENTITY = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Must be equal in all instances of a study, character for character."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with one file."""

    file: str
    severity: str
    """`error` or `warning`."""
    code: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """One file and what it holds, without its pixels."""

    file: Path
    header: Dataset

    @property
    def uid(self) -> str:
        """SOP Instance UID; empty where there is none."""
        return str(self.header.get("SOPInstanceUID", ""))


def validate(files: Sequence[Path]) -> tuple[list[Complaint], list[str]]:
    """Everything that is wrong with the files as one set, and remarks on what could not be checked."""
    checked: list[Checked] = []
    complaints: list[Complaint] = []
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                checked.append(Checked(file, dcmread(file, stop_before_pixels=True)))
        except (InvalidDicomError, OSError, EOFError, ValueError) as error:
            complaints.append(Complaint(str(file), "error", "unreadable", f"not a DICOM file: {type(error).__name__}"))
    program = shutil.which(DCIODVFY)
    remarks = [] if program else [f"{DCIODVFY} is not installed: attributes and modules were not checked"]
    by_uid = {one.uid: one for one in checked}
    missing: Counter[str] = Counter()
    for one in checked:
        if program:
            complaints += _modules(program, one)
        complaints += _uids(one)
        complaints += _references(one, by_uid, missing)
        complaints += _places(one, by_uid)
    complaints += _same_uid(checked)
    complaints += _identity(checked)
    if missing:
        remarks.append(f"{len(missing)} referenced instances are not among the files: what is said of them was not checked")
    return complaints, remarks


def _modules(program: str, one: Checked) -> Iterator[Complaint]:
    try:
        said = subprocess.run([program, str(one.file)], capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Complaint(str(one.file), "error", "modules", f"{DCIODVFY} took longer than {TIMEOUT_S:.0f} s")
        return
    for line in said.stderr.decode(errors="replace").splitlines():
        severity, dash, text = line.strip().partition(" - ")
        if dash and severity in {"Error", "Warning"}:
            yield Complaint(str(one.file), severity.lower(), "modules", text)


def _uids(one: Checked) -> Iterator[Complaint]:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        value = str(one.header.get(keyword, ""))
        if not UID(value).is_valid:
            yield Complaint(str(one.file), "error", "uid", f"{keyword} {value or 'is missing'}: not a valid UID (PS3.5 9.1)")
    stated = str(one.header.file_meta.get("MediaStorageSOPInstanceUID", ""))
    if stated != one.uid:
        yield Complaint(str(one.file), "error", "uid", f"the file's meta information names {stated or 'nothing'}, not {one.uid}")


def _same_uid(checked: Sequence[Checked]) -> Iterator[Complaint]:
    count = Counter(one.uid for one in checked)
    for one in checked:
        if count[one.uid] > 1:
            yield Complaint(str(one.file), "error", "uid", f"{count[one.uid]} files hold SOP Instance UID {one.uid}")
    places: defaultdict[str, set[str]] = defaultdict(set)
    for one in checked:
        places[str(one.header.get("SeriesInstanceUID", ""))].add(str(one.header.get("StudyInstanceUID", "")))
    for series, studies in places.items():
        if len(studies) > 1:
            yield Complaint("", "error", "uid", f"series {series} is in {len(studies)} studies")


def _identity(checked: Sequence[Checked]) -> Iterator[Complaint]:
    """Attributes that differ within a study; the values are not repeated."""
    studies: defaultdict[str, list[Checked]] = defaultdict(list)
    for one in checked:
        studies[str(one.header.get("StudyInstanceUID", ""))].append(one)
    for group in studies.values():
        for keyword in IDENTITY:
            first = str(group[0].header.get(keyword) or "")
            for other in group[1:]:
                if str(other.header.get(keyword) or "") != first:
                    text = f"{keyword} differs from that of {group[0].file}"
                    yield Complaint(str(other.file), "error", "identity", text)


def _references(one: Checked, by_uid: dict[str, Checked], missing: Counter[str]) -> Iterator[Complaint]:
    for item in _items(one.header):
        uid = str(item.get("ReferencedSOPInstanceUID", ""))
        if not uid:
            continue
        target = by_uid.get(uid)
        if target is None:
            missing[uid] += 1
            continue
        stated, actual = str(item.get("ReferencedSOPClassUID", "")), str(target.header.get("SOPClassUID", ""))
        if stated and stated != actual:
            text = f"reference to {uid} as {UID(stated).name}, it is {UID(actual).name}"
            yield Complaint(str(one.file), "error", "reference", text)
        segments = {int(segment.SegmentNumber) for segment in target.header.get("SegmentSequence") or []}
        for number in _numbers(item, "ReferencedSegmentNumber"):
            if number not in segments:
                yield Complaint(str(one.file), "error", "reference", f"segment {number} of {uid} does not exist")
        frames = int(target.header.get("NumberOfFrames") or 1)
        for number in _numbers(item, "ReferencedFrameNumber"):
            if not 1 <= number <= frames:
                yield Complaint(str(one.file), "error", "reference", f"frame {number} of {uid} does not exist, it has {frames}")


def _numbers(item: Dataset, keyword: str) -> list[int]:
    value = item.get(keyword)
    if value is None or value == "":
        return []
    return [int(one) for one in value] if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [int(value)]


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _places(one: Checked, by_uid: dict[str, Checked]) -> Iterator[Complaint]:
    """Frames and images that lie elsewhere than the source image they name, or in another frame of reference."""
    for number, place, sources in _derived_planes(one.header):
        for item in sources:
            target = by_uid.get(str(item.get("ReferencedSOPInstanceUID", "")))
            numbers = _numbers(item, "ReferencedFrameNumber")
            source = None if target is None else _plane(target.header, numbers[0] if numbers else None)
            if target is None or source is None:
                continue
            named = f"frame {number}" if number else "the image"
            if one.header.get("FrameOfReferenceUID") != target.header.get("FrameOfReferenceUID"):
                yield Complaint(str(one.file), "error", "geometry", f"{named} and its source differ in frame of reference")
                continue
            off = abs(float((place - source[0]) @ source[1]))
            if off > LIMIT_MM:
                text = f"{named} lies {off:.2f} mm from the plane of the image it names, at most {LIMIT_MM} mm is expected"
                yield Complaint(str(one.file), "error", "geometry", text)


def _derived_planes(header: Dataset) -> Iterator[tuple[int, NDArray[np.float64], Sequence[Dataset]]]:
    """Frame number (0: single image), position and source images of each plane that names its sources."""
    if "ImagePositionPatient" in header and header.get("SourceImageSequence"):
        yield 0, np.array(header.ImagePositionPatient, dtype=np.float64), header.SourceImageSequence
    for number, frame in enumerate(header.get("PerFrameFunctionalGroupsSequence") or [], start=1):
        derivations = frame.get("DerivationImageSequence") or []
        sources = [item for derivation in derivations for item in derivation.get("SourceImageSequence") or []]
        plane = _plane(header, number)
        if sources and plane is not None:
            yield number, plane[0], sources


def _plane(header: Dataset, frame: int | None) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Position and normal of the image or of one of its frames; None where it does not say."""
    place, direction = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if frame is not None:
        frames = header.get("PerFrameFunctionalGroupsSequence") or []
        shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        own = frames[frame - 1] if 1 <= frame <= len(frames) else Dataset()
        place = _in_group("PlanePositionSequence", "ImagePositionPatient", own, shared)
        direction = _in_group("PlaneOrientationSequence", "ImageOrientationPatient", own, shared)
    if not place or not direction:
        return None
    along_row, along_column = np.split(np.array(direction, dtype=np.float64), 2)
    return np.array(place, dtype=np.float64), np.cross(along_row, along_column)


def _in_group(group: str, keyword: str, *places: Dataset) -> Sequence[float] | None:
    for place in places:
        if place.get(group):
            value: Sequence[float] | None = place[group].value[0].get(keyword)
            return value
    return None
