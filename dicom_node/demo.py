"""`fovea demo` (`make run`): a node, its web page and a simulated PACS on loopback, and one study sent through the wire.

The head is made by code and goes through the same listener, rules, model and operating point as any patient. The
demonstration reads what came back from the simulated PACS, not from the node's own files.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from rich.console import Console
from rich.table import Table

from dicom_node.console import CommandError
from dicom_node.phantom_series import head_series
from dicom_node.settings import Destination
from dicom_node.simulator import SimulatedPacs, send_datasets
from inference.phantom import SyntheticHead, synthetic_head

SEED = 7
TIMEOUT_S = 280.0
ACCESSION_NUMBER = "DEMO1"
CONFIGURATION = """\
# Written by `fovea demo`: one modality and one PACS, both simulated on this machine.
[node]
port = {node_port}

[[peers]]
ae_title = "MODALITY"
addresses = ["127.0.0.1"]

[storage]
spool = "{folder}/spool"

[receive]
settle_after_s = 3.0

[[models]]
name = "brain-flair"

[[rules]]
name = "brain-flair"
model = "brain-flair"
modality = ["MR"]
destinations = ["pacs"]

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}

[web]
port = {web_port}
"""


def run_demo(*, once: bool, folder: Path) -> None:
    """Show the whole path; returns when it is shown (`once`) or at Ctrl-C. Raises CommandError where something is missing."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    folder = folder / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    pacs = SimulatedPacs("PACS", folder=folder / "pacs")
    pacs_port = pacs.start()
    node_port, web_port = free_port(), free_port()
    config = folder / "fovea.toml"
    text = CONFIGURATION.format(node_port=node_port, pacs_port=pacs_port, web_port=web_port, folder=folder.resolve())
    config.write_text(text, encoding="utf-8")
    log = (folder / "node.log").open("wb")
    node = subprocess.Popen([sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(config)], stdout=log, stderr=log)
    try:
        _show(console, node, pacs, config, node_port, web_port, folder)
        if not once:
            console.print("\nThe node stays up; Ctrl-C ends it.")
            signal.pause()
    except KeyboardInterrupt:
        console.print("\nending the node")
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(30)
        pacs.stop()
        log.close()


def _show(
    console: Console,
    node: subprocess.Popen[bytes],
    pacs: SimulatedPacs,
    config: Path,
    node_port: int,
    web_port: int,
    folder: Path,
) -> None:
    started = time.monotonic()
    console.print(f"1  starting the node (DICOM port {node_port}), its web page and a simulated PACS; log {folder / 'node.log'}")
    head = synthetic_head(seed=SEED)
    images = head_series(head, accession_number=ACCESSION_NUMBER)
    node_facts = Destination(name="node", ae_title="FOVEA", host="127.0.0.1", port=node_port)
    _wait(node, "the node listens", lambda: _answers(node_facts), 60)
    size = f"{len(images)} images of {images[0].Columns} x {images[0].Rows}"
    console.print(f"2  sending a synthetic head with {_count(head.lesion)} lesions: {size}")
    send_datasets(node_facts, "MODALITY", images)
    console.print("3  waiting for the study to settle, for the model, and for the results to come back")
    objects = _await_results(node, pacs, console)
    console.print(f"4  the PACS has received {len(objects)} objects {time.monotonic() - started:.0f} s after the start\n")
    found = _tell(console, objects, head, images)
    console.print(f"files of the PACS: {pacs.folder}")
    _audit(console, config)
    _web(console, web_port, folder)
    if not found:
        raise CommandError("the segmentation that came back does not cover the lesions of the head", 1)


def _await_results(node: subprocess.Popen[bytes], pacs: SimulatedPacs, console: Console) -> list[Dataset]:
    shown: set[str] = set()

    def complete() -> bool:
        for one in pacs.received():
            if one.sop_instance_uid not in shown:
                shown.add(one.sop_instance_uid)
                console.print(f"   the PACS stored one {one.modality} object")
        return any(one.modality == "SR" for one in pacs.received()) and pacs.is_quiet(1.0)

    _wait(node, "the results arrive", complete, TIMEOUT_S)
    return [dcmread(one.path) for one in pacs.received()]


def _tell(console: Console, objects: Sequence[Dataset], head: SyntheticHead, images: Sequence[Dataset]) -> bool:
    from dicom_node.readback import report_lines, segments_of

    found = False
    for one in objects:
        if one.Modality == "SEG":
            console.print(f"SEG  {one.SeriesDescription}")
            mask = np.zeros(head.lesion.shape, dtype=bool)
            for segment in segments_of(one, [str(image.SOPInstanceUID) for image in images]):
                console.print(f"     segment {segment.number}: {segment.label}, {segment.volume_mm3 / 1000:.2f} cm3")
                mask |= segment.mask
            found = _covers_every_lesion(mask, head)
        else:
            console.print(f"SR   {one.SeriesDescription}")
            for line in report_lines(one):
                console.print(f"     {line}", markup=False)
    return found


def _covers_every_lesion(mask: np.ndarray, head: SyntheticHead) -> bool:
    """True where the SEG touches each lesion and lies mostly on lesions."""
    from scipy import ndimage

    lesions, count = ndimage.label(head.lesion, np.ones((3, 3, 3)))
    touched = {int(value) for value in np.unique(lesions[mask])} - {0}
    return len(touched) == count and bool(np.count_nonzero(mask & head.lesion) * 2 > np.count_nonzero(mask))


def _count(lesion: np.ndarray) -> int:
    from scipy import ndimage

    return int(ndimage.label(lesion, np.ones((3, 3, 3)))[1])


def _audit(console: Console, config: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dicom_node.cli",
        "audit",
        "--accession",
        ACCESSION_NUMBER,
        "--json",
        "--config",
        str(config),
    ]
    events = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table = Table("time (UTC)", "what happened", "with", "model", title=f"audit of accession number {ACCESSION_NUMBER}")
    for one in events:
        table.add_row(one["at"][11:19], one["kind"], one["peer"] or "", one["model"] or "")
    console.print(table)
    verified = subprocess.run(
        [*command[:3], "audit", "verify", "--config", str(config)], check=True, capture_output=True, text=True
    )
    console.print(verified.stdout.strip())


def _web(console: Console, web_port: int, folder: Path) -> None:
    token = (folder / "web.token").read_text(encoding="ascii").strip()
    address = f"http://127.0.0.1:{web_port}/?token={token}"
    request = urllib.request.Request(f"http://127.0.0.1:{web_port}/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own page on loopback
        if answer.status != 200:
            raise CommandError(f"the web page answers {answer.status}", 1)
    console.print(f"web page: {address}")


def _wait(node: subprocess.Popen[bytes], what: str, done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if node.poll() is not None:
            raise CommandError(f"the node ended with status {node.returncode} before {what}", 1)
        if time.monotonic() > deadline:
            raise CommandError(f"gave up after {timeout_s:.0f} s waiting until {what}", 1)
        time.sleep(0.2)


def _answers(destination: Destination) -> bool:
    from dicom_node import scu

    return scu.echo(destination, "MODALITY") is None


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


__all__ = ["free_port", "run_demo"]
