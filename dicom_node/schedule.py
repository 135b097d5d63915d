"""The clock: APScheduler ticks that call the workflow, and nothing else decides when.

The schedule lives in memory; everything that a restart must not lose lives in the database. A tick that is still busy
when its next turn comes is skipped (`max_instances=1`, `coalesce`), and a late one is made up for (no misfire limit).
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node import expiry, proof, repository, sealing, workflow
from dicom_node.engine import Engine, Limits
from dicom_node.workflow import Site, utc_now
from storage.database import DatabaseBusy

log = structlog.get_logger(__name__)

CERTIFICATES_EVERY_S = 3600.0


class Schedule:
    """The running ticks of one worker process."""

    def __init__(self, site: Site) -> None:
        self._site = site
        run = site.settings.run
        limits = Limits(run.memory_mb, run.timeout_s, workflow.threads_per_run(site.settings))
        self._engines = [Engine(limits) for _ in range(run.workers)]
        self._stopping = threading.Event()
        threads = len(self._engines) + 2 * len(site.settings.destinations) + 7
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(threads)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a skipped tick is the rule during a run

    def start(self) -> None:
        """Begin to tick."""
        site, ticks = self._site, self._site.settings.ticks
        boot = boot_identity()
        self._every(
            ticks.settle_s, "settle",
            lambda: workflow.settle(site, holder=boot, monotonic_s=time.monotonic(), at=utc_now()),
        )  # fmt: skip
        for index, engine in enumerate(self._engines):
            self._every(ticks.submit_s, f"submit-{index}", self._until_idle(self._submit(engine, worker_name(f"run{index}"))))
        for destination in site.settings.destinations:
            worker = worker_name(f"send-{destination.name}")
            send = lambda one=destination, name=worker: workflow.deliver(site, one, worker=name)  # noqa: E731
            self._every(ticks.deliver_s, f"deliver-{destination.name}", self._until_idle(send))
            if destination.proof != "none":
                ask = lambda one=destination: proof.prove(site, one)  # noqa: E731
                self._every(ticks.prove_s, f"prove-{destination.name}", self._until_idle(ask))
        self._every(ticks.watchdog_s, "watchdog", lambda: workflow.take_back(site, is_dead=is_dead_worker, at=utc_now()))
        self._every(site.settings.audit.seal_every_s, "seal", lambda: sealing.seal(site.database, at=utc_now()))
        if site.settings.audit.anchor_key_file is not None:
            self._every(
                site.settings.audit.anchor_every_s, "anchor",
                lambda: sealing.anchor(site.database, site.settings.audit, at=utc_now()),
            )  # fmt: skip
        if site.settings.audit.repository:
            forward = lambda: repository.forward(site.settings, site.database, at=utc_now())  # noqa: E731
            self._every(site.settings.audit.repository_every_s, "repository", self._until_idle(forward))
        self._every(ticks.retention_s, "retention", lambda: workflow.purge(site, at=utc_now()))
        self._every(CERTIFICATES_EVERY_S, "certificates", lambda: expiry.watch(site.settings, site.database, at=utc_now()))
        self._scheduler.start()

    def stop(self) -> None:
        """Stop ticking, end the runs in progress (their jobs happen again) and wait for the rest."""
        self._stopping.set()
        for engine in self._engines:
            engine.close()
        self._scheduler.shutdown(wait=True)
        for engine in self._engines:
            engine.close()

    def _submit(self, engine: Engine, worker: str) -> Callable[[], bool]:
        return lambda: workflow.submit(self._site, engine, worker=worker)

    def _until_idle(self, step: Callable[[], bool]) -> Callable[[], None]:
        def steps() -> None:
            while not self._stopping.is_set() and step():
                continue

        return steps

    def _every(self, seconds: float, name: str, tick: Callable[[], object]) -> None:
        self._scheduler.add_job(_guarded(name, tick), "interval", seconds=seconds, id=name, next_run_time=utc_now())


def _guarded(name: str, tick: Callable[[], object]) -> Callable[[], None]:
    def guarded() -> None:
        try:
            tick()
        except DatabaseBusy as error:
            log.warning("tick put off: database busy", tick=name, error=str(error))
        except Exception as error:
            log.exception("tick failed", tick=name, error=type(error).__name__)

    return guarded


def boot_identity() -> str:
    """What tells this machine's monotonic clock from another's, or from its own before a reboot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = str(int(psutil.boot_time()))
    return f"{socket.gethostname()}:{boot}"


def worker_name(part: str) -> str:
    """A name that says which process of which machine holds a lease, so that its death can be seen."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}:{part}"


def is_dead_worker(worker: str) -> bool:
    """True where the worker was a process of this machine that no longer exists; False where that cannot be known."""
    host, _, rest = worker.partition(":")
    pid, _, rest = rest.partition(":")
    created, _, _ = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except psutil.NoSuchProcess:
        return True
