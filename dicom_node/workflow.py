"""The whole story of a study, from the last image to the last acknowledgement; the only place where everything meets.

settle   a study that has been quiet becomes SETTLED; each rule decides; jobs are made in the same transaction
submit   a free worker claims a job, has it run in a child process, and keeps what comes back
finish   results go to the spool, then job, results and deliveries become rows in one transaction
deliver  what is due is sent; every instance has its own state at every destination; `proof` asks whether it arrived
purge    files of studies that were delivered long ago are deleted; rows and events stay

Every step takes its work from the database and leaves its outcome there, so a process may die anywhere: what was not
committed happens again, and what was committed does not. The scheduler decides when, these functions decide what.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import circuit, dicomweb, fallback, ledger, scu
from dicom_node.catalog import InstalledModel, output_options, recipe_digest
from dicom_node.engine import Engine, RunFailed
from dicom_node.outcome import KIND_OF_OBJECT, Outcome, Reason, RunOutcome, RunRequest
from dicom_node.routing import Decision, Plan, decide, plan_of
from dicom_node.settings import Destination, Settings
from storage import commitments, events, queue, retention
from storage.commitments import CommitmentKind
from storage.database import Database, DatabaseBusy
from storage.events import EventKind
from storage.models import Job, Study
from storage.queue import DeliveryClaim, JobClaim
from storage.spool import Area, Spool
from storage.states import DeliveryState, StudyEvent

log = structlog.get_logger(__name__)

MOST_CLAIMS = 100
"""Claims of one job before it is given up though no run of it failed: whole workers ended each time."""
PRIORITIES = {"urgent": 10, "normal": 0, "off-peak": -10}


def utc_now() -> datetime:
    """The time that rows carry."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """What every step needs: the configuration, the rows, the files and the installed models."""

    settings: Settings
    database: Database
    spool: Spool
    models: dict[str, InstalledModel]


# ---------------------------------------------------------------------------------------------------- settle


def settle(site: Site, *, holder: str, monotonic_s: float, at: datetime) -> int:
    """Count the quiet time and settle every study that is due; the number settled."""
    tick_s = site.settings.ticks.settle_s
    receive = site.settings.receive
    with site.database.write() as session:
        elapsed_s = queue.tick_clock(session, holder=holder, monotonic_s=monotonic_s, at=at, cap_s=5 * tick_s)
        queue.count_quiet(session, elapsed_s)
        due = queue.due_studies(session, settle_after_s=receive.settle_after_s, maximum_age_s=receive.maximum_age_s)
        for study in due:
            settle_study(site, session, study, at=at)
    return len(due)


def settle_study(site: Site, session: Session, study: Study, *, at: datetime) -> None:
    """Close the study and make its jobs, in the caller's transaction."""
    forced = study.quiet_s < site.settings.receive.settle_after_s
    how = "closed by force at its maximum age" if forced else f"quiet for {study.quiet_s:.0f} s"
    queue.move_study(session, study, StudyEvent.SETTLE, at=at, reason=how)
    validity = {name: model.card.validity for name, model in site.models.items()}
    decisions = decide(ledger.study_facts(session, study), site.settings.rules, validity)
    wanted = [_want_job(site, session, study, one, at=at) for one in decisions]
    queue.cancel_open_jobs(session, study, at=at, keep={job.id for job in wanted if job is not None})


def _want_job(site: Site, session: Session, study: Study, decision: Decision, *, at: datetime) -> Job | None:
    model = site.models[decision.rule.model]
    events.append(
        session, EventKind.RULE_DECIDED, at=at, study=study, model=ledger.model_label(model),
        model_digest=model.digest, detail=ledger.decision_detail(decision),
    )  # fmt: skip
    if not decision.makes_a_job:
        return None
    plan = plan_of(decision)
    recipe = decision.rule.recipe or model.card.recipes[0]
    order = ledger.JobOrder(
        rule=decision.rule.name,
        model=ledger.model_label(model),
        model_digest=model.digest,
        recipe=recipe,
        recipe_digest=recipe_digest(recipe, output_options(site.settings)),
        input_digest=ledger.input_digest(session, study, plan.analysed),
        priority=PRIORITIES[decision.rule.priority],
        plan=plan,
    )
    return ledger.want_job(session, study, order, at=at)


# ---------------------------------------------------------------------------------------------------- submit


def submit(site: Site, engine: Engine, *, worker: str) -> bool:
    """Claim one job and see it through; False where none was waiting."""
    lease_s = site.settings.run.lease_s
    with site.database.write() as session:
        claim = queue.claim_job(session, worker=worker, lease_s=lease_s, at=utc_now())
        request = None if claim is None else request_for(site, session, claim, at=utc_now())
        failed_before = 0 if claim is None else ledger.failed_runs(session, claim)
    if claim is None or request is None:
        engine.warm_up()
        return claim is not None
    log.info("run started", job=claim.job_id, study=request.study_instance_uid, attempt=claim.attempt)
    try:
        if claim.attempt > MOST_CLAIMS:
            raise RunFailed("crashed", f"{claim.attempt - 1} workers were lost while they held this job")
        outcome, peak_mb = engine.run(request, _heartbeat(site, claim))
    except RunFailed as failure:
        _run_failed(site, engine, claim, request, failure, failed_before + 1)
    else:
        finish(site, claim, request, outcome, peak_memory_mb=peak_mb, at=utc_now())
    engine.warm_up()
    return True


def request_for(site: Site, session: Session, claim: JobClaim, *, at: datetime) -> RunRequest | None:
    """The run that the claimed job stands for; None where its model was replaced and its rule has decided anew."""
    job = session.get_one(Job, claim.job_id)
    model = next((one for one in site.models.values() if one.digest == job.model_digest), None)
    if model is None:
        log.warning("model was replaced, planning the job again", job=job.id, model_digest=job.model_digest)
        _plan_again(site, session, job, at=at)
        return None
    plan = Plan.from_json(job.plan)
    settings = site.settings
    return RunRequest(
        job_id=job.id,
        study_instance_uid=job.study.study_instance_uid,
        revision=job.revision,
        rule=job.rule,
        analysed=ledger.series_inputs(session, job.study, plan.analysed, site.spool),
        passed_over=plan.passed_over,
        bundle=str(model.folder),
        model_digest=model.digest,
        recipe=job.recipe,
        recipe_digest=job.recipe_digest,
        input_digest=job.input_digest,
        device=settings.run.device,
        threads=threads_per_run(settings),
        output=output_options(settings),
        taken_series_numbers=ledger.taken_series_numbers(job.study),
        predecessors=ledger.supersede_undelivered(session, job, at=at),
        refusal=plan.refusal,
        identity=ledger.newest_identity(job.study),
        analysis_started_at=ledger.first_started_at(session, job).isoformat(),
    )


def _plan_again(site: Site, session: Session, job: Job, *, at: datetime) -> None:
    """Cancel the job and let its rule decide with the models that are installed now, so that the study gets its answer."""
    study = job.study
    others = session.scalars(select(Job.id).where(Job.study_id == study.id, Job.id != job.id)).all()
    queue.cancel_open_jobs(session, study, at=at, keep=set(others))
    validity = {name: model.card.validity for name, model in site.models.items()}
    for decision in decide(ledger.study_facts(session, study), site.settings.rules, validity):
        if decision.rule.name == job.rule:
            _want_job(site, session, study, decision, at=at)


def threads_per_run(settings: Settings) -> int:
    """CPU threads of one run: as configured, or the machine's cores shared among the workers."""
    return settings.run.threads or max(1, (os.cpu_count() or 1) // settings.run.workers)


def _heartbeat(site: Site, claim: JobClaim) -> Callable[[], bool]:
    def beat() -> bool:
        try:
            with site.database.write() as session:
                return queue.heartbeat_job(session, claim, lease_s=site.settings.run.lease_s, at=utc_now())
        except DatabaseBusy:
            return True  # the lease has room for a missed beat

    return beat


def _run_failed(site: Site, engine: Engine, claim: JobClaim, request: RunRequest, failure: RunFailed, failed_runs: int) -> None:
    log.warning("run failed", job=claim.job_id, kind=failure.kind, failed_runs=failed_runs)
    if failure.kind == "lost":
        return
    run = site.settings.run
    if failure.worth_retrying and failed_runs < run.maximum_attempts and claim.attempt <= MOST_CLAIMS:
        wait_s = run.retry_after_s * 2 ** (failed_runs - 1)
        with site.database.write() as session:
            queue.retry_job(
                session, claim, at=utc_now(), not_before=utc_now() + timedelta(seconds=wait_s),
                outcome=failure.kind, detail=failure.detail,
            )  # fmt: skip
        return
    give_up(site, engine, claim, request, failure)


def give_up(site: Site, engine: Engine, claim: JobClaim, request: RunRequest, failure: RunFailed) -> None:
    """Make and deliver the report that the analysis failed; the job ends FAILED with its reason."""
    reason = Reason(failure.kind.replace(" ", "-"), FAILURE_TEXTS[failure.kind])
    try:
        outcome, peak_mb = engine.run(replace(request, refusal=None, failure=reason), _heartbeat(site, claim))
    except RunFailed as second:
        log.error("no failure report could be made", job=claim.job_id, kind=second.kind)
        with site.database.write() as session:
            queue.give_up_job(
                session, claim, at=utc_now(), reason=reason.code, summary=None,
                detail=f"{failure.detail}\nno failure report could be made: {second}",
            )  # fmt: skip
        return
    finish(site, claim, request, outcome, peak_memory_mb=peak_mb, at=utc_now(), failure=failure)


FAILURE_TEXTS = {
    "crashed": "the analysis ended unexpectedly each time it was tried",
    "timed out": "the analysis took longer than its time limit each time it was tried",
    "out of memory": "the analysis needed more memory than its limit each time it was tried",
    "error": "the analysis stopped with an error of the program",
}


# ---------------------------------------------------------------------------------------------------- finish


def finish(
    site: Site,
    claim: JobClaim,
    request: RunRequest,
    outcome: RunOutcome,
    *,
    peak_memory_mb: float,
    at: datetime,
    failure: RunFailed | None = None,
) -> None:
    """Keep the files, then make job, results and deliveries rows at once; dropped where the claim is no longer ours."""
    objects = [(one, site.spool.write(Area.RESULTS, one.sop_instance_uid, one.data)) for one in outcome.objects]
    pictures = [
        {
            "name": one.name,
            "caption": one.caption,
            "path": site.spool.write(Area.PICTURES, f"{claim.job_id}/{claim.epoch}/{one.name}", one.data),
        }
        for one in outcome.pictures
    ]
    summary = {**outcome.summary.as_json(), "pictures": pictures}
    with site.database.write() as session:
        job = _end_job(session, claim, outcome, summary, peak_memory_mb=peak_memory_mb, at=at, failure=failure)
        if job is not None:
            results = ledger.keep_results(session, job, objects, request.predecessors, at=at)
            wanted = {name: _kinds_for(site.settings, name) for name in Plan.from_json(job.plan).destinations}
            ledger.make_deliveries(session, job, results, wanted, at=at)
    if job is None:
        for _, path in objects:
            site.spool.delete(path)
        for picture in pictures:
            site.spool.delete(picture["path"])
        log.warning("result dropped: the job was taken over", job=claim.job_id, epoch=claim.epoch)
        return
    log.info("run ended", job=claim.job_id, study=request.study_instance_uid, outcome=outcome.summary.outcome)


def _kinds_for(settings: Settings, destination: str) -> frozenset[str] | None:
    """The kinds of result that go to the destination; None for all, also where it is configured no longer."""
    words = next((one.objects for one in settings.destinations if one.name == destination), None)
    return None if words is None else frozenset(KIND_OF_OBJECT[word] for word in words)


def _end_job(
    session: Session,
    claim: JobClaim,
    outcome: RunOutcome,
    summary: dict[str, object],
    *,
    peak_memory_mb: float,
    at: datetime,
    failure: RunFailed | None,
) -> Job | None:
    if failure is not None:
        code = failure.kind.replace(" ", "-")
        return queue.give_up_job(session, claim, at=at, reason=code, detail=failure.detail, summary=summary)
    reason = outcome.summary.reason
    return queue.finish_job(
        session, claim, at=at, peak_memory_mb=peak_memory_mb, summary=summary,
        outcome="refused" if outcome.summary.outcome is Outcome.REFUSED else "completed",
        reason=reason.code if reason else None, detail=reason.text if reason else None,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- deliver


def deliver(site: Site, destination: Destination, *, worker: str) -> bool:
    """Send one due result set to the destination; False where nothing was due, or where it is down and no probe got through."""
    caller = site.settings.node.ae_title
    if not circuit.is_reachable(site.database, site.settings.delivering, destination, caller, at=utc_now()):
        return False
    lease_s = site.settings.delivering.lease_s
    with site.database.write() as session:
        claim = queue.claim_delivery(session, worker=worker, lease_s=lease_s, at=utc_now(), destinations={destination.name})
        waiting = () if claim is None else ledger.unsent_items(session, claim.delivery_id, site.spool)
    if claim is None:
        return False
    answered: list[scu.Sent] = []

    def on_each(item: scu.Sent) -> None:
        answered.append(item)
        with site.database.write() as session:
            ledger.note_sent(session, claim, waiting, item, at=utc_now())
            queue.heartbeat_delivery(session, claim, lease_s=lease_s, at=utc_now())

    send = dicomweb.send if destination.kind == "stow" else scu.send
    error = send(destination, caller, waiting, on_each)
    if error is not None and error.permanent:
        error = _replaced(site, destination, claim, answered, error)
    with site.database.write() as session:
        _end_delivery(site, session, destination, claim, error, at=utc_now())
        connection = None if answered else error
        circuit.note_connection(session, site.settings.delivering, destination, connection, at=utc_now())
    return True


def _replaced(
    site: Site, destination: Destination, claim: DeliveryClaim, answered: list[scu.Sent], error: scu.SendError
) -> scu.SendError | None:
    """Put key images in the place of segmentations that the destination does not take; the error that is left, if any."""
    refused = [one for one in answered if one.meaning is scu.Meaning.REFUSED]
    wanted = [one for one in refused if fallback.is_wanted(destination, one)]
    if not wanted:
        return error
    with site.database.read() as session:
        made = fallback.stand_ins(session, site.spool, claim.delivery_id, wanted)
    superfluous = [path for one in made for _, path in one.objects]
    with site.database.write() as session:
        if queue.heartbeat_delivery(session, claim, lease_s=site.settings.delivering.lease_s, at=utc_now()):
            superfluous = [path for one in made for path in fallback.replace(session, claim.delivery_id, one, at=utc_now())]
    for path in superfluous:
        site.spool.delete(path)
    return None if len(made) == len(refused) else error


def _end_delivery(
    site: Site, session: Session, destination: Destination, claim: DeliveryClaim, error: scu.SendError | None, *, at: datetime
) -> None:
    settings = site.settings.delivering
    if error is None:
        delivery = queue.finish_delivery(session, claim, at=at)
        if delivery is not None and delivery.state == DeliveryState.STORED and destination.proof != "none":
            commitments.request_proof(
                session, delivery, kind=CommitmentKind(destination.proof), transaction_uid=str(generate_uid(prefix=None)),
                timeout_s=destination.proof_timeout_s, at=at,
            )  # fmt: skip
    elif error.permanent or claim.attempt >= settings.give_up_after_attempts:
        queue.refuse_delivery(session, claim, at=at, reason=error.code, detail=error.text)
    else:
        wait_s = min(settings.retry_at_most_s, settings.retry_after_s * 2 ** min(claim.attempt - 1, 20))
        wait_s *= random.uniform(0.75, 1.25)
        queue.retry_delivery(
            session, claim, at=at, not_before=at + timedelta(seconds=wait_s), reason=error.code, detail=error.text
        )


# ---------------------------------------------------------------------------------------------------- watch, purge


def take_back(site: Site, *, is_dead: Callable[[str], bool], at: datetime) -> int:
    """Give jobs and deliveries of silent or dead workers to others; the number taken back."""
    with site.database.write() as session:
        dead_workers = {worker for worker in ledger.lease_holders(session) if is_dead(worker)}
        jobs = queue.expire_job_leases(session, at=at, dead_workers=dead_workers)
        deliveries = queue.expire_delivery_leases(session, at=at, dead_workers=dead_workers)
    return len(jobs) + len(deliveries)


def purge(site: Site, *, at: datetime) -> int:
    """Delete the files of studies whose time is over; the number of studies."""
    keep_s = site.settings.retention.keep_files_days * 86400
    with site.database.write() as session:
        studies = retention.expired(session, keep_s=keep_s, at=at)
        paths = [path for study in studies for path in retention.purge(session, study, at=at)]
    for path in paths:
        site.spool.delete(path)
    return len(studies)
