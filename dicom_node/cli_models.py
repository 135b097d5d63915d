"""The commands over models: `fovea localize` and `fovea models`. Training is in `cli_train`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.console import UNSUITABLE, AsJson, CommandError, Config, opened, print_json

if TYPE_CHECKING:
    from dicom_node.series import SeriesVolume
    from inference.types import Localization


def add_to(app: typer.Typer) -> None:
    """Hang the commands onto `fovea`."""
    app.command()(localize)
    app.command()(models)


def models(config: Config = None, as_json: AsJson = False) -> None:
    """The installed models: card, digest, declared range, operating point, blind spots."""
    with opened(config) as site:
        installed = site.models
    if as_json:
        print_json(
            {name: {"digest": one.digest, "folder": str(one.folder), **one.card.model_dump()} for name, one in installed.items()}
        )
        return
    for name, one in installed.items():
        card = one.card
        typer.echo(f"{name}: {card.name} {card.version}, {card.manufacturer}")
        typer.echo(f"  card {one.digest}\n  {card.summary}\n  {card.intended_use}")
        for key, value in card.validity.model_dump().items():
            typer.echo(f"    {key}: {value}")
        for recipe in card.recipes:
            point = card.operating_point[recipe]
            typer.echo(f"  recipe {recipe}: threshold {point.threshold}, {point.rule}")
        for spot in card.blind_spots:
            typer.echo(f"  blind spot: {spot}")


def localize(
    source: Annotated[
        Path,
        typer.Argument(help="folder of one DICOM series, multi-frame DICOM file, or NIfTI file", exists=True),
    ],
    out: Annotated[Path, typer.Option(help="folder for maps, findings and pictures")],
    bundle: Annotated[Path | None, typer.Option(help="model bundle; default: the shipped brain-flair")] = None,
    recipe: Annotated[str, typer.Option(help="recipe of the bundle; default: the card's first")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    seed: Annotated[int, typer.Option(help="seed of recipes that draw noise")] = 0,
) -> None:
    """Localize without a node: score, brain, labels, healthy estimate (NIfTI), findings (JSON) and pictures (PNG)."""
    from dicom_node.catalog import shipped_models
    from dicom_node.unsuitable import UnsuitableSeries
    from inference.localizer import Context, load_localizer

    try:
        series = _series_of(source)
    except UnsuitableSeries as error:
        raise CommandError(f"{error.code}: {error}", UNSUITABLE) from error
    localizer = load_localizer(bundle or shipped_models() / "brain-flair", recipe or None, device=device)
    context = Context(seed=seed, threads=os.cpu_count(), remarks=series.notes)
    localization = localizer.localize(series.volume, context)
    out.mkdir(parents=True, exist_ok=True)
    _write(out, series, localization)
    count = len(localization.findings)
    cost = localization.provenance.cost
    typer.echo(
        f"{count} finding{'' if count == 1 else 's'}, study score {localization.study_score:.2f}; {cost.seconds:.1f} s, "
        f"{cost.network_evaluations} evaluations, {cost.gflop:.0f} GFLOP, {cost.peak_memory_mb:.0f} MB: {out}"
    )
    if localization.domain is not None:
        fit = localization.domain
        typer.echo(f"  distance from what the model was calibrated on: {fit.distance:.1f}, {fit.limit:.1f} is remarked upon")
    for remark in localization.provenance.quality:
        typer.echo(f"  remark: {remark}", err=True)
    for one in localization.findings:
        x, y, z = one.centroid_lps
        typer.echo(
            f"  {one.number}: {one.contrast}, {one.volume_mm3 / 1000:.2f} cm3, long axis {one.long_axis_mm:.1f} mm, "
            f"{one.hemisphere or 'side unknown'}, centre LPS ({x:.1f}, {y:.1f}, {z:.1f}) mm, peak score {one.peak_score:.2f}"
        )


def _series_of(source: Path) -> SeriesVolume:
    from dicom_node.series import SeriesVolume, read_series
    from inference.nifti import UnreadableImageError, volume_from_nifti

    if source.is_dir():
        return read_series(sorted(one for one in source.rglob("*") if one.is_file()))
    if not source.name.endswith((".nii", ".nii.gz")):
        return read_series([source])  # one multi-frame image
    try:
        return SeriesVolume(volume_from_nifti(source), source=(), frames=(), notes=())
    except UnreadableImageError as error:
        raise CommandError(str(error), UNSUITABLE) from error


def _write(out: Path, series: SeriesVolume, localization: Localization) -> None:
    import nibabel

    from dicom_node.pictures import draw

    maps = {
        "score": localization.score,
        "raw": localization.raw,
        "brain": localization.brain,
        "labels": localization.labels,
        "pseudo_healthy": localization.pseudo_healthy,
        "uncertainty": localization.uncertainty,
    }
    for name, one in maps.items():
        if one is not None:
            nibabel.save(one.to_nibabel(), out / f"{name}.nii.gz")
    facts = {
        "findings": [asdict(one) for one in localization.findings],
        "findings_left_out": localization.findings_left_out,
        "study_score": localization.study_score,
        "domain": None if localization.domain is None else asdict(localization.domain),
        "provenance": asdict(localization.provenance),
    }
    (out / "findings.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    for picture in draw(series, localization):
        (out / picture.name).write_bytes(picture.data)
