"""Seconds from the last image to the stored report, split into stages: `python -m tests.benchmarks.bench_turnaround`.

The installed program as processes, a simulated PACS, and synthetic heads made by code; each size is sent twice and the second
time is shown (the first pays for starting the model's libraries). The quiet time that a study must rest is a setting and is
taken out of the sum. Seconds are by the clock, but for the last column: what the node's processes spent of the processors from
the first image to the stored report, which other work on the machine changes little. Also prints what each idle process of the
node holds in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from dicom_node.phantom_series import head_series
from dicom_node.settings import Destination
from dicom_node.simulator import SimulatedPacs, send_datasets
from inference.phantom import synthetic_head
from storage.states import DeliveryState
from tests.node import Node, RuleText, Target
from tests.waiting import wait_until

SETTLE_S = 1.0
STAGES = ("settle", "wait", "read", "localize", "encode", "draw", "deliver")
SIZES = {
    "36 slices of 256 x 256, 5 mm": ((36, 256, 256), (5.0, 0.9, 0.9)),
    "150 slices of 256 x 256, 1 mm": ((150, 256, 256), (1.0, 0.9, 0.9)),
}
MEGABYTE = 1024 * 1024


def main() -> None:
    """Measure and print."""
    console = Console(width=140)
    with TemporaryDirectory() as folder, running(Path(folder)) as (node, pacs):
        show_memory(console, node)
        table = Table("study", *STAGES, "last image to stored report", "processors")
        for name, (shape, spacing_mm) in SIZES.items():
            for seed in (11, 12):
                row = measure(node, pacs, synthetic_head(seed=seed, shape=shape, spacing_mm=spacing_mm))
            table.add_row(name, *(f"{seconds:.1f} s" for seconds in row))
        console.print(table)
        console.print(f"settle includes the quiet time of {SETTLE_S:g} s; a hospital sets it longer")


@contextmanager
def running(folder: Path) -> Iterator[tuple[Node, SimulatedPacs]]:
    """A node and its PACS."""
    pacs = SimulatedPacs("PACS", folder=folder / "pacs")
    port = pacs.start()
    node = Node(folder / "node", [Target("pacs", "PACS", port)], [RuleText("flair", ("pacs",))], settle_after_s=SETTLE_S)
    node.start()
    try:
        node.await_echo()
        yield node, pacs
    finally:
        node.stop()
        pacs.close()


def show_memory(console: Console, node: Node) -> None:
    """Resident memory of each role at rest, and whether it has loaded torch."""
    for name in ("listen", "work", "web"):
        process = node.role(name)
        loaded = any("libtorch" in one.path for one in process.memory_maps())
        console.print(
            f"idle {name}: {process.memory_info().rss / MEGABYTE:.0f} MB resident, torch {'' if loaded else 'not '}loaded"
        )


def measure(node: Node, pacs: SimulatedPacs, head: object) -> tuple[float, ...]:
    """Send one head and wait for its report; the stages in seconds."""
    images = head_series(head, accession_number="BENCH")  # type: ignore[arg-type]
    study = str(images[0].StudyInstanceUID)
    spent_before = processor_seconds(node)
    send_datasets(Destination(name="node", ae_title="FOVEA", host="127.0.0.1", port=node.port), "MODALITY", images)
    last_image = time.time()

    def stored() -> bool:
        story = node.story(study)
        done = {DeliveryState.STORED, DeliveryState.COMMITTED}
        return story is not None and any(one.state in done for job in story.jobs for one in job.deliveries)

    wait_until("the report is stored", stored, 280)
    story = node.told(study)
    [job] = story.jobs
    [delivery] = job.deliveries
    processors = processor_seconds(node) - spent_before
    stored_at = max(item.stored_at for item in delivery.items if item.stored_at is not None).timestamp()
    created, started, ended = (moment.timestamp() for moment in (job.row.created_at, job.started_at, job.row.ended_at))  # type: ignore[union-attr]
    spent = job.summary["seconds"]  # type: ignore[index]
    return (
        created - last_image, started - created, spent["read"], spent["localize"], spent["encode"], spent["draw"],
        stored_at - ended, stored_at - last_image, processors,
    )  # fmt: skip


def processor_seconds(node: Node) -> float:
    """What all processes of the node, those that ended included, have spent of the processors so far."""
    total = 0.0
    for name in ("listen", "work", "web"):
        role = node.role(name)
        times = role.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
        for child in role.children(recursive=True):
            spent = child.cpu_times()
            total += spent.user + spent.system
    return total


if __name__ == "__main__":
    main()
