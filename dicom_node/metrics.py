"""What a monitoring system may know: Prometheus metrics, with nothing of any patient in them.

Most figures are read from the database at each scrape, so that a restart loses none. What only the listener
sees (associations, answers, the time a store takes) it counts itself and saves beside the spool; the web
page's `/metrics` passes that on, so that one address is enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    write_to_textfile,
)
from prometheus_client import ProcessCollector as _ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.catalog import software_version
from dicom_node.certificates import NoCertificate, configured_files, first_expiry
from dicom_node.settings import Settings
from storage import circuits, commitments, queries, repository, turnaround
from storage.database import Database, DatabaseBusy
from storage.read_models import Standing

FRESH_S = 120.0
"""A listener that saved nothing for this long counts as down."""
SPAN = timedelta(hours=24)
QUANTILES = (0.5, 0.9, 0.99)
_STORE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def listener_file(settings: Settings, number: int = 0) -> Path:
    """Where the listener of this number saves its counters: beside the spool."""
    return settings.storage.spool.parent / "metrics" / f"listener{number or ''}.prom"


class ListenerMetrics:
    """What a door, the listener or STOW-RS in, counts. Labels are fixed words or status codes, never a peer's words."""

    def __init__(self, door: str = "listener") -> None:
        self.registry = CollectorRegistry()
        self._associations = Counter(
            f"fovea_{door}_associations",
            "Associations, or requests, by how they ended",
            ["outcome"],
            registry=self.registry,
        )
        self._connections = Counter(
            f"fovea_{door}_connections_ended",
            "Connections that the listener ended for what they sent, or did not send",
            ["reason"],
            registry=self.registry,
        )
        self._open = Gauge(f"fovea_{door}_open_associations", "Associations, or requests, open now", registry=self.registry)
        self._strangers = Counter(
            f"fovea_{door}_strangers",
            "Connections and associations that were not let in, by what they did",
            ["what"],
            registry=self.registry,
        )
        self._answers = Counter(
            f"fovea_{door}_answers",
            "Objects by status answered",
            ["status"],
            registry=self.registry,
        )
        self._bytes = Counter(f"fovea_{door}_received_bytes", "Bytes received and kept", registry=self.registry)
        self._seconds = Histogram(
            f"fovea_{door}_store_seconds",
            "From the last byte of an object to its answer",
            buckets=_STORE_SECONDS,
            registry=self.registry,
        )
        self._saved = Gauge(f"fovea_{door}_saved_timestamp_seconds", "When these counters were saved", registry=self.registry)

    def association_opened(self) -> None:
        """Count an accepted association."""
        self._open.inc()

    def association_closed(self, outcome: str) -> None:
        """Count the end of an accepted association: `released`, `aborted`, `interrupted`."""
        self._open.dec()
        self._associations.labels(outcome).inc()

    def association_refused(self) -> None:
        """Count an association that was refused."""
        self._associations.labels("refused").inc()

    def connection_ended(self, reason: str) -> None:
        """Count a connection that was ended from our side: a word of `guard.Ended`."""
        self._connections.labels(str(reason)).inc()

    def stranger(self, what: str) -> None:
        """Count a connection or association that was not let in: a word of `dicom_node.strangers.Intrusion`."""
        self._strangers.labels(what).inc()

    def instance_answered(self, status: int, *, size: int, seconds: float) -> None:
        """Count one C-STORE answer: DIMSE status, bytes of the data set, seconds from its last byte."""
        self._answers.labels(f"0x{status:04X}").inc()
        self._seconds.observe(seconds)
        if status == 0x0000:
            self._bytes.inc(size)

    def save(self, path: Path) -> None:
        """Write the counters to the file, at once and whole. Raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._saved.set(time.time())
        write_to_textfile(str(path), self.registry)


class NodeCollector(Collector):
    """Reads the database at each scrape."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def describe(self) -> Iterator[Metric]:
        """Nothing: so that registering does not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics; where the database does not answer, that fact and what needs no database."""
        yield _gauge("fovea_build", "Version of the program", [({"version": software_version()}, 1)])
        yield from _certificates(self._settings)
        yield _gauge("fovea_spool_free_bytes", "Free space on the spool's disk", [({}, self._free_bytes())])
        try:
            with _reading(self._database) as session:
                found = [*_queue(session), *_destinations(session), *_outcomes(session), *_times(session)]
                found += _upkeep(session, self._settings)
        except (DatabaseBusy, SQLAlchemyError):
            found = []
        yield _gauge("fovea_database_up", "1 where the database answers", [({}, 1 if found else 0)])
        yield from found

    def _free_bytes(self) -> float:
        folder = self._settings.storage.spool
        return float(psutil.disk_usage(str(folder)).free) if folder.exists() else 0.0


def exposition(settings: Settings, database: Database, stow: ListenerMetrics | None = None) -> tuple[bytes, str]:
    """The text of `/metrics` and its content type: database, this process, the counters of the listeners and of STOW-RS in."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(settings, database))
    _ProcessCollector(registry=registry)
    saved = _saved_by_listeners([listener_file(settings, number) for number in range(settings.receive.listeners)])
    up = Gauge("fovea_listener_up", "1 where the listener saved its counters lately", registry=registry)
    up.set(1 if saved else 0)
    here = b"" if stow is None else generate_latest(stow.registry)
    return generate_latest(registry) + saved + here, CONTENT_TYPE_LATEST


def _reading(database: Database) -> AbstractContextManager[Session]:
    return database.read()


def _saved_by_listeners(paths: Sequence[Path]) -> bytes:
    """What the listeners saved lately, added up; of the times they saved the last."""
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for path in paths:
        for family in _saved(path):
            kept = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into = values.setdefault(kept.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                is_time = sample.name.endswith("_timestamp_seconds") or sample.name.endswith("_created")
                into[key] = max(into.get(key, 0.0), sample.value) if is_time else into.get(key, 0.0) + sample.value
    for name, family in merged.items():
        for (sample_name, labels), value in values[name].items():
            family.add_sample(sample_name, dict(labels), value)
    registry = CollectorRegistry()
    if merged:
        registry.register(_Merged(list(merged.values())))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """The families as they are."""
        return iter(self._families)


def _saved(path: Path) -> list[Metric]:
    try:
        fresh = time.time() - path.stat().st_mtime <= FRESH_S
        return list(text_string_to_metric_families(path.read_text("utf-8"))) if fresh else []
    except OSError:
        return []


def _certificates(settings: Settings) -> Iterator[Metric]:
    samples: list[tuple[dict[str, str], float]] = []
    for key, path in configured_files(settings).items():
        try:
            samples.append(({"file": key}, first_expiry(path).timestamp()))
        except NoCertificate:
            samples.append(({"file": key}, 0))
    if samples:
        yield _gauge("fovea_certificate_expires_timestamp_seconds", "When a certificate file expires; 0: unreadable", samples)


def _queue(session: Session) -> Iterator[Metric]:
    overview = queries.queue_overview(session)
    now = datetime.now(UTC)
    yield _gauge("fovea_studies", "Studies by state", [({"state": s}, n) for s, n in overview.studies.items()])
    standings = queries.count_standings(session)
    yield _gauge(
        "fovea_studies_standing",
        "Studies by what a reader is told of them",
        [({"standing": standing}, standings.get(standing, 0)) for standing in Standing],
    )
    yield _gauge("fovea_jobs", "Jobs by state", [({"state": s}, n) for s, n in overview.jobs.items()])
    yield _gauge(
        "fovea_deliveries",
        "Deliveries by destination and state; FAILED is a dead letter",
        [
            ({"destination": one.destination, "state": state}, count)
            for one in queries.list_destinations(session)
            for state, count in one.deliveries.items()
        ],
    )
    yield _gauge(
        "fovea_oldest_waiting_seconds",
        "Age of the oldest job or delivery that waits; 0 where none does",
        [
            ({"what": "job"}, _age_s(overview.oldest_waiting_job, now)),
            ({"what": "delivery"}, _age_s(overview.oldest_waiting_delivery, now)),
        ],
    )


def _destinations(session: Session) -> Iterator[Metric]:
    known = circuits.list_circuits(session)
    yield _gauge(
        "fovea_destination_down",
        "1 where only probes go out to the destination",
        [({"destination": one.destination}, 0 if one.opened_at is None else 1) for one in known],
    )
    yield _gauge(
        "fovea_destination_connection_failures",
        "Connection failures in a row",
        [({"destination": one.destination}, one.failures) for one in known],
    )
    yield _gauge(
        "fovea_proofs",
        "Requests for proof of arrival by kind and state",
        [({"kind": kind, "state": state}, count) for (kind, state), count in commitments.count_requests(session).items()],
    )


def _outcomes(session: Session) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "fovea_jobs_ended",
        "Jobs that ended, by outcome and reason code",
        labels=["model", "outcome", "reason"],
    )
    for one in turnaround.ended_jobs(session):
        ended.add_metric([one.model, one.outcome, one.reason], one.count)
    yield ended


def _times(session: Session) -> Iterator[Metric]:
    since = datetime.now(UTC) - SPAN
    stages = turnaround.stage_seconds(session, since=since)
    yield _gauge(
        "fovea_stage_seconds",
        "How long a stage took, over the last 24 hours",
        [({"stage": s, "quantile": str(q)}, v) for s, seconds in stages.items() for q, v in _quantiles(seconds)],
    )
    scores = turnaround.study_scores(session, since=since)
    yield _gauge(
        "fovea_study_score",
        "Study scores over the last 24 hours; a drift asks for a closer look",
        [({"model": m, "quantile": str(q)}, v) for m, values in scores.items() for q, v in _quantiles(values)],
    )


def _upkeep(session: Session, settings: Settings) -> Iterator[Metric]:
    unsealed = turnaround.unsealed_events(session)
    yield _gauge("fovea_audit_unsealed_events", "Events not yet in the hash chain", [({}, unsealed)])
    if settings.audit.repository:
        yield _gauge("fovea_audit_unsent_events", "Chained events the repository lacks", [({}, repository.count_unsent(session))])
        is_up = 0 if repository.is_failing(session) else 1
        yield _gauge("fovea_audit_repository_up", "1 where the repository took the last batch", [({}, is_up)])
    beat = turnaround.last_beat(session)
    if beat is not None:
        age_s = _age_s(beat, datetime.now(UTC))
        yield _gauge("fovea_scheduler_beat_age_seconds", "Time since the scheduler's last tick", [({}, age_s)])


def _quantiles(rising: Sequence[float]) -> list[tuple[float, float]]:
    """Nearest-rank quantiles; none of an empty list."""
    if not rising:
        return []
    return [(q, rising[min(len(rising) - 1, int(q * len(rising)))]) for q in QUANTILES]


def _age_s(value: datetime | None, now: datetime) -> float:
    return 0.0 if value is None else max(0.0, (now - value).total_seconds())


def _gauge(name: str, text: str, samples: Sequence[tuple[dict[str, str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(samples[0][0]) if samples else [])
    for labels, value in samples:
        family.add_metric([str(label) for label in labels.values()], value)
    return family
