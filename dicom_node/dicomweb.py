"""Sending over STOW-RS, and asking over QIDO-RS and WADO-RS whether it arrived (PS3.18 10.5, 10.6, 10.4).

One request for each instance, the file's bytes as they are, so that each has its own answer; no redirect is followed, and every
answer is read to a limit. (`dicomweb-client` re-encodes data sets, repeats requests by itself, follows redirects with the
credentials and reads answers of any length into memory.)
"""

from __future__ import annotations

import json
import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any

import httpx

from dicom_node.arrival import Finding, Sought, Verdict, judged, word
from dicom_node.scu import Meaning, Outgoing, SendError, Sent, meaning
from dicom_node.settings import Destination
from dicom_node.tls import CallingContext, TlsFilesError

DICOM, DICOM_JSON = "application/dicom", "application/dicom+json"
ANSWER_BYTES = 1024 * 1024
"""A STOW-RS answer on one instance has about a kilobyte; a QIDO-RS one two."""
_PIECE_BYTES = 256 * 1024
_REFERENCED, _FAILED = "00081199", "00081198"
_CLASS, _INSTANCE, _FAILURE_REASON, _WARNING_REASON = "00081150", "00081155", "00081197", "00081196"

HTTP_MEANINGS: dict[int, tuple[Meaning, str]] = {
    200: (Meaning.STORED, "stored"),
    202: (Meaning.STORED_WITH_WARNING, "accepted with a remark"),
    400: (Meaning.REFUSED, "bad request"),
    401: (Meaning.TRY_AGAIN, "credentials not accepted"),  # a person mends it; nothing of ours is wrong
    403: (Meaning.TRY_AGAIN, "not permitted"),
    404: (Meaning.TRY_AGAIN, "no such service"),
    405: (Meaning.REFUSED, "storing is not supported"),
    406: (Meaning.REFUSED, "no acceptable answer format"),
    408: (Meaning.TRY_AGAIN, "request timed out"),
    409: (Meaning.REFUSED, "conflict"),  # PS3.18 table 10.5.3-1: every instance failed, each with its own reason
    410: (Meaning.REFUSED, "gone"),
    413: (Meaning.REFUSED, "payload too large"),
    415: (Meaning.REFUSED, "unsupported media type"),
    422: (Meaning.REFUSED, "content not processable"),
    425: (Meaning.TRY_AGAIN, "too early"),
    429: (Meaning.TRY_AGAIN, "too many requests"),
    500: (Meaning.TRY_AGAIN, "fault of the server"),
    501: (Meaning.REFUSED, "not implemented"),
    502: (Meaning.TRY_AGAIN, "bad gateway"),
    503: (Meaning.TRY_AGAIN, "busy"),
    504: (Meaning.TRY_AGAIN, "gateway timed out"),
    507: (Meaning.TRY_AGAIN, "out of storage"),
}


def http_meaning(status: int) -> tuple[Meaning, str]:
    """What an HTTP status of a STOW-RS request means where the body says nothing of the instance."""
    if status in HTTP_MEANINGS:
        return HTTP_MEANINGS[status]
    if 200 <= status < 300:
        return Meaning.TRY_AGAIN, "success without a word on the instance"
    if 300 <= status < 400:
        return Meaning.TRY_AGAIN, "a redirect, which is not followed"
    if 400 <= status < 500:
        return Meaning.REFUSED, "refused"
    return Meaning.TRY_AGAIN, "unknown status"


class TooLong(Exception):
    """Raised when an answer is longer than anything that could be meant."""


class WrongCredentials(Exception):
    """Raised when the file with the credentials cannot be used; the message does not quote it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole within its limit."""

    status: int
    content_type: str
    body: bytes


# ------------------------------------------------------------------------------------------------- sending


def send(
    destination: Destination,
    calling_ae_title: str,  # noqa: ARG001  # STOW-RS has no calling AE title; the signature is that of `scu.send`
    items: Sequence[Outgoing],
    on_each: Callable[[Sent], None],
) -> SendError | None:
    """Send every item, telling `on_each` right after each answer; None once the destination has them all. As `scu.send`."""
    outcome: list[SendError] = []
    try:
        with _client(destination) as client:
            for item in items:
                sent = _store(client, destination, item)
                on_each(sent)
                if not sent.stored:
                    outcome.append(_error(sent))
    except (httpx.HTTPError, ssl.SSLError, WrongCredentials, TooLong) as error:
        return _lost(destination, error)
    return next((error for error in outcome if not error.permanent), next(iter(outcome), None))


def probe(destination: Destination) -> SendError | None:
    """None where the service answers a QIDO-RS query at all."""
    try:
        with _client(destination) as client:
            answer = _get(client, f"{destination.url}/studies?limit=1", DICOM_JSON, ANSWER_BYTES)
    except TooLong:
        return None
    except (httpx.HTTPError, ssl.SSLError, WrongCredentials) as error:
        return _lost(destination, error)
    if answer.status >= 500:
        return SendError("busy", f"{destination.url} answered {answer.status}", permanent=False)
    return None


def _store(client: httpx.Client, destination: Destination, item: Outgoing) -> Sent:
    def sent(status: str, what: Meaning, detail: str) -> Sent:
        return Sent(item.sop_class_uid, item.sop_instance_uid, status, what, detail)

    try:
        size = item.path.stat().st_size
        with item.path.open("rb") as file:
            boundary = f"fovea-{uuid.uuid4().hex}"
            head = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode("ascii")
            tail = f"\r\n--{boundary}--\r\n".encode("ascii")
            headers = {
                "Content-Type": f'multipart/related; type="{DICOM}"; boundary={boundary}',
                "Content-Length": str(len(head) + size + len(tail)),
                "Accept": DICOM_JSON,
            }
            body = _pieces(head, file, tail)
            answer = _asked(client, "POST", f"{destination.url}/studies", headers, ANSWER_BYTES, body)
    except OSError as error:
        return sent("", Meaning.REFUSED, f"file cannot be read: {error.strerror}")
    return sent(*_judge(answer, item.sop_instance_uid))


def _pieces(head: bytes, file: Any, tail: bytes) -> Iterator[bytes]:
    yield head
    while piece := file.read(_PIECE_BYTES):
        yield piece
    yield tail


def _judge(answer: Answer, sop_instance_uid: str) -> tuple[str, Meaning, str]:
    """Status, meaning and a sentence for one instance: what the body says of it counts more than the HTTP status."""
    status = f"HTTP {answer.status}"
    body = _json_object(answer)
    for failed in _items(body, _FAILED):
        if _text(failed, _INSTANCE) == sop_instance_uid:
            reason = _number(failed, _FAILURE_REASON)
            what, text = (Meaning.REFUSED, "failed without a reason") if reason is None else meaning(reason)
            if what in (Meaning.STORED, Meaning.STORED_WITH_WARNING):  # a duplicate or a coercion is no failure
                return status, Meaning.STORED_WITH_WARNING, text
            return (status if reason is None else f"0x{reason:04X}"), what, text
    for stored in _items(body, _REFERENCED):
        if _text(stored, _INSTANCE) == sop_instance_uid:
            warning = _number(stored, _WARNING_REASON)
            if warning:
                return f"0x{warning:04X}", Meaning.STORED_WITH_WARNING, meaning(warning)[1]
            return status, Meaning.STORED, ""
    what, text = http_meaning(answer.status)
    if what in (Meaning.STORED, Meaning.STORED_WITH_WARNING):  # success must name the instance (PS3.18 10.5.3)
        return status, Meaning.TRY_AGAIN, "success without a word on the instance"
    return status, what, text


def _error(sent: Sent) -> SendError:
    text = f"instance {sent.sop_instance_uid}: {sent.status or 'not sent'}, {sent.detail}"
    is_permanent = sent.meaning is Meaning.REFUSED
    return SendError("refused" if is_permanent else "busy", text, is_permanent)


def _lost(destination: Destination, error: Exception) -> SendError:
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return SendError("no-answer", f"{destination.url} did not answer in time", permanent=False)
    if isinstance(error, WrongCredentials):
        return SendError("credentials", str(error), permanent=False)
    if isinstance(error, TooLong):
        return SendError("answer-too-long", f"{destination.url}: {error}", permanent=False)
    return SendError("connection-failed", f"no answer from {destination.url}: {type(error).__name__}", permanent=False)


# ------------------------------------------------------------------------------------------------- asking


def find(destination: Destination, items: Sequence[Sought]) -> list[Finding]:
    """What the archive holds of each item: searched over QIDO-RS, retrieved over WADO-RS and compared with our file."""
    found: list[Finding] = []
    try:
        with _client(destination) as client:
            for item in items:
                found.append(_find_one(client, destination, item))  # noqa: PERF401  # what was found before a fault counts
    except (httpx.HTTPError, ssl.SSLError, WrongCredentials) as error:
        text = _lost(destination, error).text
        found += [Finding(item, Verdict.UNKNOWN, text) for item in items[len(found) :]]
    return found


def _find_one(client: httpx.Client, destination: Destination, item: Sought) -> Finding:
    study = f"{destination.url}/studies/{item.study_instance_uid}"
    try:
        listed = _get(client, f"{study}/instances?SOPInstanceUID={item.sop_instance_uid}", DICOM_JSON, ANSWER_BYTES)
        absent = _absent(item, listed)
        if absent is not None:
            return absent
        path = f"{study}/series/{item.series_instance_uid}/instances/{item.sop_instance_uid}"
        accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
        returned = _get(client, path, accept, item.size_limit())
    except TooLong as error:
        return Finding(item, Verdict.DIFFERENT, f"retrieved: {error}")
    except OSError:
        return Finding(item, Verdict.UNKNOWN, "our own file cannot be read")
    if returned.status != 200:
        return Finding(item, Verdict.UNKNOWN, f"found by query, but WADO-RS answered HTTP {returned.status}")
    part = _only_part(returned)
    if part is None:
        return Finding(item, Verdict.UNKNOWN, f"WADO-RS answered with {word(returned.content_type, 60) or 'no content type'}")
    return judged(item, part)


def _absent(item: Sought, listed: Answer) -> Finding | None:
    """The verdict where QIDO-RS does not list the instance as ours; None where it does."""
    if listed.status in (204, 404):
        return Finding(item, Verdict.MISSING, f"QIDO-RS answered HTTP {listed.status}")
    if listed.status in (405, 501):
        return Finding(item, Verdict.UNPROVABLE, f"QIDO-RS answered HTTP {listed.status}")
    if listed.status != 200:
        return Finding(item, Verdict.UNKNOWN, f"QIDO-RS answered HTTP {listed.status}")
    try:
        rows = json.loads(listed.body)
    except ValueError:
        return Finding(item, Verdict.UNKNOWN, "QIDO-RS did not answer with JSON")
    matching = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    matching = [row for row in matching if _text(row, "00080018") == item.sop_instance_uid]
    if not matching:
        return Finding(item, Verdict.MISSING, "QIDO-RS does not list it")
    wanted = {"00080016": item.sop_class_uid, "0020000D": item.study_instance_uid, "0020000E": item.series_instance_uid}
    for tag, value in wanted.items():
        listed_value = _text(matching[0], tag)
        if listed_value and listed_value != value:
            return Finding(item, Verdict.DIFFERENT, f"QIDO-RS lists it with another value of {tag}")
    return None


# ------------------------------------------------------------------------------------------------- the wire


@contextmanager
def _client(destination: Destination) -> Iterator[httpx.Client]:
    headers, auth = _credentials(destination)
    verify: ssl.SSLContext | bool = True
    if destination.ca_file is not None or destination.certificate_file is not None:
        try:
            verify = CallingContext.for_destination(destination)
        except TlsFilesError as error:
            raise WrongCredentials(str(error)) from error
    with httpx.Client(
        headers=headers, auth=auth, verify=verify, timeout=destination.timeout_s, follow_redirects=False, trust_env=False
    ) as client:
        yield client


def _credentials(destination: Destination) -> tuple[dict[str, str], httpx.BasicAuth | None]:
    """Headers and authentication, read anew each time, so that a changed token needs no restart."""
    path = destination.token_file or destination.password_file
    if path is None:
        return {}, None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongCredentials(f"{path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    if path is destination.token_file:
        if not secret.isascii() or not secret.isprintable() or not secret:
            raise WrongCredentials(f"{path}: holds no token")
        return {"Authorization": f"Bearer {secret}"}, None
    user, colon, password = secret.partition(":")
    if not colon:
        raise WrongCredentials(f"{path}: is not user:password")
    return {}, httpx.BasicAuth(user, password)


def _get(client: httpx.Client, url: str, accept: str, limit: int) -> Answer:
    return _asked(client, "GET", url, {"Accept": accept}, limit, None)


def _asked(
    client: httpx.Client, method: str, url: str, headers: dict[str, str], limit: int, body: Iterator[bytes] | None
) -> Answer:
    """The answer, of at most `limit` bytes. Raises httpx.HTTPError, TooLong."""
    sent = {**headers, "Accept-Encoding": "identity"}  # nothing to inflate
    with client.stream(method, url, headers=sent, content=body) as response:
        received = bytearray()
        for piece in response.iter_raw(_PIECE_BYTES):
            received += piece
            if len(received) > limit:
                raise TooLong(f"an answer of more than {limit} bytes")
        return Answer(response.status_code, response.headers.get("Content-Type", ""), bytes(received))


def _only_part(answer: Answer) -> bytes | None:
    """The body of a multipart/related answer's first part (RFC 2387); None where it is none."""
    header = Message()
    header["Content-Type"] = answer.content_type
    if header.get_content_type() == DICOM:
        return answer.body
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        return None
    mark = f"--{boundary}".encode("ascii", "replace")
    start = answer.body.find(mark)
    head_end = answer.body.find(b"\r\n\r\n", start)
    end = answer.body.rfind(b"\r\n" + mark)
    if start < 0 or head_end < 0 or end < head_end:
        return None
    return answer.body[head_end + 4 : end]


def _json_object(answer: Answer) -> dict[str, Any]:
    try:
        parsed = json.loads(answer.body)
    except ValueError:
        return {}
    if isinstance(parsed, list) and len(parsed) == 1:
        parsed = parsed[0]
    return parsed if isinstance(parsed, dict) else {}


def _items(body: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return [one for one in _values(body, tag) if isinstance(one, dict)]


def _values(body: dict[str, Any], tag: str) -> list[Any]:
    element = body.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _text(body: dict[str, Any], tag: str) -> str:
    values = _values(body, tag)
    return str(values[0]) if values else ""


def _number(body: dict[str, Any], tag: str) -> int | None:
    values = _values(body, tag)
    return values[0] if values and isinstance(values[0], int) else None
