"""The installed program as a process: started with a configuration of its own, killed, started again, asked on the command line.

Every node has a folder of its own (configuration, spool, database, log) and free ports of loopback. `started` waits until the
node answers a C-ECHO; what it knows is read from its database as any other reader of that database would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from storage import queries
from storage.database import Database
from storage.models import Event, Instance, Series, Study
from storage.read_models import JobStory, StudyStory
from storage.states import DeliveryState, JobState, StudyState
from tests.peers import echo
from tests.waiting import free_port, wait_until

START_TIMEOUT_S = 180.0
LOG_LINES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Target:
    """A destination as the configuration names it."""

    name: str
    ae_title: str
    port: int
    proof: str = "none"


@dataclass(frozen=True, slots=True)
class RuleText:
    """One rule; `more` holds further lines of TOML."""

    name: str
    destinations: tuple[str, ...]
    more: str = ""


@dataclass(slots=True)
class Node:
    """One node: a folder, a configuration, and while it runs a process group."""

    folder: Path
    targets: Sequence[Target]
    rules: Sequence[RuleText]
    settle_after_s: float = 1.0
    database_url: str = ""
    peers: Sequence[str] = ("MODALITY",)
    bundle: Path | None = None
    """Another model than the one shipped."""
    command: str = "serve"
    """Or one role alone, as a service manager starts it."""
    receive: Mapping[str, object] = field(default_factory=dict)
    """Further keys of the section."""
    reserve_mb: float = 50.0
    """Free space that must remain."""
    more: str = ""
    """Further sections."""
    prefix: Sequence[str] = ()
    """A program that starts the node, as `unshare` does."""
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    orphans: list[psutil.Process] = field(default_factory=list)
    """Children of killed workers: they end by themselves, once the libraries that they are importing are there."""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "fovea.toml"

    @property
    def spool(self) -> Path:
        """The folder of received and made files."""
        return self.folder / "var" / "spool"

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.spool.parent / 'fovea.sqlite'}"

    # ------------------------------------------------------------------------------------------- life

    def write_configuration(self) -> None:
        """Write the configuration file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(configuration(self), encoding="utf-8")

    def start(self) -> None:
        """Write the configuration and start `fovea serve` (or one role) in a process group of its own."""
        self.write_configuration()
        with (self.folder / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "dicom_node.cli", self.command, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment(),
            )

    def await_echo(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the node answers a C-ECHO of a known peer."""
        def answers() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the node ended with {self.process.returncode}\n{self.last_lines()}")
            return echo(self.port, self.peers[0])

        try:
            wait_until("the node answers a C-ECHO", answers, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.last_lines()}") from None

    def stop(self) -> None:
        """Stop in order (SIGTERM), and wait; nothing of it may be left."""
        family, self.orphans = self.orphans, []
        if self.process is not None:
            family = [*family, *self.processes()]
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(40)
                except subprocess.TimeoutExpired:
                    os.killpg(self.process.pid, signal.SIGKILL)
                    self.process.wait()
            self.process = None
        gone(family)

    def kill_group(self) -> None:
        """kill -9 of the whole process group: supervisor and roles in one blow."""
        self._kill(lambda process_id: os.killpg(process_id, signal.SIGKILL))

    def kill_supervisor(self) -> None:
        """kill -9 of the supervisor alone; its roles must follow by themselves."""
        self._kill(lambda process_id: os.kill(process_id, signal.SIGKILL))

    def _kill(self, blow: Callable[[int], None]) -> None:
        assert self.process is not None
        family = self.processes()
        children = [one for one in family if "dicom_node.child" in command_line(one)]
        blow(self.process.pid)
        self.process.wait()
        self.orphans += children
        gone([one for one in family if one not in children])

    def processes(self) -> list[psutil.Process]:
        """The supervisor, its roles, and the children in which runs happen."""
        assert self.process is not None
        try:
            supervisor = psutil.Process(self.process.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def role(self, name: str) -> psutil.Process:
        """The process of one role: `listen`, `work` or `web`."""

        def find() -> psutil.Process | None:
            return next((one for one in self.processes() if name in command_line(one)), None)

        return wait_until(f"role {name} runs", find, 30)

    def last_lines(self) -> str:
        """The end of the node's log."""
        log = self.folder / "node.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]) if log.exists() else "no log"

    # ------------------------------------------------------------------------------------------- asking

    def fovea(self, *arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The command line with this node's configuration (or another)."""
        command = [sys.executable, "-m", "dicom_node.cli", *arguments, "--config", str(config or self.config)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        """Status and body of a page of the web role."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.web_port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    @property
    def token(self) -> str:
        """The web page's access token."""
        return (self.spool.parent / "web.token").read_text(encoding="ascii").strip()

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The node's database, opened for the block."""
        opened = Database(self.url)
        try:
            yield opened
        finally:
            opened.dispose()

    def story(self, study_instance_uid: str) -> StudyStory | None:
        """Everything the node knows of the study, or None."""
        with self.database() as database, database.read() as session:
            number = queries.study_id(session, study_instance_uid)
            return None if number is None else queries.study_story(session, number)

    def told(self, study_instance_uid: str) -> StudyStory:
        """The story of a study that must be there."""
        story = self.story(study_instance_uid)
        assert story is not None, f"the node does not know study {study_instance_uid}"
        return story

    def events(self, study_instance_uid: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Kind and detail of every event, of one study or of all, in order."""
        with self.database() as database, database.read() as session:
            chosen = select(Event).order_by(Event.id)
            if study_instance_uid is not None:
                chosen = chosen.where(Event.study_instance_uid == study_instance_uid)
            return [(event.kind, dict(event.detail)) for event in session.scalars(chosen)]

    def kept(self, study_instance_uid: str) -> dict[str, Path]:
        """SOP Instance UID and file of every instance of the study that is not one of our results."""
        with self.database() as database, database.read() as session:
            rows = session.execute(
                select(Instance.sop_instance_uid, Instance.path)
                .join(Series, Instance.series_id == Series.id)
                .join(Study, Series.study_id == Study.id)
                .where(Study.study_instance_uid == study_instance_uid, Instance.own.is_(False))
            )
            return {uid: self.spool / path for uid, path in rows if path is not None}

    def own_back(self, study_instance_uid: str) -> int:
        """How many of our own results came back in the study."""
        story = self.story(study_instance_uid)
        return 0 if story is None else sum(series.own for series in story.series)

    def await_delivered(self, study_instance_uid: str, *, revision: int = 1, timeout_s: float = 180.0) -> JobStory:
        """Wait until the study's revision is settled, analysed and delivered; its newest job."""

        def done() -> JobStory | None:
            story = self.story(study_instance_uid)
            if story is None or story.study.state is not StudyState.SETTLED or story.study.revision < revision:
                return None
            jobs = [job for job in story.jobs if job.row.state is not JobState.CANCELED]
            ended = jobs and all(job.row.state in (JobState.COMPLETED, JobState.FAILED) for job in jobs)
            return jobs[0] if ended and all(is_delivered(job) for job in jobs) else None

        try:
            return wait_until(f"study {study_instance_uid} is analysed and its results delivered", done, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story(study_instance_uid)}\n{self.last_lines()}") from None

    def await_state(self, study_instance_uid: str, state: StudyState, timeout_s: float = 60.0) -> StudyStory:
        """Wait until the study is in the state."""

        def reached() -> StudyStory | None:
            story = self.story(study_instance_uid)
            return story if story is not None and story.study.state is state else None

        try:
            return wait_until(f"study {study_instance_uid} is {state}", reached, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story(study_instance_uid)}\n{self.last_lines()}") from None


def is_delivered(job: JobStory) -> bool:
    """True where every delivery of the job ended well or was called back."""
    ends = (DeliveryState.STORED, DeliveryState.COMMITTED, DeliveryState.CANCELED)
    return bool(job.deliveries) and all(one.state in ends for one in job.deliveries)


def current_reports(story: StudyStory) -> list[str]:
    """SOP Instance UIDs of the reports that no other replaces."""
    return [one.sop_instance_uid for job in story.jobs for one in job.results if one.kind == "SR" and not one.superseded]


@contextmanager
def running(node: Node) -> Iterator[Node]:
    """The node, started and answering, for the length of the block."""
    node.start()
    try:
        node.await_echo()
        yield node
    finally:
        node.stop()


def gone(processes: Sequence[psutil.Process], timeout_s: float = 30.0) -> None:
    """Wait until none of the processes is left. Raises AssertionError naming those that are, and ends them."""
    _, left = psutil.wait_procs(processes, timeout=timeout_s)
    if left:
        names = [f"{one.pid} {' '.join(command_line(one))}" for one in left]
        for one in left:
            one.kill()
        raise AssertionError(f"processes of the node outlived it: {names}")


def command_line(process: psutil.Process) -> list[str]:
    """The process's arguments; empty where it has ended."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FOVEA_") or key == "FOVEA_DATA"}
    return {**kept, "PYTHONWARNINGS": "default"}


def configuration(node: Node) -> str:
    """The node's TOML file: quick ticks, short waits, one model."""
    lines: list[str] = []
    _section(lines, "[node]", {"port": node.port})
    for peer in node.peers:
        _section(lines, "[[peers]]", {"ae_title": peer, "addresses": ["127.0.0.1"]})
    _section(lines, "[storage]", {"spool": str(node.spool), "database_url": node.database_url, "reserve_mb": node.reserve_mb})
    _section(lines, "[receive]", {"settle_after_s": node.settle_after_s, **node.receive})
    _section(lines, "[[models]]", {"name": "brain-flair"} | ({"path": str(node.bundle)} if node.bundle else {}))
    for rule in node.rules:
        _section(lines, "[[rules]]", {"name": rule.name, "model": "brain-flair", "destinations": list(rule.destinations)})
        lines[-1:] = [rule.more, ""]
    for target in node.targets:
        values = {"name": target.name, "ae_title": target.ae_title, "host": "127.0.0.1", "port": target.port}
        _section(lines, "[[destinations]]", {**values, "proof": target.proof, "timeout_s": 10.0})
    _section(lines, "[run]", {"threads": 2, "device": "cpu", "retry_after_s": 0.2, "lease_s": 20.0})
    _section(lines, "[delivering]", {"retry_after_s": 0.5, "retry_at_most_s": 2.0, "lease_s": 20.0})
    _section(lines, "[web]", {"port": node.web_port})
    _section(lines, "[audit]", {"seal_every_s": 0.5})
    _section(lines, "[ticks]", {"settle_s": 0.2, "submit_s": 0.2, "deliver_s": 0.2, "watchdog_s": 0.5})
    return "\n".join([*lines, node.more])


def _section(lines: list[str], heading: str, values: Mapping[str, object]) -> None:
    lines.append(heading)
    lines.extend(f"{key} = {_toml(value)}" for key, value in values.items())
    lines.append("")


def _toml(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return str(value)
