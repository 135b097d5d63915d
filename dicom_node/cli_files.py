"""The commands over DICOM files and peers, no node needed: `fovea send`, `fovea echo`, `fovea validate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.console import FAULT, TRY_LATER, UNSUITABLE, AsJson, CommandError, Config, print_json, screen
from dicom_node.settings import load_settings


def add_to(app: typer.Typer) -> None:
    """Hang the commands onto `fovea`."""
    app.command()(send)
    app.command()(echo)
    app.command()(validate)


def send(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders", exists=True)],
    to: Annotated[str, typer.Option(help="HOST:PORT, or the name of a configured destination")],
    called: Annotated[str, typer.Option(help="called AE title")] = "FOVEA",
    calling: Annotated[str, typer.Option(help="calling AE title")] = "FOVEA",
    config: Config = None,
) -> None:
    """Send DICOM files with C-STORE; prints each instance's status."""
    from dicom_node import scu

    destination = _destination(to, called, config)
    items, unreadable = scu.outgoing(_files_in(files))
    for path, reason in unreadable:
        screen.print(f"{path}: {reason}", style="yellow", highlight=False, markup=False)
    if not items:
        raise CommandError("no DICOM file to send", UNSUITABLE)
    error = scu.send(destination, calling, items, lambda sent: typer.echo(f"{sent.status} {sent.sop_instance_uid}"))
    if error is not None:
        raise CommandError(f"{error.code}: {error.text}", FAULT if error.permanent else TRY_LATER)
    if unreadable:
        raise CommandError(f"{len(unreadable)} files could not be read", UNSUITABLE)


def validate(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders", exists=True)], as_json: AsJson = False
) -> None:
    """Check DICOM objects as one set: modules, references, places, identity, UIDs. Exit status 3 where there are errors."""
    from dicom_node import validate as validation

    paths = _files_in(files)
    complaints, remarks = validation.validate(paths)
    if as_json:
        print_json({"files": len(paths), "complaints": [asdict(one) for one in complaints], "remarks": remarks})
    else:
        for one in complaints:
            typer.echo(f"{one.severity}: {one.file}: {one.code}: {one.text}")
        typer.echo(f"{len(paths)} files, {_count(complaints, 'error')} errors, {_count(complaints, 'warning')} warnings")
        for remark in remarks:
            screen.print(remark, style="yellow", highlight=False, markup=False)
    if _count(complaints, "error") or not paths:
        raise typer.Exit(UNSUITABLE)


def _count(complaints: Any, severity: str) -> int:
    return sum(one.severity == severity for one in complaints)


def _files_in(given: list[Path]) -> list[Path]:
    return sorted(one for place in given for one in ([place] if place.is_file() else place.rglob("*")) if one.is_file())


def echo(
    to: Annotated[str, typer.Argument(help="HOST:PORT, or the name of a configured destination")],
    called: Annotated[str, typer.Option(help="called AE title")] = "FOVEA",
    calling: Annotated[str, typer.Option(help="calling AE title")] = "FOVEA",
    config: Config = None,
) -> None:
    """Verify that a peer answers (C-ECHO)."""
    from dicom_node import scu

    destination = _destination(to, called, config)
    error = scu.echo(destination, calling)
    if error is not None:
        raise CommandError(f"{error.code}: {error.text}", TRY_LATER)
    typer.echo(f"{destination.ae_title} at {destination.host}:{destination.port} answers")


def _destination(to: str, called: str, config: Path | None) -> Any:
    from pydantic import ValidationError

    from dicom_node.settings import Destination

    configured = {one.name: one for one in load_settings(config).destinations}
    if to in configured:
        if configured[to].kind != "dimse":
            raise CommandError(f"{to} is a DICOMweb service, not an application entity")
        return configured[to]
    host, colon, port = to.rpartition(":")
    if not colon or not port.isdigit():
        raise CommandError(f"{to!r} is neither HOST:PORT nor a configured destination ({', '.join(configured) or 'none'})")
    try:
        return Destination(name="command-line", ae_title=called, host=host, port=int(port))
    except ValidationError as error:
        raise CommandError(f"{to}: {error.errors()[0]['msg']}") from error
