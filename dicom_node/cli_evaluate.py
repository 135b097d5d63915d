"""The commands that measure models: `fovea evaluate` on studies with marked lesions, `fovea phantom-grid` on painted ones."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicom_node.console import AsJson, CommandError, screen

if TYPE_CHECKING:
    from inference.data import Reader
    from inference.evaluation.grid import Grid
    from inference.evaluation.summary import Evaluation, SetSummary
    from inference.localizer import Localizer

SHOWN = ("ap_pooled", "auroc_pooled", "dice_fixed_pooled", "dice_max_pooled", "froc", "aupro_05")
SHOWN_DELIVERED = ("dice_mean", "lesion_sens", "fp_per_scan", "lesion_f1", "hd95_mm", "volume_bias_ml", "fp_volume_ml")

Bundles = Annotated[list[Path] | None, typer.Argument(help="model bundles; default: the shipped brain-flair")]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", help="recipe of the bundles; may be given several times")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: all cores")]


def add_to(app: typer.Typer) -> None:
    """Hang the commands onto `fovea`."""
    app.command()(evaluate)
    app.command("phantom-grid")(phantom_grid)


def evaluate(
    bundles: Bundles = None,
    data: Annotated[Path | None, typer.Option(help="folder of studies, or of the public sets where --set is given")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="public set below --data: lgg, wmh, ms; several times")] = None,
    image_suffix: Annotated[str, typer.Option(help="ending of NIfTI images; where there is none: DICOM")] = "_FLAIR.nii.gz",
    mask_suffix: Annotated[str, typer.Option(help="ending of the mask beside an image")] = "_mask.nii.gz",
    participants: Annotated[Path | None, typer.Option(help="CSV, TSV or JSON with patient, age, sex, site")] = None,
    recipes: Recipes = None,
    out: Annotated[Path | None, typer.Option(help="folder for report.html, evaluation.json and charts")] = None,
    split: Annotated[str, typer.Option(help="development, held-out or all patients")] = "all",
    fixed_on: Annotated[str, typer.Option(help="other patients that fix thresholds: `development`, or a folder as --data")] = "",
    limit: Annotated[int, typer.Option(help="no more than this many studies of each set; 0: all")] = 0,
    draws: Annotated[int, typer.Option(help="bootstrap draws")] = 2000,
    minimum_mm3: Annotated[float, typer.Option(help="smaller marked components are no lesions")] = 20.0,
    device: Device = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure bundles on studies with marked lesions, beside plain intensity: table, JSON, charts, a report for clinicians."""
    from inference.evaluation.case import Rules
    from inference.evaluation.cohort import SharedPatients
    from inference.evaluation.run import NothingMeasured, Plan, measure_sets
    from inference.evaluation.sources import SourceError
    from inference.evaluation.summary import summarise, to_json
    from inference.localizer import Context

    if data is None:
        raise CommandError("--data: a folder of studies is needed")
    try:
        read = _reader_of(image_suffix, mask_suffix, participants)
        readers = _readers(data, sets or [], read)
        plan = Plan(
            readers=readers,
            split=split,
            fixed_on_development=fixed_on == "development",
            fixed_on=read(Path(fixed_on)) if fixed_on not in {"", "development"} else None,
            limit=limit or None,
            rules=Rules(minimum_mm3, pictures=out is not None),
            draws=draws,
            context=Context(threads=threads or os.cpu_count()),
        )
        localizers, named = _localizers(bundles or [_shipped()], recipes or [], device)
        with _talking() as talk:
            measured = measure_sets(localizers, plan, talk.tell)
        found = summarise(measured, shlex.join(["fovea", *sys.argv[1:]]), named, plan.rules)
    except (SourceError, SharedPatients, NothingMeasured, ValueError) as error:
        raise CommandError(str(error)) from error
    if out is not None:
        _write(out, found)
    if as_json:
        sys.stdout.write(to_json(found))
        return
    _print(found)
    if out is not None:
        typer.echo(f"report: {out / 'report.html'}")


def phantom_grid(
    bundle: Annotated[Path | None, typer.Argument(help="model bundle; default: the shipped brain-flair")] = None,
    recipes: Recipes = None,
    out: Annotated[Path | None, typer.Option(help="folder for detection-bias.svg and phantom-grid.json")] = None,
    label_maps: Annotated[Path | None, typer.Option(help="folder of whole-head label maps; default: heads made by code")] = None,
    healthy: Annotated[Path | None, typer.Option(help="folder of lesion-free NIfTI images to paint into instead")] = None,
    heads: Annotated[int, typer.Option(help="lesion-free heads")] = 2,
    each: Annotated[int, typer.Option(help="lesions of one size and contrast in each head")] = 8,
    attach: Annotated[bool, typer.Option("--attach", help="put chart and figures onto the bundle's model card")] = False,
    device: Device = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Which lesions are found, by size and contrast: painted into lesion-free heads, 3 to 20 mm, 50 % darker to brighter."""
    import torch

    from inference.evaluation.grid import grid_chart, measure_grid, plain_grid
    from inference.evaluation.sources import SourceError, healthy_volumes
    from inference.publish import attach_grid

    place = bundle or _shipped()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    localizers, _ = _localizers([place], recipes or [], device)
    try:
        volumes = healthy_volumes(heads, label_maps, healthy)
        with _talking() as talk:
            grids = {label: measure_grid(one, volumes, each, tell=talk.tell) for label, one in localizers.items()}
    except SourceError as error:
        raise CommandError(str(error)) from error
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "phantom-grid.json").write_text(plain_grid(grids), encoding="utf-8")
        for label, grid in grids.items():
            name = "detection-bias.svg" if len(grids) == 1 else f"detection-bias-{label.replace('/', '-')}.svg"
            (out / name).write_text(grid_chart(label, grid), encoding="utf-8")
    if attach:
        attach_grid(place, grids)
    if as_json:
        sys.stdout.write(plain_grid(grids))
        return
    for label, grid in grids.items():
        _print_grid(label, grid)


def _shipped() -> Path:
    from dicom_node.catalog import shipped_models

    return shipped_models() / "brain-flair"


def _reader_of(image_suffix: str, mask_suffix: str, participants: Path | None) -> Callable[[Path], Reader]:
    from inference.evaluation.sources import folder_source

    return lambda folder: folder_source(folder, image_suffix, mask_suffix, participants)


def _readers(data: Path, sets: Sequence[str], read: Callable[[Path], Reader]) -> list[Reader]:
    from inference.evaluation.sources import PUBLIC, public_set

    unknown = [word for word in sets if word not in PUBLIC]
    if unknown:
        raise CommandError(f"--set {unknown[0]}: there are {', '.join(PUBLIC)}")
    return [public_set(word, data) for word in sets] or [read(data)]


def _localizers(bundles: Sequence[Path], recipes: Sequence[str], device: str) -> tuple[dict[str, Localizer], list[str]]:
    """By label, which is as short as it can be and still tells them apart; and name, version and digest of each bundle."""
    from inference.card import card_digest, read_card
    from inference.localizer import default_recipe, load_localizer

    found: dict[str, Localizer] = {}
    named = []
    for bundle in bundles:
        card = read_card(bundle)
        named.append(f"{card.name} {card.version} ({card_digest(bundle)[:12]})")
        for recipe in recipes or [default_recipe(card)]:
            label = recipe if len(bundles) == 1 else f"{bundle.name}/{recipe}"
            found[label] = load_localizer(bundle, recipe, device=device)
    return found, named


class _Talk:
    """Says on standard error what is being measured."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=screen, transient=True
        )
        self._task = self._progress.add_task("starting", total=None)
        self._count = 0

    def __enter__(self) -> _Talk:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, what: str, which: str) -> None:
        """One line, replaced by the next."""
        self._count += 1
        self._progress.update(self._task, description=f"{what}: {self._count}, {which}")


def _talking() -> _Talk:
    return _Talk()


def _write(out: Path, found: Evaluation) -> None:
    from inference.evaluation.report import chart_files, html
    from inference.evaluation.summary import to_json

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(html(found), encoding="utf-8")
    (out / "evaluation.json").write_text(to_json(found), encoding="utf-8")
    for name, chart in chart_files(found).items():
        (out / name).write_text(chart, encoding="utf-8")


def _print(found: Evaluation) -> None:
    console = Console()
    for one in found.sets:
        console.print(
            f"\n[bold]{one.name}[/]: {one.patients} patients, {one.slices} slices, {one.lesions} lesions, "
            f"{100 * one.prevalence:.2f} % marked; thresholds fixed on {one.fixed_on}; {len(one.refused)} refused",
            highlight=False,
        )
        _print_set(console, one)


def _print_set(console: Console, found: SetSummary) -> None:
    from inference.evaluation.words import DELIVERED, MAP_FIGURES, figure

    for one in found.localizers:
        table = Table(one.label, *one.maps)
        for metric in SHOWN:
            cells = [figure(figures.figures[metric]).replace(" (", "\n(") for figures in one.maps.values()]
            table.add_row(MAP_FIGURES[metric][0], *cells)
        console.print(table)
        delivered = Table(f"{one.label}, findings as delivered", "")
        for name in SHOWN_DELIVERED:
            delivered.add_row(DELIVERED[name][0], figure(one.delivered[name], 2))
        delivered.add_row("GFLOP a slice, seconds a study", f"{one.cost.gflop_per_slice:.2f}, {one.cost.seconds_per_study:.1f}")
        console.print(delivered)


def _print_grid(label: str, grid: Grid) -> None:
    console = Console()
    table = Table(f"{label}: found", *(f"{100 * contrast:+.0f} %" for contrast in grid.contrasts))
    for diameter in grid.diameters_mm:
        cells = [grid.cell(diameter, contrast) for contrast in grid.contrasts]
        table.add_row(f"{diameter:g} mm", *(f"{cell.found} of {cell.lesions}" for cell in cells))
    console.print(table)
    console.print(grid.asymmetry_words(), highlight=False)
