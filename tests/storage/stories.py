"""Studies brought to each standing by the product's own moves, for the tests of what people look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from storage import queue
from storage.database import Database
from storage.models import Job
from storage.read_models import Standing
from storage.states import StudyEvent
from tests.storage.rows import add_delivery, add_job, at, received, take, the_study

LONG_S = 1e6
"""A job that waits until then is claimed by no test."""


@dataclass(frozen=True, slots=True)
class Told:
    """One study that was brought to a standing."""

    study_id: int
    uid: str
    job_id: int | None


def finding(number: int = 1, **changes: Any) -> dict[str, Any]:
    """One finding as `dicom_node.outcome.FindingSummary` is stored."""
    return {
        "number": number,
        "contrast": "brighter",
        "volume_mm3": 12340.0,
        "long_axis_mm": 41.2,
        "centroid_lps": [-31.0, 12.0, 44.0],
        "hemisphere": "left",
        "peak_score": 0.97,
        "mean_score": 0.71,
        "tracking_uid": f"2.25.7{number}",
        **changes,
    }


def summary(outcome: str, **changes: Any) -> dict[str, Any]:
    """A summary as `dicom_node.outcome.Summary` is stored, with its pictures."""
    reasons = {
        "refused": {"code": "slice-gap", "text": "slice gap 9.0 mm, expected 6.0 mm within 0.6 mm"},
        "failed": {"code": "timed-out", "text": "the analysis took longer than its time limit"},
    }
    return {
        "outcome": outcome,
        "reason": reasons.get(outcome),
        "findings": [finding()] if outcome == "findings" else [],
        "findings_left_out": 0,
        "study_score": 0.93,
        "threshold": 0.9,
        "quality": [],
        "report_text": "one statement",
        "seconds": {"read": 0.8, "localize": 14.2},
        "network_evaluations": 48,
        "gflop": 910.0,
        "peak_memory_mb": 1800.0,
        "pictures": [],
        **changes,
    }


def plan(uid: str, **changes: Any) -> dict[str, Any]:
    """A plan as `dicom_node.routing.Plan` is stored: series 1 is analysed, series 2 passed over."""
    return {
        "analysed": [f"{uid}.1"],
        "passed_over": [
            {
                "series_instance_uid": f"{uid}.2",
                "series_number": 2,
                "description": "T1",
                "modality": "MR",
                "reason": {"code": "echo-time", "text": "echo time 3.1 ms, the model is valid for 70 to 160 ms"},
            }
        ],
        "destinations": ["PACS"],
        "refusal": None,
        **changes,
    }


def receive(database: Database, uid: str, *, seconds: float = 0.0, **changes: Any) -> int:
    """A study of two series with one image each, still RECEIVING; its row number."""
    take(database, received(uid, 1, **changes), seconds=seconds)
    other = {"series_instance_uid": f"{uid}.2", "series_number": 2, "series_description": "T1"}
    take(database, received(uid, 2, **{**changes, **other}), seconds=seconds)
    with database.read() as session:
        return the_study(session, uid).id


def settle(session: Session, uid: str, *, seconds: float = 30.0) -> None:
    """The study is quiet."""
    queue.move_study(session, the_study(session, uid), StudyEvent.SETTLE, at=at(seconds), reason="quiet for 30 s")


def schedule(session: Session, uid: str, *, seconds: float = 30.0, name: str = "job", rule: str = "flair") -> Job:
    """A job for the study that only `run` claims."""
    job = add_job(session, the_study(session, uid), name, priority=1, seconds=seconds)
    job.rule = rule
    job.plan = plan(uid)
    session.flush()
    return job


def claim(session: Session, job: Job, *, seconds: float = 31.0) -> queue.JobClaim:
    """The job's claim; it must be the only job that is due."""
    claimed = queue.claim_job(session, worker="worker-1", lease_s=60, at=at(seconds))
    assert claimed is not None
    assert claimed.job_id == job.id
    return claimed


def tell(database: Database, standing: Standing, uid: str, *, seconds: float = 0.0, **changes: Any) -> Told:
    """A study brought to the standing; `seconds` after noon it began."""
    study_id = receive(database, uid, seconds=seconds, **changes)
    if standing is Standing.RECEIVING:
        return Told(study_id, uid, None)
    with database.write() as session:
        if standing is Standing.QUARANTINED:
            conflict = StudyEvent.CONFLICT
            queue.move_study(session, the_study(session, uid), conflict, at=at(seconds), reason="another patient ID")
            return Told(study_id, uid, None)
        settle(session, uid, seconds=seconds + 30)
        if standing is Standing.NEVER_SELECTED:
            return Told(study_id, uid, None)
        job = schedule(session, uid, seconds=seconds + 30)
        _end(session, uid, job, standing, seconds)
        return Told(study_id, uid, job.id)


def _end(session: Session, uid: str, job: Job, standing: Standing, seconds: float) -> None:
    if standing is Standing.WAITING:
        job.not_before = at(LONG_S)
        return
    if standing is Standing.CANCELED:
        queue.cancel_open_jobs(session, the_study(session, uid), at=at(seconds + 40))
        return
    claimed = claim(session, job, seconds=seconds + 31)
    moment = at(seconds + 50)
    told = summary(standing.value)
    if standing is Standing.FAILED:
        queue.give_up_job(session, claimed, at=moment, reason="timed-out", detail="Traceback: 600 s", summary=told)
    elif standing is Standing.REFUSED:
        queue.finish_job(
            session,
            claimed,
            at=moment,
            peak_memory_mb=300.0,
            outcome="refused",
            summary=told,
            reason="slice-gap",
        )
    elif standing is not Standing.RUNNING:
        queue.finish_job(session, claimed, at=moment, peak_memory_mb=1800.0, outcome="completed", summary=told)


def store(database: Database, job_id: int, destination: str = "PACS", *, seconds: float = 60.0, refused: bool = False) -> int:
    """A delivery of the job's results that ended STORED, or as a dead letter; its row number."""
    with database.write() as session:
        delivery = add_delivery(session, session.get_one(Job, job_id), destination, seconds=seconds)
        claimed = queue.claim_delivery(session, worker="sender", lease_s=60, at=at(seconds))
        assert claimed is not None
        items = [(item.result_id, item.id) for item in delivery.items]
        if refused:
            queue.item_failed(session, claimed, items[0][0], status="0xA900", detail="does not match")
            detail = "C-STORE answered 0xA900"
            queue.refuse_delivery(session, claimed, at=at(seconds + 5), reason="refused", detail=detail)
        else:
            for result_id, _ in items:
                queue.item_stored(session, claimed, result_id, status="0x0000", at=at(seconds + 4))
            queue.finish_delivery(session, claimed, at=at(seconds + 5))
        return delivery.id
