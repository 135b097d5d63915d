"""`fovea drift`: has what a model sees changed since it was trusted?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from dicom_node.console import AsJson, CommandError, Config, opened, print_json

if TYPE_CHECKING:
    from dicom_node.drift import Drift
    from storage.drift import ScoredStudy


def add_to(app: typer.Typer) -> None:
    """Hang the command onto `fovea`."""
    app.command()(drift)


def drift(
    config: Config = None,
    model: Annotated[str, typer.Option(help="one model; default: every model that finished an analysis")] = "",
    reference_until: Annotated[str, typer.Option(help="YYYY-MM-DD: studies up to this day are ordinary; default: a third")] = "",
    scores: Annotated[
        Path | None, typer.Option(help="JSON list of ended_at, study_score, domain_distance, findings instead")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Control charts by week: study scores, distances from the reference studies, findings; exit status 3 out of control."""
    from dicom_node.drift import TooFewStudies, default_reference, drift_of
    from storage.drift import scored_models, scored_studies

    if scores is not None:
        by_model = {model or scores.stem: _from_json(scores)}
    else:
        with opened(config) as site, site.database.read() as session:
            models = (model,) if model else scored_models(session)
            by_model = {one: scored_studies(session, model=one) for one in models}
    if not by_model:
        raise CommandError("no analysis has finished")
    try:
        day = date.fromisoformat(reference_until) if reference_until else None
        found = [drift_of(name, studies, day or default_reference(studies)) for name, studies in by_model.items()]
    except (TooFewStudies, ValueError) as error:
        raise CommandError(str(error)) from error
    if as_json:
        print_json([_plain(one) for one in found])
    else:
        for one in found:
            _print(one)
    if any(one.out_of_control for one in found):
        raise typer.Exit(3)


def _plain(found: Drift) -> object:
    """For JSON: NaN becomes null, what is out of control is said in words as well."""
    text = json.dumps({**asdict(found), "out_of_control": found.out_of_control}, default=str)
    return json.loads(text, parse_constant=lambda _: None)


def _print(found: Drift) -> None:
    console = Console()
    for chart in found.charts:
        table = Table(
            "week of", "studies", "median (quartiles)", "ordinary medians", "p", "", title=f"{found.model}: {chart.figure}"
        )
        for week in chart.weeks:
            low, middle, high = week.quartiles
            p = "reference" if week.monday <= found.reference_until else "–" if math.isnan(week.p) else f"{week.p:.4f}"
            word = "[red]out of control[/]" if week.out_of_control else ""
            limits = f"{week.limits[0]:.2f} to {week.limits[1]:.2f}"
            table.add_row(str(week.monday), str(week.studies), f"{middle:.2f} ({low:.2f} to {high:.2f})", limits, p, word)
        console.print(table)
    told = found.out_of_control or ("every week is as the reference",)
    for sentence in told:
        console.print(sentence, highlight=False)
    if math.isfinite(found.refused_later):
        console.print(
            f"refused: {100 * found.refused_reference:.1f} % before, {100 * found.refused_later:.1f} % since", highlight=False
        )


def _from_json(path: Path) -> tuple[ScoredStudy, ...]:
    from storage.drift import ScoredStudy

    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        studies = [
            ScoredStudy(
                ended_at=_moment(str(row["ended_at"])),
                study_score=row.get("study_score"),
                domain_distance=row.get("domain_distance"),
                findings=int(row.get("findings", 0)),
                refused=bool(row.get("refused", False)),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path.name}: not a list of scored studies: {error}") from error
    return tuple(sorted(studies, key=lambda one: one.ended_at))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
