"""The balance of a day for people and programs: `fovea reconcile DAY`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from dicom_node.workflow import Site
from storage import events
from storage.balance import DIFFERENCE, DayBalance, Place, day_balance
from storage.events import EventKind


def day_named(text: str, today: date) -> date:
    """The day that `today`, `yesterday` or YYYY-MM-DD names. Raises ValueError."""
    if text == "today":
        return today
    return today - timedelta(days=1) if text == "yesterday" else date.fromisoformat(text)


def balance_of(site: Site, session: Session, day: date) -> DayBalance:
    """The balance of what was received on that day, in UTC."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    proving = {one.name for one in site.settings.destinations if one.proof != "none"}

    def is_there(path: str) -> bool:
        return site.spool.path(path).is_file()

    return day_balance(session, begin=begin, end=begin + timedelta(days=1), is_there=is_there, proving=proving)


def record_query(session: Session, day: date, balance: DayBalance, *, user: str, at: datetime) -> None:
    """Note who asked."""
    detail = {"reconcile": day.isoformat(), "studies": len(balance.studies), "difference": len(balance.difference)}
    events.append(session, EventKind.AUDIT_QUERIED, at=at, user=user, detail=detail)


def as_json(day: date, balance: DayBalance) -> dict[str, Any]:
    """The balance as a JSON object; the studies of the difference are listed, the others too."""
    return {
        "day": day.isoformat(),
        "received": len(balance.studies),
        "counts": {place.value: balance.count(place) for place in Place},
        "difference": [study.study_instance_uid for study in balance.difference],
        "studies": [asdict(study) for study in balance.studies],
    }


def show(console: Console, day: date, balance: DayBalance) -> None:
    """The sum in one line, then what is not answered, then what became a dead letter."""
    answered = [f"{balance.count(place)} {place.value}" for place in Place if place not in DIFFERENCE]
    instances = sum(study.instances for study in balance.studies)
    rejected = sum(study.rejected for study in balance.studies)
    console.print(
        f"{day}: {len(balance.studies)} studies received ({instances} instances, {rejected} rejected) = "
        f"{' + '.join(answered)} + difference {len(balance.difference)}",
        highlight=False,
    )
    listed = [study for study in balance.studies if study.place in (*DIFFERENCE, Place.DEAD_LETTER) or study.rejected]
    if not listed:
        return
    table = Table("study", "accession", "from", "images", "rejected", "state", "stands at", "why")
    for study in listed:
        table.add_row(
            study.study_instance_uid, study.accession_number, study.received_from, str(study.instances), str(study.rejected),
            study.state, study.place, study.text,
        )  # fmt: skip
    console.print(table)
