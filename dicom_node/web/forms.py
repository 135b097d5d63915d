"""What a reader typed into a form or an address line, parsed into the filters of `storage`.

Every value is bounded and cleaned here; what cannot be understood is answered with a sentence, never guessed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from starlette.datastructures import QueryParams

from storage.audit_search import AuditFilter
from storage.events import storable
from storage.read_models import Standing, StudyFilter

LONGEST_VALUE = 200
_LAST_PAGE = 1_000_000
_LAST_ID = 2**62


class FormError(Exception):
    """Raised when a field cannot be understood; the message names the field."""


def study_filter(query: QueryParams) -> StudyFilter:
    """The filter of the study list: `q`, `standing`, `since`, `until`."""
    standing = text(query, "standing")
    try:
        chosen = Standing(standing) if standing else None
    except ValueError:
        raise FormError(f"standing: expected one of {', '.join(Standing)}") from None
    return StudyFilter(text(query, "q"), chosen, moment(query, "since"), moment(query, "until", end=True))


def audit_filter(query: QueryParams) -> AuditFilter:
    """The filter of the audit search; fields carry the names of `AuditFilter`."""
    return AuditFilter(
        accession_number=text(query, "accession_number"),
        study_instance_uid=text(query, "study_instance_uid"),
        patient_id=text(query, "patient_id"),
        peer=text(query, "peer"),
        model=text(query, "model"),
        user=text(query, "user"),
        kind=text(query, "kind"),
        job_id=number(query, "job_id"),
        since=moment(query, "since"),
        until=moment(query, "until", end=True),
    )


def page_number(query: QueryParams) -> int:
    """The page asked for, 1 where none is."""
    return min(number(query, "page") or 1, _LAST_PAGE)


def text(query: QueryParams, name: str) -> str:
    """One field without blanks around it."""
    value = storable(query.get(name, "")).strip()
    if len(value) > LONGEST_VALUE:
        raise FormError(f"{name}: longer than {LONGEST_VALUE} characters")
    return value


def number(query: QueryParams, name: str) -> int | None:
    """One positive whole number, or None where the field is empty."""
    value = text(query, name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or not 1 <= int(value) <= _LAST_ID:
        raise FormError(f"{name}: expected a positive whole number")
    return int(value)


def moment(query: QueryParams, name: str, *, end: bool = False) -> datetime | None:
    """One day or time, UTC where it states no zone; with `end`, a day counts to its end."""
    value = text(query, name)
    if not value:
        return None
    try:
        parsed = datetime.fromisoformat(value)
        whole_day = len(value) == len("2026-01-31")
        parsed = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        return parsed + timedelta(days=1) if end and whole_day else parsed
    except (ValueError, OverflowError):
        raise FormError(f"{name}: expected a day or time such as 2026-01-31 or 2026-01-31T08:00") from None
