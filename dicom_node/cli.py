"""The `fovea` command: the node's roles, what a PACS administrator asks of it, and what a compliance officer asks.

Answers go to standard output, talk to standard error; `--json` where a program may read the answer. Exit status: 0 done,
1 a fault of the program, 2 a wrong call or configuration, 3 unsuitable input, 4 something that may work later.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dicom_node import cli_audit, cli_drift, cli_evaluate, cli_files, cli_models, cli_train
from dicom_node.console import (
    TRY_LATER,
    UNSUITABLE,
    WRONG_CALL,
    AsJson,
    CommandError,
    Config,
    opened,
    print_json,
    screen,
    user_name,
)
from dicom_node.settings import SettingsError, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
db = typer.Typer(no_args_is_help=True, help="The database: upgrade, revision.")
audit = typer.Typer(invoke_without_command=True, help="What happened: by accession number, study, patient, peer, model, time.")
app.add_typer(db, name="db")
app.add_typer(audit, name="audit")
cli_audit.add_to(audit)
cli_models.add_to(app)
cli_evaluate.add_to(app)
cli_drift.add_to(app)
cli_train.add_to(app)
cli_files.add_to(app)


def main() -> None:
    """Run the command line; errors that a person can act on become one line and an exit status."""
    from dicom_node.explain import UnknownStudy
    from dicom_node.tls import TlsFilesError
    from inference.card import BundleError
    from inference.types import Refusal
    from storage.database import DatabaseBusy
    from storage.spool import NoRoom, SpoolError
    from storage.states import InvalidMove

    try:
        app()
    except CommandError as error:
        _fail(str(error), error.status)
    except (SettingsError, TlsFilesError, BundleError, UnknownStudy, InvalidMove) as error:
        _fail(str(error), WRONG_CALL)
    except Refusal as error:
        _fail(f"{error.code}: {error}", UNSUITABLE)
    except (DatabaseBusy, NoRoom, SpoolError) as error:
        _fail(str(error), TRY_LATER)
    except BrokenPipeError:
        sys.exit(0)


def _fail(text: str, status: int) -> None:
    screen.print(f"fovea: {text}", style="red", highlight=False, markup=False)
    sys.exit(status)


# ------------------------------------------------------------------------------------------------- roles


@app.command()
def serve(config: Config = None) -> None:
    """Run the whole node: listener, worker and web page, each a process of its own."""
    from dicom_node import logs, supervise
    from storage.database import Database

    settings = load_settings(config)
    logs.configure()
    database = Database(settings.storage.url())
    database.upgrade()
    database.dispose()
    supervise.serve([supervise.Role(name, (name,)) for name in ("listen", "work", "web")], config)


@app.command()
def listen(
    config: Config = None,
    number: Annotated[int, typer.Option(hidden=True)] = 0,
    descriptor: Annotated[int, typer.Option(hidden=True, help="the listening socket that is inherited")] = -1,
    tls_descriptor: Annotated[int, typer.Option(hidden=True, help="the same of the TLS port")] = -1,
) -> None:
    """Receive DICOM objects (C-ECHO, C-STORE)."""
    from dicom_node.listeners import Place

    count = load_settings(config).receive.listeners
    if count > 1 and descriptor < 0:
        _listen_together(count, config)
        return
    place = Place(number, count, descriptor, tls_descriptor if tls_descriptor >= 0 else None) if descriptor >= 0 else Place()

    def start(site: Any) -> Callable[[], None]:
        import structlog

        from dicom_node.scp import Listener

        log = structlog.get_logger("dicom_node.scp")
        listener = Listener(site.settings, site.database, site.spool, place=place, log=log)
        port = listener.start()
        screen.print(f"listening as {site.settings.node.ae_title} on {site.settings.node.host} port {port}")
        return listener.stop

    _role(f"listen {number}" if number else "listen", config, start)


def _listen_together(count: int, config: Path | None) -> None:
    from dicom_node import listeners, logs, supervise

    supervise.die_with_supervisor()
    logs.configure()
    settings = load_settings(config)
    node, tls = settings.node, settings.tls
    with ExitStack() as stack:
        ports = {"--descriptor": stack.enter_context(listeners.bind(node.host, node.port))}
        if tls.is_open:
            ports["--tls-descriptor"] = stack.enter_context(listeners.bind(tls.host or node.host, tls.port))
        shared = tuple(bound.fileno() for bound in ports.values())
        inherited = [text for option, bound in ports.items() for text in (option, str(bound.fileno()))]
        supervise.serve(
            [
                supervise.Role(f"listen {number}", ("listen", "--number", str(number), *inherited), shared)
                for number in range(count)
            ],
            config,
        )


@app.command()
def work(config: Config = None) -> None:
    """Settle studies, run models, deliver results."""

    def start(site: Any) -> Callable[[], None]:
        from dicom_node.schedule import Schedule

        schedule = Schedule(site)
        schedule.start()
        return schedule.stop

    _role("work", config, start)


@app.command()
def web(config: Config = None) -> None:
    """Serve the read-only web page, /healthz, /readyz and /metrics."""
    from dicom_node import logs, supervise
    from dicom_node.site import note_start, note_stop
    from dicom_node.web import serve_web

    supervise.die_with_supervisor()
    logs.configure()
    with opened(config) as site:
        note_start(site, "web")
        serve_web(site.settings, site.database, site.spool)
        note_stop(site, "web")


def _role(name: str, config: Path | None, start: Callable[[Any], Callable[[], None]]) -> None:
    from dicom_node import logs, supervise
    from dicom_node.site import note_start, note_stop

    supervise.die_with_supervisor()
    logs.configure()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with opened(config) as site:
        note_start(site, name)
        stop = start(site)
        while not stopping.wait(1.0):
            continue
        stop()
        note_stop(site, name)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the results are shown instead of staying up")] = False,
    folder: Annotated[Path, typer.Option(help="where the node's and the simulated PACS's files go")] = Path("var/demo"),
) -> None:
    """A node, its web page and a simulated PACS on this machine, and a synthetic head sent through the wire."""
    from dicom_node.demo import run_demo

    run_demo(once=once, folder=folder)


# ------------------------------------------------------------------------------------------------- looking


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """What is received, waiting, running, sent and stuck."""
    from dicom_node import status_view

    with opened(config) as site, site.database.read() as session:
        overview = status_view.overview(session)
    if as_json:
        print_json(overview)
    else:
        status_view.print_overview(Console(), overview)


@app.command()
def reconcile(day: Annotated[str, typer.Argument(help="YYYY-MM-DD (UTC), today or yesterday")] = "yesterday",
              config: Config = None, as_json: AsJson = False) -> None:  # fmt: skip
    """What was received on a day against what became of it; exit status 4 where something is open, lost or unproven. Audited."""
    from dicom_node import reconcile_view
    from dicom_node.workflow import utc_now

    try:
        chosen = reconcile_view.day_named(day, utc_now().date())
    except ValueError as error:
        raise CommandError(f"{day!r} is not a day: {error}") from error
    with opened(config) as site:
        with site.database.read() as session:
            balance = reconcile_view.balance_of(site, session, chosen)
        with site.database.write() as session:
            reconcile_view.record_query(session, chosen, balance, user=user_name(), at=utc_now())
    if as_json:
        print_json(reconcile_view.as_json(chosen, balance))
    else:
        reconcile_view.show(Console(width=None if sys.stdout.isatty() else 220), chosen, balance)
    if balance.difference:
        raise CommandError(f"{len(balance.difference)} studies of {chosen} are not accounted for", TRY_LATER)


@app.command()
def explain(study: Annotated[str, typer.Argument(help="Study Instance UID or accession number")],
            config: Config = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Which rule took which series of a study, which did not, and why. With --config: a dry run of changed rules."""
    from dicom_node.explain import explain as explain_study
    from dicom_node.explain import find_study

    with opened(config) as site, site.database.read() as session:
        found = find_study(session, study)
        facts = {
            "study_instance_uid": found.study_instance_uid,
            "state": found.state,
            "revision": found.revision,
            "reason": found.reason,
            "forced_complete": found.forced,
            "incomplete": found.incomplete,
        }
        rules = explain_study(site, session, found)
    if as_json:
        print_json({**facts, "rules": [asdict(rule) for rule in rules]})
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(
        f"study {facts['study_instance_uid']}: {facts['state']} (revision {facts['revision']}), {facts['reason'] or 'no remark'}"
    )
    if facts["incomplete"]:
        console.print(f"it may be incomplete: {facts['incomplete']}", highlight=False, markup=False)
    if not rules:
        console.print("no rules are configured: nothing would be analysed")
    for rule in rules:
        _print_rule(console, rule)


def _print_rule(console: Console, rule: Any) -> None:
    why = f" ({rule.code}: {rule.text})" if rule.code else ""
    console.print(f"\nrule {rule.rule}, model {rule.model}: {rule.outcome}{why}", highlight=False)
    if rule.outcome in {"analyses", "reports a refusal"}:
        console.print(f"  results go to {', '.join(rule.destinations)}", highlight=False)
    if rule.series:
        table = Table("series", "description", "modality", "geometry", "verdict", "reason")
        for one in rule.series:
            reason = f"{one.code}: {one.text}" if one.code else ""
            table.add_row(str(one.series_number or "-"), one.description, one.modality, one.geometry, one.verdict, reason)
        console.print(table)


# ------------------------------------------------------------------------------------------------- acting


@app.command()
def resubmit(
    job: Annotated[int | None, typer.Option(help="a failed job")] = None,
    delivery: Annotated[int | None, typer.Option(help="a delivery that became a dead letter")] = None,
    study: Annotated[str, typer.Option(help="all failed jobs and deliveries of this study (UID or accession number)")] = "",
    config: Config = None,
) -> None:
    """Try failed jobs or deliveries again, from attempt 0. Audited."""
    from dicom_node import acting

    if (job is not None) + (delivery is not None) + bool(study) != 1:
        raise CommandError("give one of --job, --delivery, --study")
    with opened(config) as site, site.database.write() as session:
        done = acting.resubmit(session, user=user_name(), job_id=job, delivery_id=delivery, study=study)
    for line in done:
        typer.echo(line)
    if not done:
        raise CommandError("nothing of that study has failed")


@app.command()
def release(
    study: Annotated[str, typer.Argument(help="Study Instance UID or accession number")],
    discard: Annotated[bool, typer.Option("--discard", help="delete the study's files instead of going on")] = False,
    include_held: Annotated[bool, typer.Option("--include-held", help="take the held instances in as part of the study")] = False,
    config: Config = None,
) -> None:
    """End the quarantine of a study: go on without the held instances, with them, or discard it. Audited."""
    from dicom_node import acting

    if discard and include_held:
        raise CommandError("--discard and --include-held exclude each other")
    with opened(config) as site:
        with site.database.write() as session:
            text, paths = acting.release(session, site.spool, study, user=user_name(), discard=discard, include_held=include_held)
        for path in paths:
            site.spool.delete(path)
    typer.echo(text)


# ------------------------------------------------------------------------------------------------- settings, database


@app.command()
def settings(
    config: Config = None,
    check: Annotated[bool, typer.Option("--check", help="only validate the configuration")] = False,
    as_json: AsJson = False,
) -> None:
    """Every setting with its meaning, default and present value."""
    from dicom_node import settings_view

    loaded = load_settings(config)
    if check:
        typer.echo("the configuration is valid")
    elif as_json:
        sys.stdout.write(loaded.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(settings_view.page(loaded))


@db.command()
def upgrade(config: Config = None) -> None:
    """Bring the schema to the newest revision (also done at every start)."""
    with opened(config) as site:
        typer.echo(f"the schema is at revision {site.database.revision()}")


@db.command()
def revision(config: Config = None) -> None:
    """The schema's revision in the database and in the program."""
    from storage.database import Database

    database = Database(load_settings(config).storage.url())
    typer.echo(f"database {database.revision() or 'empty'}, program {database.head_revision()}")
    database.dispose()


if __name__ == "__main__":
    main()
