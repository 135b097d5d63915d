"""What the commands share: options, output, exit statuses, and the opening of the configured site."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dicom_node.settings import load_settings

if TYPE_CHECKING:
    from dicom_node.workflow import Site

Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file; default $FOVEA_CONFIG or fovea.toml")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]

FAULT, WRONG_CALL, UNSUITABLE, TRY_LATER = 1, 2, 3, 4
screen = Console(stderr=True)


class CommandError(Exception):
    """Raised by a command that cannot do what was asked; `status` is the exit status."""

    def __init__(self, text: str, status: int = WRONG_CALL) -> None:
        super().__init__(text)
        self.status = status


@contextmanager
def opened(config: Path | None) -> Iterator[Site]:
    """The opened site of the configuration."""
    from dicom_node.site import open_site

    with open_site(load_settings(config)) as site:
        yield site


def user_name() -> str:
    """Who runs the command, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def print_json(value: object) -> None:
    """The value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
