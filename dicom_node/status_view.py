"""The node's state in a few lines: what is received, waiting, running, sent and stuck."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from storage import circuits, queries


def overview(session: Session) -> dict[str, Any]:
    """Counts by state, the newest studies, and all that failed, as a JSON object."""
    newest = queries.list_studies(session, limit=15)
    return {
        "queue": asdict(queries.queue_overview(session)),
        "destinations": [asdict(one) for one in queries.list_destinations(session)],
        "circuits": [
            {
                "destination": one.destination,
                "failures": one.failures,
                "open_since": one.opened_at,
                "next_probe_at": one.next_probe_at,
                "reason": one.reason,
            }
            for one in circuits.list_circuits(session)
            if one.failures
        ],
        "studies": [
            {
                "study_instance_uid": one.study_instance_uid,
                "accession_number": one.accession_number,
                "state": one.state,
                "standing": one.standing,
                "revision": one.revision,
                "instances": one.instances,
                "forced_complete": one.forced,
                "incomplete": one.incomplete,
                "last_received_at": one.last_received_at,
                "deliveries": one.deliveries,
            }
            for one in newest.rows
        ],
        "failed_jobs": [asdict(one) for one in queries.failed_jobs(session)],
        "dead_letters": [asdict(one) for one in queries.dead_letters(session)],
    }


def print_overview(console: Console, state: dict[str, Any]) -> None:
    """The overview as tables."""
    for name, counts in state["queue"].items():
        if isinstance(counts, dict):
            console.print(
                f"{name}: " + (", ".join(f"{count} {key}" for key, count in counts.items() if count) or "none"), highlight=False
            )
        elif counts is not None:
            console.print(f"{name.replace('_', ' ')}: since {counts:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    for circuit in state["circuits"]:
        _print_circuit(console, circuit)
    if state["studies"]:
        table = Table("accession", "study", "state", "standing", "images", "deliveries")
        for one in state["studies"]:
            sent = ", ".join(f"{count} {key}" for key, count in one["deliveries"].items())
            table.add_row(
                one["accession_number"], one["study_instance_uid"], one["state"], one["standing"], _images(one), sent
            )
        console.print(table)
    for job in state["failed_jobs"]:
        console.print(
            f"failed job {job['id']} ({job['rule']}): {job['reason']}; fovea resubmit --job {job['id']}", highlight=False
        )
    for letter in state["dead_letters"]:
        console.print(
            f"dead letter {letter['id']} to {letter['destination']}: {letter['reason']}; "
            f"fovea resubmit --delivery {letter['id']}",
            highlight=False,
        )


def _images(study: dict[str, Any]) -> str:
    marks = [mark for mark, holds in (("forced", study["forced_complete"]), ("incomplete?", study["incomplete"])) if holds]
    return " ".join([str(study["instances"]), *marks])


def _print_circuit(console: Console, circuit: dict[str, Any]) -> None:
    failures = f"{circuit['failures']} connection failures in a row ({circuit['reason']})"
    if circuit["open_since"] is None:
        console.print(f"destination {circuit['destination']}: {failures}", highlight=False)
        return
    console.print(
        f"destination {circuit['destination']} is down since {circuit['open_since']:%Y-%m-%d %H:%M:%S} UTC: {failures}; "
        f"next probe at {circuit['next_probe_at']:%H:%M:%S}",
        style="red",
        highlight=False,
    )
