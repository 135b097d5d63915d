"""`fovea train`, `fovea recipes` and `fovea check-localizer`: the commands of those who make models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.console import AsJson, CommandError, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from highdicom import Volume
    from pydicom import Dataset

    from inference.data import Reader
    from inference.fit import Progress
    from inference.recipes.recipe import Recipe

WHOLE_MODELS = ("brain-flair", "smoke")
"""Trained with their own brain network, on the finer grid of the shipped model."""
DEFAULT_MINUTES = 60.0
SAMPLES_EVERY_S = 300.0


def add_to(app: typer.Typer) -> None:
    """Hang the commands onto `fovea`."""
    app.command()(train)
    app.command()(recipes)
    app.command("check-localizer")(check_localizer)


def recipes(
    name: Annotated[str | None, typer.Argument(help="one recipe, in full; without it, all of them")] = None,
    page: Annotated[Path | None, typer.Option(help="HTML file for the picture of that recipe's five parts")] = None,
    as_json: AsJson = False,
) -> None:
    """Every method that can be trained and run: scheme, labels needed, cost of a slice, networks and paper."""
    from inference import describe
    from inference.recipes import RECIPES

    if name is not None and name not in RECIPES:
        raise CommandError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    if page is not None:
        if name is None:
            raise CommandError("--page shows one recipe: say which")
        page.write_text(describe.page(RECIPES[name]), encoding="utf-8")
        typer.echo(f"wrote {page}")
        return
    facts = {one.name: _facts(one) for one in (RECIPES.values() if name is None else [RECIPES[name]])}
    if as_json:
        print_json(facts)
        return
    for known, one in facts.items():
        networks = ", ".join(one["networks"]) or "none"
        cost = f"{one['evaluations']} evaluations, {one['gflop_per_slice']:.2f} GFLOP a slice"
        typer.echo(f"{known}: {one['scheme']}; needs {one['labels']}; {cost}; networks {networks}; {one['paper']}")
        if name is not None:
            for part in describe.PARTS:
                typer.echo(f"  {part}: " + "\n    ".join(describe.part_lines(getattr(RECIPES[known], part))))


def _facts(recipe: Recipe) -> dict[str, Any]:
    """What a list tells of a recipe; the cost is counted on one slice of its own grid."""
    from inference.describe import price

    cost = price(recipe)
    return {
        "scheme": recipe.scheme,
        "labels": recipe.labels,
        "evaluations": cost.evaluations,
        "gflop_per_slice": round(cost.gflop, 3),
        "networks": list(recipe.networks),
        "paper": recipe.paper,
    }


def train(
    recipe: Annotated[str, typer.Argument(help="a recipe (`fovea recipes`), or brain-flair for the shipped model with its mask")],
    out: Annotated[Path, typer.Option(help="folder for the finished bundle")],
    data: Annotated[list[Path] | None, typer.Option(help="folder of NIfTI files or DICOM series; may be given often")] = None,
    work: Annotated[Path | None, typer.Option(help="folder for checkpoints; the same one resumes; default: beside --out")] = None,
    minutes: Annotated[float, typer.Option(help="how long to train; 0: as long as --steps says, or 60 minutes")] = 0.0,
    steps: Annotated[int, typer.Option(help="how many steps to train, in place of minutes")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    seed: Annotated[int, typer.Option(help="the same seed and data give the same weights on one device")] = 1,
    image_suffix: Annotated[str, typer.Option(help="ending of NIfTI images, e.g. _FLAIR.nii.gz; default: .nii.gz or .nii")] = "",
    lesion_suffix: Annotated[str, typer.Option(help="ending of the masks beside them, in its place, e.g. _mask.nii.gz")] = "",
    label_maps: Annotated[Path | None, typer.Option(help="folder of whole-head label maps for synthetic heads")] = None,
    soop: Annotated[Path | None, typer.Option(help="folder of the SOOP FLAIR slices")] = None,
    brain: Annotated[Path | None, typer.Option(help="bundle whose brain network is used; default: the shipped one")] = None,
    grid: Annotated[
        bool, typer.Option(help="put the phantom grid of the finished bundle onto its card; a minute or more")
    ] = True,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores")] = 0,
) -> None:
    """Train a recipe on a site's own studies: resumable, patients split, provenance and licences on the card."""
    import torch

    if minutes and steps:
        raise CommandError("--minutes and --steps exclude each other")
    folders = [*(data or ()), *(one for one in (label_maps, soop, brain) if one is not None)]
    missing = [str(one) for one in folders if not one.is_dir()]
    if missing:
        raise CommandError(f"no such folder: {', '.join(missing)}")
    torch.set_num_threads(threads or os.cpu_count() or 1)
    readers = tuple(_reader(one, image_suffix, lesion_suffix) for one in data or ())
    maps = tuple(sorted(label_maps.glob("*.npy.xz"))) if label_maps is not None else ()
    work = work or out.with_name(f"{out.name}.work")
    if recipe in WHOLE_MODELS:
        _train_whole(recipe, readers, out, work, maps, soop)
        return
    from dicom_node.catalog import shipped_models
    from inference.learn import Budget, Run, train
    from inference.material import Origins
    from inference.recipes import RECIPES

    known = [name for name, one in RECIPES.items() if one.training.stages]
    if recipe not in known:
        raise CommandError(f"no recipe to train is named {recipe!r}; there are {', '.join((*known, *WHOLE_MODELS))}")
    budget = Budget(steps=steps) if steps else Budget(minutes=minutes or DEFAULT_MINUTES)
    run = Run(budget, work, seed, device, _say, samples_every_s=SAMPLES_EVERY_S)
    try:
        card = train(RECIPES[recipe], Origins(readers, maps, soop), run, brain or shipped_models() / "brain-flair", out)
    except ValueError as error:
        raise CommandError(str(error)) from error
    typer.echo(f"{card.name} {card.version} written to {out}")
    typer.echo(f"samples: {work / 'samples.png'}; training slices to look at: {work / 'audit.json'}")
    if grid:
        _attach_grid(out, recipe, label_maps, device)
    if not card.distributable:
        typer.echo("evaluation only; may not be distributed", err=True)


def _attach_grid(bundle: Path, recipe: str, label_maps: Path | None, device: str) -> None:
    """Which lesions the finished bundle finds, by size and contrast, as a chart on its card; one lesion-free head."""
    from inference.evaluation.grid import measure_grid
    from inference.evaluation.sources import healthy_volumes
    from inference.localizer import load_localizer
    from inference.publish import attach_grid
    from inference.types import Refusal

    try:
        localizer = load_localizer(bundle, recipe, device=device)
        attach_grid(bundle, {recipe: measure_grid(localizer, healthy_volumes(1, label_maps, None), each=4)})
    except Refusal as refusal:
        typer.echo(
            f"no phantom grid on the card: the bundle refuses the head that lesions would be painted into: {refusal}", err=True
        )
        return
    typer.echo(f"phantom grid on the card: {bundle / 'MODEL_CARD.md'}")


def check_localizer(
    name: Annotated[str, typer.Argument(help="name of an entry point of the group fovea.localizers")],
    bundle: Annotated[Path, typer.Option(help="the bundle it is to run", exists=True, file_okay=False)],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Hold a method of one's own to the contract: the same rules that the node relies on, on synthetic heads."""
    from inference.bundle import open_card
    from inference.card import BundleError
    from inference.contract import ContractError, check_localizer
    from inference.localizer import plugged_in

    try:
        card = open_card(bundle)
        localizer = plugged_in(name, card)(bundle, card, device)
    except BundleError as error:
        raise CommandError(str(error)) from error
    try:
        for passed in check_localizer(localizer):
            typer.echo(f"ok: {passed}")
    except ContractError as error:
        raise CommandError(f"{name}: {error}", 1) from error


def _train_whole(
    recipe: str, readers: tuple[Reader, ...], out: Path, work: Path, maps: tuple[Path, ...], soop: Path | None
) -> None:
    from inference.train import train as train_bundle
    from inference.training import RECIPES

    card = train_bundle(RECIPES[recipe], readers, out, work, maps, soop)
    typer.echo(f"{card.name} {card.version} written to {out}")


def _reader(folder: Path, image_suffix: str, lesion_suffix: str) -> Reader:
    from inference.data import DicomFolder, NiftiFolder

    for suffix in (image_suffix,) if image_suffix else (".nii", ".nii.gz"):
        if any(folder.rglob(f"*{suffix}")):
            return NiftiFolder(folder, suffix, lesion_suffix or None)
    return DicomFolder(folder, suitable)


def suitable(files: Sequence[Path]) -> Volume:
    """The volume of a series that a model of this project may be shown, read with the node's checks."""
    from pydicom import dcmread

    from dicom_node.header import InstanceHeader
    from dicom_node.series import read_series
    from dicom_node.stack import Stack
    from dicom_node.unsuitable import UnsuitableSeries
    from dicom_node.validity import outside
    from inference.data import SeriesLeftOut
    from inference.publish import VALIDITY

    first = dcmread(files[0], stop_before_pixels=True)
    words = ("SeriesDescription", "ProtocolName", "SequenceName", "PatientAge")
    description, protocol, sequence, age = (str(first.get(word) or "") for word in words)
    header = InstanceHeader(
        modality=str(first.get("Modality") or ""),
        body_part_examined=str(first.get("BodyPartExamined") or ""),
        series_description=description,
        protocol_name=protocol,
        sequence_name=sequence,
        patient_age=age,
        echo_time_ms=_milliseconds(first, "EchoTime"),
        inversion_time_ms=_milliseconds(first, "InversionTime"),
        has_pixel_data=True,
    )
    images = int(first.get("NumberOfFrames") or len(files))
    reason = outside(VALIDITY, [header], Stack(images, None, None, None, None))
    if reason is not None:
        raise SeriesLeftOut(reason.text)
    try:
        return read_series(files, VALIDITY.echo_time_ms).volume
    except UnsuitableSeries as error:
        raise SeriesLeftOut(str(error)) from error


def _milliseconds(header: Dataset, keyword: str) -> float | None:
    value = header.get(keyword)
    return None if value is None else float(value)


def _say(progress: Progress) -> None:
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    words = f"step {progress.step} of {progress.steps}, loss {progress.loss:.4f}, {minutes} min {seconds:02d} s left"
    typer.echo(words, err=True)
