"""A study comes to rest: its quiet time is over, or its maximum age is reached; then each rule decides, and jobs are made.

Nothing in C-STORE says that an image was the last. What speaks against the study being whole (`dicom_node.completeness`), and
that it was closed by force, stands in its row, in the audit, and in every report of it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from dicom_node import ledger
from dicom_node.catalog import output_options, recipe_digest
from dicom_node.completeness import shortfalls
from dicom_node.outcome import Reason
from dicom_node.routing import Decision, StudyFacts, decide, plan_of
from dicom_node.settings import Rule
from dicom_node.site import Site
from storage import events, queue
from storage.events import EventKind, EventOutcome
from storage.models import Job, Study
from storage.states import StudyEvent

log = structlog.get_logger(__name__)

PRIORITIES = {"urgent": 10, "normal": 0, "off-peak": -10}
FORCED = "Forced complete: the study was still being received at its maximum age"
INCOMPLETE = "The study may be incomplete"


def settle(site: Site, *, holder: str, monotonic_s: float, at: datetime) -> int:
    """Count the quiet time and settle every study that is due; the number settled."""
    tick_s = site.settings.ticks.settle_s
    receive = site.settings.receive
    with site.database.write() as session:
        elapsed_s = queue.tick_clock(session, holder=holder, monotonic_s=monotonic_s, at=at, cap_s=5 * tick_s)
        queue.count_quiet(session, elapsed_s)
        due = queue.due_studies(session, settle_after_s=receive.settle_after_s, maximum_age_s=receive.maximum_age_s)
        return sum(settle_study(site, session, study, at=at) for study in due)


def settle_study(site: Site, session: Session, study: Study, *, at: datetime) -> bool:
    """Close the study and make its jobs, in the caller's transaction; False where a rule waits on past the maximum age."""
    facts = ledger.study_facts(session, study)
    study.forced = study.quiet_s < site.settings.receive.settle_after_s
    decisions = decided(site, study, facts)
    waiting = [one.rule.name for one in decisions if one.makes_a_job and one.rule.on_maximum_age == "wait"]
    if study.forced and waiting:
        _wait_on(session, study, waiting, at=at)
        return False
    found = shortfalls(facts, own_results=ledger.own_results(session, study), interrupted=study.interrupted_by is not None)
    study.incomplete = "; ".join(found) or None
    study.waits = False
    how = "closed by force at its maximum age" if study.forced else f"quiet for {study.quiet_s:.0f} s"
    detail = {"forced complete": study.forced or None, "incomplete": study.incomplete}
    queue.move_study(session, study, StudyEvent.SETTLE, at=at, reason=how, detail=detail)
    wanted = [want_job(site, session, study, one, at=at) for one in decisions]
    queue.cancel_open_jobs(session, study, at=at, keep={job.id for job in wanted if job is not None})
    return True


def decided(site: Site, study: Study, facts: StudyFacts) -> tuple[Decision, ...]:
    """What each rule decides of the study as it is, the choice for one that was closed by force included."""
    validity = {name: model.card.validity for name, model in site.models.items()}
    decisions = decide(facts, site.settings.rules, validity)
    return tuple(_discarded(one) for one in decisions) if study.forced else decisions


def remarks(study: Study) -> tuple[str, ...]:
    """What every report of the settled study says of how complete it is."""
    found = [f"{FORCED}."] if study.forced else []
    return (*found, f"{INCOMPLETE}: {study.incomplete}.") if study.incomplete else tuple(found)


def want_job(site: Site, session: Session, study: Study, decision: Decision, *, at: datetime) -> Job | None:
    """The job that the decision wants, and the event of the decision; None where it wants none."""
    model = site.models[decision.rule.model]
    events.append(
        session, EventKind.RULE_DECIDED, at=at, study=study, model=ledger.model_label(model),
        model_digest=model.digest, detail=ledger.decision_detail(decision),
    )  # fmt: skip
    if not decision.makes_a_job:
        return None
    plan = replace(plan_of(decision), remarks=remarks(study))
    recipe = decision.rule.recipe or model.card.recipes[0]
    order = ledger.JobOrder(
        rule=decision.rule.name,
        model=ledger.model_label(model),
        model_digest=model.digest,
        recipe=recipe,
        recipe_digest=recipe_digest(recipe, output_options(site.settings)),
        input_digest=ledger.input_digest(session, study, plan),
        priority=PRIORITIES[decision.rule.priority],
        plan=plan,
    )
    return ledger.want_job(session, study, order, at=at)


def _discarded(decision: Decision) -> Decision:
    """The decision of a rule that analyses no study closed by force: the report says so instead."""
    rule: Rule = decision.rule
    if rule.on_maximum_age != "discard" or not decision.makes_a_job:
        return decision
    reason = Reason("maximum-age", f"the study was still being received at its maximum age, and rule {rule.name} discards such")
    return replace(decision, refusal=reason)


def _wait_on(session: Session, study: Study, waiting: list[str], *, at: datetime) -> None:
    """Leave the study open until it is quiet, and say so once."""
    study.forced, study.waits = False, True
    detail = {"rules": waiting, "age in s": round(study.age_s)}
    events.append(session, EventKind.STUDY_KEPT_OPEN, at=at, outcome=EventOutcome.MINOR_FAILURE, study=study, detail=detail)
    log.warning("study is kept open past its maximum age", study=study.study_instance_uid, rules=waiting)
