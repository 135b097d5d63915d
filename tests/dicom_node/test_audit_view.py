"""Audit rows as table, JSON and CSV, and the record that somebody asked."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dicom_node import audit_view
from storage.audit_search import AuditFilter, AuditRow, search_audit
from storage.database import Database
from tests.storage.rows import at, received, take

ROW = AuditRow(
    id=1,
    at=at(),
    kind="job ended",
    outcome="success",
    study_instance_uid="1.2.3",
    patient_id="P1",
    accession_number="A1",
    peer=None,
    address=None,
    user=None,
    model="brain 1",
    model_digest="ab" * 32,
    job_id=4,
    detail={"outcome": "findings", "seconds": 1.5},
)


def read_back(rows: list[AuditRow]) -> list[dict[str, str]]:
    """The CSV as a spreadsheet reads it."""
    return list(csv.DictReader(io.StringIO("".join(audit_view.csv_lines(rows)), newline="")))


@pytest.mark.feature("A1")
def test_json_and_csv_say_the_same() -> None:
    rows = [ROW, replace(ROW, id=2, accession_number="Ä;\"',\n7", job_id=None, detail={})]

    parsed = json.loads("".join(audit_view.json_lines(rows)))
    table = read_back(rows)

    assert [row["id"] for row in parsed] == [1, 2]
    assert parsed[0]["at"] == "2026-03-01T12:00:00+00:00"
    assert parsed[0]["detail"] == {"outcome": "findings", "seconds": 1.5}
    assert [row["accession_number"] for row in table] == ["A1", "Ä;\"',\n7"]
    assert json.loads(table[0]["detail"]) == parsed[0]["detail"]
    assert table[1]["job_id"] == ""
    assert tuple(table[0]) == audit_view.COLUMNS


def test_no_rows_are_valid_json_and_a_csv_header() -> None:
    assert json.loads("".join(audit_view.json_lines([]))) == []
    assert read_back([]) == []
    assert "".join(audit_view.csv_lines([])).startswith('"id","at","kind"')


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =cmd|' /C calc'!A0", "＝1+1"])
def test_a_cell_never_starts_a_formula(text: str) -> None:
    cell = read_back([replace(ROW, peer=text)])[0]["peer"]

    assert cell == "'" + text


@pytest.mark.parametrize("text", ["", "PACS", "A-1=2", " ", "1.2.3"])
def test_an_ordinary_cell_stays_as_it_is(text: str) -> None:
    assert read_back([replace(ROW, peer=text)])[0]["peer"] == text


def test_the_table_shows_and_does_not_obey_what_strangers_sent() -> None:
    stream = io.StringIO()
    row = replace(ROW, peer="\x1b[2J[bold]X[/bold]", detail={"reason": "[red]no[/red]"})

    Console(file=stream, width=250, force_terminal=True).print(audit_view.audit_table([row], 17))

    text = stream.getvalue()
    assert "\x1b[2J" not in text
    assert "[bold]X[/bold]" in text
    assert "[red]no[/red]" in text
    assert "1 of 17 events" in text


@pytest.mark.feature("A1")
def test_a_query_is_itself_an_event_of_the_study_it_asked_for(sqlite_database: Database) -> None:
    take(sqlite_database, received("1.2.3"))
    chosen = AuditFilter(study_instance_uid="1.2.3", kind="job ended")

    with sqlite_database.write() as session:
        audit_view.record_query(session, chosen, matches=3, user="alice", at=at(5))
        audit_view.record_query(session, AuditFilter(), matches=9, user="bob", at=at(6), export="csv")

    with sqlite_database.read() as session:
        rows = search_audit(session, AuditFilter()).rows
    exported, queried = rows[:2]
    assert (queried.kind, queried.user, queried.accession_number) == ("audit queried", "alice", "A1")
    assert queried.detail == {
        "filter": {"study_instance_uid": "1.2.3", "kind": "job ended"},
        "matches": 3,
    }
    assert (exported.kind, exported.user) == ("audit exported", "bob")
    assert exported.detail == {"filter": {}, "matches": 9, "format": "csv"}
