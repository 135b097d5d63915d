"""Audit rows for people and programs: a table on a terminal, JSON, and CSV; and the record that somebody
asked.

What strangers sent (AE titles, accession numbers) stands in these rows, so a spreadsheet must not run it as
a formula and a terminal must not obey it: leading formula signs get an apostrophe, control characters are
replaced.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import events
from storage.audit_search import AuditFilter, AuditRow
from storage.events import EventKind
from storage.models import JsonObject, Study

COLUMNS = (
    "id", "at", "kind", "outcome", "accession_number", "study_instance_uid", "patient_id", "peer", "address",
    "user", "model", "model_digest", "job_id", "detail",
)  # fmt: skip
_FORMULA_SIGNS = frozenset("=+-@＝＋－＠\t\r\n")
_STYLES = {"success": "green", "minor failure": "yellow", "serious failure": "red"}


def row_json(row: AuditRow) -> JsonObject:
    """The row as a JSON object; the time as ISO 8601 in UTC."""
    values = {name: getattr(row, name) for name in COLUMNS}
    return {**values, "at": row.at.isoformat()}


def json_lines(rows: Iterable[AuditRow]) -> Iterator[str]:
    """One JSON array in pieces, one row a line; streams."""
    separator = "[\n"
    for row in rows:
        yield separator + json.dumps(row_json(row), ensure_ascii=False)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def csv_lines(rows: Iterable[AuditRow]) -> Iterator[str]:
    """CSV (RFC 4180) with a header line, every field quoted; streams."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        yield _taken(buffer)
        values = row_json(row)
        values["detail"] = json.dumps(row.detail, ensure_ascii=False) if row.detail else ""
        writer.writerow([_cell(values[name]) for name in COLUMNS])
    yield _taken(buffer)


def audit_table(rows: Sequence[AuditRow], total: int) -> Table:
    """The rows as a table for a terminal; its caption says how many there are in all."""
    table = Table(caption=f"{len(rows)} of {total} events, times in UTC", caption_justify="left")
    for heading in ("at", "event", "accession", "study", "patient", "peer or user", "model", "job", "detail"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "at")
    for row in rows:
        table.add_row(
            row.at.strftime("%Y-%m-%d %H:%M:%S"),
            Text(printable(row.kind), style=_STYLES.get(row.outcome, "")),
            Text(printable(row.accession_number or "")),
            Text(printable(row.study_instance_uid or "")),
            Text(printable(row.patient_id or "")),
            Text(printable(" ".join(part for part in (row.peer, row.user, row.address) if part))),
            Text(printable(row.model or "")),
            "" if row.job_id is None else str(row.job_id),
            Text(printable(json.dumps(row.detail, ensure_ascii=False)) if row.detail else ""),
        )
    return table


def record_query(
    session: Session,
    chosen: AuditFilter,
    *,
    matches: int,
    user: str,
    at: datetime,
    address: str | None = None,
    export: str | None = None,
) -> None:
    """Append that somebody searched the audit, or took a copy of it (`export`: `csv`, `json`)."""
    study = None
    if chosen.study_instance_uid:
        study = session.scalar(select(Study).where(Study.study_instance_uid == chosen.study_instance_uid))
    detail: JsonObject = {"filter": chosen.as_json(), "matches": matches}
    if export is not None:
        detail["format"] = export
    kind = EventKind.AUDIT_QUERIED if export is None else EventKind.AUDIT_EXPORTED
    events.append(session, kind, at=at, study=study, user=user, address=address, detail=detail)


def printable(text: str) -> str:
    """The text with control characters replaced, so that a terminal shows and does not obey them."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "'" + text if text.lstrip(" ")[:1] in _FORMULA_SIGNS and text.strip(" ") else text


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
