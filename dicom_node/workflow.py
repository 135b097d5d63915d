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
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from pydicom.uid import generate_uid
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import circuit, dicomweb, fallback, ledger, scu
from dicom_node.catalog import output_options
from dicom_node.engine import DIED, Engine, RunFailed
from dicom_node.outcome import KIND_OF_OBJECT, Outcome, Reason, RunOutcome, RunRequest
from dicom_node.routing import Plan
from dicom_node.settings import Destination, Settings
from dicom_node.settling import decided, settle, settle_study, want_job
from dicom_node.site import Site, utc_now
from storage import commitments, queue, retention
from storage.commitments import CommitmentKind
from storage.database import DatabaseBusy
from storage.models import Job
from storage.queue import DeliveryClaim, JobClaim
from storage.spool import Area
from storage.states import DeliveryState, StudyEvent

__all__ = [
    "Site", "deliver", "finish", "give_up", "purge", "request_for", "settle", "settle_study", "submit", "take_back",
    "threads_per_run", "utc_now",
]  # fmt: skip

log = structlog.get_logger(__name__)

MOST_CLAIMS = 100
"""Claims of one job before it is given up though no run of it failed: whole workers ended each time."""


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
            raise RunFailed(DIED, f"{claim.attempt - 1} workers were lost while they held this job")
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
        remarks=plan.remarks,
        identity=ledger.newest_identity(job.study),
        analysis_started_at=ledger.first_started_at(session, job).isoformat(),
    )


def _plan_again(site: Site, session: Session, job: Job, *, at: datetime) -> None:
    """Cancel the job and let its rule decide with the models that are installed now, so that the study gets its answer."""
    study = job.study
    others = session.scalars(select(Job.id).where(Job.study_id == study.id, Job.id != job.id)).all()
    queue.cancel_open_jobs(session, study, at=at, keep=set(others))
    for decision in decided(site, study, ledger.study_facts(session, study)):
        if decision.rule.name == job.rule:
            want_job(site, session, study, decision, at=at)


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
    if _is_poison(site, claim, failure):
        give_up(site, engine, claim, request, RunFailed(ledger.QUARANTINED, failure.detail))
        return
    if failure.worth_retrying and failed_runs < run.maximum_attempts and claim.attempt <= MOST_CLAIMS:
        wait_s = run.retry_after_s * 2 ** (failed_runs - 1)
        with site.database.write() as session:
            queue.retry_job(
                session, claim, at=utc_now(), not_before=utc_now() + timedelta(seconds=wait_s),
                outcome=failure.kind, detail=failure.detail,
            )  # fmt: skip
        return
    give_up(site, engine, claim, request, failure)


def _is_poison(site: Site, claim: JobClaim, failure: RunFailed) -> bool:
    """True where this run ended the last of the processes that one study may end."""
    if claim.attempt > MOST_CLAIMS:
        return True
    if failure.kind != DIED:
        return False
    with site.database.read() as session:
        return ledger.deaths(session, claim) + 1 >= site.settings.run.quarantine_after_deaths


def give_up(site: Site, engine: Engine, claim: JobClaim, request: RunRequest, failure: RunFailed) -> None:
    """Make and deliver the report that the analysis failed; the job ends FAILED with its reason, the study of a poison job
    in quarantine.
    """
    reason = Reason(failure.kind.replace(" ", "-"), FAILURE_TEXTS[failure.kind])
    try:
        outcome, peak_mb = engine.run(replace(request, refusal=None, failure=reason), _heartbeat(site, claim))
    except RunFailed as second:
        log.error("no failure report could be made", job=claim.job_id, kind=second.kind)
        with site.database.write() as session:
            job = queue.give_up_job(
                session, claim, at=utc_now(), reason=reason.code, summary=None,
                detail=f"{failure.detail}\nno failure report could be made: {second}",
                outcome=_attempt_word(failure),
            )  # fmt: skip
            _quarantine(session, job, failure, at=utc_now())
        return
    finish(site, claim, request, outcome, peak_memory_mb=peak_mb, at=utc_now(), failure=failure)


def _attempt_word(failure: RunFailed) -> str:
    return DIED if failure.kind == ledger.QUARANTINED else failure.kind


def _quarantine(session: Session, job: Job | None, failure: RunFailed, *, at: datetime) -> None:
    """Keep the study of a poison job away from every worker until a person releases it; the report of it still goes out."""
    if job is None or failure.kind != ledger.QUARANTINED:
        return
    queue.cancel_open_jobs(session, job.study, at=at)
    detail = {"job": job.id, "worker processes ended": ledger.deaths_of(session, job.study)}
    queue.move_study(session, job.study, StudyEvent.POISON, at=at, reason=FAILURE_TEXTS[failure.kind], detail=detail)
    log.error("study quarantined: it ends the processes that analyse it", study=job.study.study_instance_uid, job=job.id)


FAILURE_TEXTS = {
    DIED: "the process that analysed it ended without an answer each time it was tried",
    ledger.QUARANTINED: "its analysis ended one process after the other; the study is kept back until a person releases it",
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
            if failure is not None:
                _quarantine(session, job, failure, at=at)
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
        word = _attempt_word(failure)
        return queue.give_up_job(session, claim, at=at, reason=code, detail=failure.detail, summary=summary, outcome=word)
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
