"""Sending: C-STORE of files to one destination over one association, each instance with its own status, and C-ECHO.

What a status means for the sender follows PS3.4 table B.2-1 and PS3.7 annex C: stored, stored with a warning, worth another try,
or refused for good. Files go out byte for byte; only a destination that takes nothing but Implicit VR Little Endian gets an
uncompressed file re-encoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import _config as pynetdicom_config
from pynetdicom import build_context

from dicom_node.ae import VERIFICATION
from dicom_node.calling import NotSecured, associate
from dicom_node.settings import Destination

MAXIMUM_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2: odd numbers from 1 to 255)."""


class Outgoing(Protocol):
    """One file to send; the UIDs are those in it."""

    @property
    def path(self) -> Path: ...
    @property
    def sop_class_uid(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...


@dataclass(frozen=True, slots=True)
class FileToSend:
    """An `Outgoing` of a file anywhere."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str


class Meaning(StrEnum):
    """What a C-STORE answer means for the sender."""

    STORED = "stored"
    STORED_WITH_WARNING = "stored with warning"
    TRY_AGAIN = "try again"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Sent:
    """The destination's answer for one instance."""

    sop_class_uid: str
    sop_instance_uid: str
    status: str
    """`0xNNNN`; empty where there was no answer because no presentation context was accepted."""
    meaning: Meaning
    detail: str
    """The destination's Error Comment, or what the status means; empty for a plain success."""

    @property
    def stored(self) -> bool:
        """True where the destination has it now."""
        return self.meaning in (Meaning.STORED, Meaning.STORED_WITH_WARNING)


@dataclass(frozen=True, slots=True)
class SendError:
    """Why not everything is at the destination."""

    code: str
    """`connection-failed`, `tls-failed`, `association-rejected`, `association-aborted`, `no-answer`, `busy`, `refused`,
    `unreadable-file`."""
    text: str
    permanent: bool
    """True where trying again cannot help."""


# PS3.7 annex C and PS3.4 table B.2-1. A duplicate (0x0111) is what we sent before: result UIDs are made from their content.
_MEANINGS: dict[int, tuple[Meaning, str]] = {
    0x0000: (Meaning.STORED, ""),
    0x0001: (Meaning.STORED_WITH_WARNING, "requested optional attributes are not supported"),
    0x0107: (Meaning.STORED_WITH_WARNING, "attribute list warning"),
    0x0111: (Meaning.STORED_WITH_WARNING, "duplicate SOP instance: it is there already"),
    0x0116: (Meaning.STORED_WITH_WARNING, "attribute value out of range"),
    0x0106: (Meaning.REFUSED, "invalid attribute value"),
    0x0115: (Meaning.REFUSED, "invalid argument value"),
    0x0117: (Meaning.REFUSED, "invalid SOP instance"),
    0x0119: (Meaning.REFUSED, "class-instance conflict"),
    0x0120: (Meaning.REFUSED, "missing attribute"),
    0x0121: (Meaning.REFUSED, "missing attribute value"),
    0x0122: (Meaning.REFUSED, "SOP class not supported"),
    0x0211: (Meaning.REFUSED, "unrecognized operation"),
    0x0212: (Meaning.REFUSED, "mistyped argument"),
    0x0110: (Meaning.TRY_AGAIN, "processing failure"),
    0x0124: (Meaning.TRY_AGAIN, "not authorized"),
    0x0210: (Meaning.TRY_AGAIN, "duplicate invocation"),
    0x0213: (Meaning.TRY_AGAIN, "resource limitation"),
}
_RANGES: tuple[tuple[range, Meaning, str], ...] = (
    (range(0xA700, 0xA800), Meaning.TRY_AGAIN, "out of resources"),
    (range(0xA800, 0xA900), Meaning.REFUSED, "SOP class not supported"),
    (range(0xA900, 0xAA00), Meaning.REFUSED, "data set does not match SOP class"),
    (range(0xB000, 0xC000), Meaning.STORED_WITH_WARNING, "stored with a warning"),
    (range(0xC000, 0xD000), Meaning.REFUSED, "cannot understand"),
)


def meaning(status: int) -> tuple[Meaning, str]:
    """What a C-STORE status means, with a word for it. A status that no table has is worth another try."""
    if status in _MEANINGS:
        return _MEANINGS[status]
    for numbers, what, text in _RANGES:
        if status in numbers:
            return what, text
    return Meaning.TRY_AGAIN, "unknown status"


def outgoing(paths: Iterable[Path]) -> tuple[list[FileToSend], list[tuple[Path, str]]]:
    """The DICOM files among the paths, and the others with the reason why they cannot be sent."""
    items: list[FileToSend] = []
    unreadable: list[tuple[Path, str]] = []
    for path in paths:
        try:
            meta = read_file_meta_info(path)
            items.append(FileToSend(path, str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)))
        except (InvalidDicomError, AttributeError, EOFError, ValueError):
            unreadable.append((path, "no DICOM file"))
        except OSError as error:
            unreadable.append((path, error.strerror or "cannot be read"))
    return items, unreadable


def echo(destination: Destination, calling_ae_title: str) -> SendError | None:
    """None where the destination answers a C-ECHO with success."""
    try:
        association = _associate(destination, calling_ae_title, [(str(VERIFICATION), str(ImplicitVRLittleEndian))])
    except NotSecured as failure:
        return not_secured(failure)
    error = association_error(association, destination)
    if error is not None:
        return error
    if not association.accepted_contexts:
        return SendError("refused", f"{_name(destination)} does not accept C-ECHO", permanent=True)
    began = time.monotonic()
    status = association.send_c_echo()
    end_association(association)
    if "Status" not in status:
        return _no_answer(destination, time.monotonic() - began)
    if status.Status != 0x0000:
        return SendError("busy", f"{_name(destination)} answered C-ECHO with 0x{status.Status:04X}", permanent=False)
    return None


def send(
    destination: Destination,
    calling_ae_title: str,
    items: Sequence[Outgoing],
    on_each: Callable[[Sent], None],
) -> SendError | None:
    """Send every item, telling `on_each` right after each answer; None once the destination has them all.

    An instance refused for good does not keep the others from being sent. What may get better (no connection, abort, no answer,
    0xA7xx) comes first in the result, so that the sender tries again before it gives up.
    """
    outcome: list[SendError] = []
    for batch in _batches(items, outcome):
        lost = _send_batch(destination, calling_ae_title, batch, on_each, outcome)
        if lost is not None:
            return lost
    return next((error for error in outcome if not error.permanent), next(iter(outcome), None))


@dataclass(frozen=True, slots=True)
class _Ready:
    item: Outgoing
    transfer_syntax_uid: str

    def pairs(self) -> list[tuple[str, str]]:
        """The context with the file's own syntax, and for uncompressed ones the default syntax (PS3.5 10.1)."""
        own = (self.item.sop_class_uid, self.transfer_syntax_uid)
        if _is_plain(self.transfer_syntax_uid) and self.transfer_syntax_uid != ImplicitVRLittleEndian:
            return [own, (self.item.sop_class_uid, str(ImplicitVRLittleEndian))]
        return [own]


def _is_plain(transfer_syntax_uid: str) -> bool:
    uid = UID(transfer_syntax_uid)
    return uid.is_transfer_syntax and not uid.is_compressed


def _batches(items: Sequence[Outgoing], outcome: list[SendError]) -> list[list[_Ready]]:
    """The items in groups that need at most MAXIMUM_CONTEXTS presentation contexts; unreadable files go to `outcome`."""
    batches: list[list[_Ready]] = []
    pairs: set[tuple[str, str]] = set()
    for item in items:
        try:
            ready = _Ready(item, str(read_file_meta_info(item.path).TransferSyntaxUID))
        except (OSError, InvalidDicomError, AttributeError, EOFError, ValueError):
            text = f"file of instance {item.sop_instance_uid} cannot be read"
            outcome.append(SendError("unreadable-file", text, permanent=True))
            continue
        if not batches or len(pairs.union(ready.pairs())) > MAXIMUM_CONTEXTS:
            batches.append([])
            pairs = set()
        pairs.update(ready.pairs())
        batches[-1].append(ready)
    return batches


def _send_batch(
    destination: Destination,
    calling_ae_title: str,
    batch: list[_Ready],
    on_each: Callable[[Sent], None],
    outcome: list[SendError],
) -> SendError | None:
    """Send over one association; the error where the association itself failed, everything else goes to `outcome`."""
    pairs = list(dict.fromkeys(pair for ready in batch for pair in ready.pairs()))
    try:
        association = _associate(destination, calling_ae_title, pairs)
    except NotSecured as failure:
        return not_secured(failure)
    lost = association_error(association, destination)
    if lost is not None:
        return lost
    try:
        accepted = {(str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts}
        for ready in batch:
            began = time.monotonic()
            sent = _send_one(association, ready, accepted)
            if sent is None:
                return _no_answer(destination, time.monotonic() - began)
            on_each(sent)
            if not sent.stored:
                outcome.append(_error(sent))
    finally:
        end_association(association)
    return None


def _send_one(association: Any, ready: _Ready, accepted: set[tuple[str, str]]) -> Sent | None:
    """The answer for one instance; None where there was none."""
    item = ready.item
    usable = next((pair for pair in ready.pairs() if pair in accepted), None)
    if usable is None:
        detail = "the destination accepted no presentation context for this SOP class and transfer syntax"
        return Sent(item.sop_class_uid, item.sop_instance_uid, "", Meaning.REFUSED, detail)
    try:
        is_as_it_is = usable[1] == ready.transfer_syntax_uid
        status = association.send_c_store(item.path if is_as_it_is else dcmread(item.path))
    except (RuntimeError, OSError):  # pynetdicom's word for an association that ended meanwhile
        return None
    if "Status" not in status:
        return None
    what, text = meaning(status.Status)
    detail = str(status.get("ErrorComment", "") or text)
    return Sent(item.sop_class_uid, item.sop_instance_uid, f"0x{status.Status:04X}", what, detail)


def _error(sent: Sent) -> SendError:
    status = sent.status or "no presentation context"
    text = f"instance {sent.sop_instance_uid}: {status}, {sent.detail}"
    is_permanent = sent.meaning is Meaning.REFUSED
    return SendError("refused" if is_permanent else "busy", text, is_permanent)


def _associate(destination: Destination, calling_ae_title: str, pairs: list[tuple[str, str]]) -> Any:
    pynetdicom_config.STORE_SEND_CHUNKED_DATASET = True  # files go out in pieces, as they are
    return associate(destination, calling_ae_title, [build_context(class_uid, syntax) for class_uid, syntax in pairs])


def not_secured(error: NotSecured) -> SendError:
    """A TLS connection that did not come about: a person mends certificates, then it goes on by itself."""
    return SendError("tls-failed", str(error), permanent=False)


def association_error(association: Any, destination: Destination) -> SendError | None:
    """Why there is no association; None where it stands, or where it only lacks an accepted presentation context."""
    if association.is_established:
        return None
    answer = association.acceptor.primitive
    if answer is None:
        return SendError("connection-failed", f"no DICOM answer from {_name(destination)}", permanent=False)
    if association.is_rejected:
        text = f"{_name(destination)} rejected the association: {answer.reason_str}"
        return SendError("association-rejected", text, permanent=False)
    if answer.result == 0 and not association.accepted_contexts:
        return None
    return SendError("association-aborted", f"{_name(destination)} aborted the association", permanent=False)


def _no_answer(destination: Destination, waited_s: float) -> SendError:
    if waited_s < destination.timeout_s:
        return SendError("association-aborted", f"association with {_name(destination)} was aborted", permanent=False)
    return SendError("no-answer", f"{_name(destination)} did not answer in time", permanent=False)


def end_association(association: Any) -> None:
    """Release it where it still stands."""
    if association.is_established:
        association.release()


def _name(destination: Destination) -> str:
    return f"{destination.ae_title} at {destination.host}:{destination.port}"
