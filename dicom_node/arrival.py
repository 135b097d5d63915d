"""What is looked for in an archive, and what was found: the words that C-FIND, C-GET, QIDO-RS and WADO-RS share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.content import COMPARED, differences

ROOM_BYTES = 1024 * 1024
"""What an archive may add to an object beyond twice its size: another encoding, its own attributes."""


@dataclass(frozen=True, slots=True)
class Sought:
    """One object that an archive has acknowledged, and our file of it."""

    result_id: int
    path: Path
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    def size_limit(self) -> int:
        """The largest answer that may still be this object, in bytes. Raises OSError."""
        return 2 * self.path.stat().st_size + ROOM_BYTES


class Verdict(StrEnum):
    """What the archive's answer says of one object."""

    PROVEN = "proven"
    MISSING = "missing"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """It could not be asked: worth another try."""
    UNPROVABLE = "unprovable"
    """It offers no service to ask it by."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one object, with what was compared or why there is none; no values of the patient in it."""

    sought: Sought
    verdict: Verdict
    detail: str


def judged(sought: Sought, returned: bytes) -> Finding:
    """Compare a file that the archive returned (Part 10 or a bare data set behind file meta) with ours."""
    try:
        ours = dcmread(sought.path)
    except (OSError, InvalidDicomError) as error:
        return Finding(sought, Verdict.UNKNOWN, f"our own file cannot be read: {type(error).__name__}")
    try:
        theirs = dcmread(BytesIO(returned), force=False)
        syntax = theirs.file_meta.TransferSyntaxUID
        if syntax == DeflatedExplicitVRLittleEndian and ours.file_meta.TransferSyntaxUID != syntax:
            return Finding(sought, Verdict.UNKNOWN, "the archive returned a deflated object, which is not inflated")
        return compared(sought, ours, theirs)
    except (InvalidDicomError, AttributeError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        return Finding(sought, Verdict.DIFFERENT, f"the archive returned no readable object: {type(error).__name__}")


def compared(sought: Sought, ours: Dataset, theirs: Dataset) -> Finding:
    """The verdict on a data set that the archive returned."""
    changed = differences(ours, theirs)
    if not changed:
        return Finding(sought, Verdict.PROVEN, f"retrieved and compared: {COMPARED}")
    named = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
    return Finding(sought, Verdict.DIFFERENT, f"the archive holds another content: {named} differ")


def word(text: str, limit: int = 200) -> str:
    """A peer's sentence, printable and short."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()[:limit]
