"""Asking an archive over DIMSE what it holds: C-FIND at the IMAGE level, and C-GET where it offers that (PS3.4 C.4.1, C.4.3).

With C-GET the content itself is compared; without it only what the archive lists of each object (SOP class, study, series, date
and time of the content), and the finding says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt

from dicom_node.arrival import Finding, Sought, Verdict, judged
from dicom_node.calling import ANSWERS_BYTES, NotSecured, associate
from dicom_node.scu import association_error, end_association
from dicom_node.settings import Destination

FIND, GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
LISTED = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "ContentDate", "ContentTime")
MAXIMUM_MATCHES = 10
"""A unique key matches one object; an archive that lists more than this does not understand the query."""
_PENDING = (0xFF00, 0xFF01)


def find(destination: Destination, calling_ae_title: str, items: Sequence[Sought]) -> list[Finding]:
    """What the archive holds of each item, asked one by one over one association."""
    returned: dict[str, bytes] = {}
    try:
        association = _associate(destination, calling_ae_title, items, returned)
    except (NotSecured, OSError) as failure:
        text = str(failure) if isinstance(failure, NotSecured) else "our own file cannot be read"
        return [Finding(item, Verdict.UNKNOWN, text) for item in items]
    error = association_error(association, destination)
    if error is not None:
        return [Finding(item, Verdict.UNKNOWN, error.text) for item in items]
    try:
        accepted = {str(one.abstract_syntax) for one in association.accepted_contexts}
        if FIND not in accepted:
            return [Finding(item, Verdict.UNPROVABLE, "the archive accepts no C-FIND (Study Root)") for item in items]
        return [_find_one(association, item, accepted, returned) for item in items]
    finally:
        end_association(association)


def _associate(destination: Destination, calling_ae_title: str, items: Sequence[Sought], returned: dict[str, bytes]) -> Any:
    """The association; all that may come back over it is what the objects sought may have. Raises NotSecured, OSError."""
    syntaxes = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]
    classes = sorted({item.sop_class_uid for item in items})
    return associate(
        destination,
        calling_ae_title,
        [build_context(uid, syntaxes) for uid in (FIND, GET, *classes)],
        roles=[build_role(uid, scp_role=True) for uid in classes],
        handlers=[(evt.EVT_C_STORE, _on_store, [returned])],
        answer_bytes=ANSWERS_BYTES + sum(item.size_limit() for item in items),
    )


def _on_store(event: Any, returned: dict[str, bytes]) -> int:
    """Keep what the archive sends back, where it is what was asked for."""
    uid = str(event.request.AffectedSOPInstanceUID)
    if uid not in returned:
        return 0xA900
    returned[uid] = event.encoded_dataset()
    return 0x0000


def _find_one(association: Any, item: Sought, accepted: set[str], returned: dict[str, bytes]) -> Finding:
    listed = _list(association, item)
    if isinstance(listed, Finding):
        return listed
    try:
        ours = dcmread(item.path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        return Finding(item, Verdict.UNKNOWN, f"our own file cannot be read: {type(error).__name__}")
    told = [keyword for keyword in LISTED if listed.get(keyword)]
    other = [keyword for keyword in told if not _same(ours.get(keyword), listed.get(keyword))]
    if other:
        return Finding(item, Verdict.DIFFERENT, f"C-FIND lists another {', '.join(other)}")
    if GET in accepted and item.sop_class_uid in accepted:
        content = _get(association, item, returned)
        if isinstance(content, Finding):
            return content
        if content is not None:
            return judged(item, content)
    return Finding(item, Verdict.PROVEN, f"listed by C-FIND and compared: {', '.join(told) or 'SOPInstanceUID only'}")


def _same(mine: Any, listed: Any) -> bool:
    """Equal up to trailing zeros of a time's fraction, which archives drop."""
    first, second = str(mine or "").strip(), str(listed).strip()
    if "." in first or "." in second:
        first, second = first.rstrip("0").rstrip("."), second.rstrip("0").rstrip(".")
    return first == second


def _list(association: Any, item: Sought) -> Dataset | Finding:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    for keyword in LISTED:
        setattr(query, keyword, "")
    query.StudyInstanceUID = item.study_instance_uid
    query.SeriesInstanceUID = item.series_instance_uid
    query.SOPInstanceUID = item.sop_instance_uid
    matches: list[Dataset] = []
    try:
        for status, identifier in association.send_c_find(query, FIND):
            if "Status" not in status:
                return Finding(item, Verdict.UNKNOWN, "no answer to C-FIND")
            if status.Status not in _PENDING:
                if status.Status != 0x0000:
                    return Finding(item, Verdict.UNKNOWN, f"C-FIND answered 0x{status.Status:04X}")
                break
            if identifier is not None and str(identifier.get("SOPInstanceUID", "")) == item.sop_instance_uid:
                matches.append(identifier)
            if len(matches) > MAXIMUM_MATCHES:
                association.abort()
                return Finding(item, Verdict.UNKNOWN, f"C-FIND listed one object more than {MAXIMUM_MATCHES} times")
    except (RuntimeError, ValueError):  # pynetdicom's words for an association that ended meanwhile
        return Finding(item, Verdict.UNKNOWN, "the association ended during C-FIND")
    return matches[0] if matches else Finding(item, Verdict.MISSING, "C-FIND does not list it")


def _get(association: Any, item: Sought, returned: dict[str, bytes]) -> bytes | Finding | None:
    """The object as a Part 10 file; None where the archive did not give it back, a finding where it broke off."""
    ended = Finding(item, Verdict.UNKNOWN, "the association ended during C-GET")
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = item.study_instance_uid
    query.SeriesInstanceUID = item.series_instance_uid
    query.SOPInstanceUID = item.sop_instance_uid
    returned[item.sop_instance_uid] = b""
    try:
        for status, _ in association.send_c_get(query, GET):
            if "Status" not in status:
                return ended
            if status.Status not in _PENDING:
                break
    except (RuntimeError, ValueError):
        return ended
    return returned.pop(item.sop_instance_uid) or None
