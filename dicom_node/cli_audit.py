"""`fovea audit`: search, export and verify what happened. Every question asked of the audit is itself an event."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from dicom_node.console import FAULT, AsJson, CommandError, Config, opened, print_json, user_name


def add_to(audit: typer.Typer) -> None:
    """Hang the commands onto `fovea audit`."""
    audit.callback()(search)
    audit.command()(verify)
    audit.command()(anchor)


def moment(text: str) -> datetime:
    """An ISO 8601 date or time; without zone it is the machine's local time. Raises CommandError."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is not an ISO 8601 date or time such as 2026-11-22 or 2026-11-22T14:30+01:00") from None
    return parsed.astimezone(UTC)


def search(
    context: typer.Context,
    accession: Annotated[str, typer.Option(help="accession number")] = "",
    study: Annotated[str, typer.Option(help="Study Instance UID")] = "",
    patient: Annotated[str, typer.Option(help="patient ID")] = "",
    peer: Annotated[str, typer.Option(help="AE title, destination or address of the other side")] = "",
    model: Annotated[str, typer.Option(help="model name, or 'name version', or the beginning of its digest")] = "",
    user: Annotated[str, typer.Option(help="who acted or asked")] = "",
    kind: Annotated[str, typer.Option(help="kind of event, e.g. 'delivery succeeded'")] = "",
    job: Annotated[int | None, typer.Option(help="number of a job")] = None,
    since: Annotated[str, typer.Option(help="from this date or time on (ISO 8601)")] = "",
    until: Annotated[str, typer.Option(help="before this date or time")] = "",
    limit: Annotated[int, typer.Option(min=1, help="newest events shown in the table; JSON and CSV give all")] = 200,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    config: Config = None,
) -> None:
    """What happened: all events that meet every condition given."""
    if context.invoked_subcommand is not None:
        return
    from dicom_node import audit_view
    from dicom_node.workflow import utc_now
    from storage.audit_search import AuditFilter, search_audit, stream_audit

    if as_json and as_csv:
        raise CommandError("--json and --csv exclude each other")
    chosen = AuditFilter(
        accession_number=accession, study_instance_uid=study, patient_id=patient, peer=peer, model=model, user=user,
        kind=kind, job_id=job, since=moment(since) if since else None, until=moment(until) if until else None,
    )  # fmt: skip
    with opened(config) as site:
        with site.database.read() as session:
            page = search_audit(session, chosen, limit=limit)
        export = "json" if as_json else "csv" if as_csv else None
        if export is None:
            rows = list(reversed(page.rows))
            Console(width=None if sys.stdout.isatty() else 220).print(audit_view.audit_table(rows, page.total))
        else:
            rows_of_all = stream_audit(site.database, chosen)
            for piece in audit_view.json_lines(rows_of_all) if as_json else audit_view.csv_lines(rows_of_all):
                sys.stdout.write(piece)
        with site.database.write() as session:
            audit_view.record_query(session, chosen, matches=page.total, user=user_name(), at=utc_now(), export=export)


def verify(config: Config = None, as_json: AsJson = False) -> None:
    """Recompute the hash chain and compare it with its anchors; names every changed, missing or moved event."""
    from dicom_node import sealing
    from dicom_node.workflow import utc_now

    with opened(config) as site:
        sealing.seal(site.database, at=utc_now())
        faults = sealing.verify(site.database, site.settings.audit)
        with site.database.read() as session:
            head = sealing.head(session)
    if as_json:
        print_json(
            {
                "sequence": head.sequence if head else 0,
                "digest": head.digest if head else "",
                "faults": [one.text for one in faults],
            }
        )
    else:
        for fault in faults:
            typer.echo(fault.text)
        anchored = "" if site.settings.audit.anchor_key_file else "; the chain is not anchored outside the database"
        typer.echo(f"{head.sequence if head else 0} events chained, {len(faults)} faults{anchored}")
    if faults:
        raise CommandError("the audit trail has been tampered with or damaged", FAULT)


def anchor(config: Config = None) -> None:
    """Write the chain's head to its anchors now."""
    from dicom_node import sealing
    from dicom_node.workflow import utc_now

    with opened(config) as site:
        if site.settings.audit.anchor_key_file is None:
            raise CommandError("audit.anchor_key_file is not configured, so there is nowhere to anchor to")
        sealing.seal(site.database, at=utc_now())
        made = sealing.anchor(site.database, site.settings.audit, at=utc_now())
    typer.echo("the chain is empty" if made is None else f"anchored event {made.sequence} {made.digest}")
