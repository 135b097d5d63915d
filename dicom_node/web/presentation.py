"""How rows become words on a page: badges, times, names, and what a job's plan and summary say.

A badge always carries its word and a sign of its own; colour only repeats it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

from dicom_node.outcome import Reason, Summary
from dicom_node.routing import Plan
from storage.audit_search import AuditRow
from storage.events import EventKind
from storage.models import JsonObject
from storage.read_models import JobRow, JobStory, Standing, StudyRow, StudyStory
from storage.states import DeliveryState, JobState


@dataclass(frozen=True, slots=True)
class Badge:
    """A state as people see it: `tone` names the style, `sign` and `text` say the same without colour."""

    tone: str
    sign: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """One picture of a finding; fetched by its number, never by a path."""

    index: int
    caption: str


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job with its plan and summary parsed."""

    story: JobStory
    badge: Badge
    plan: Plan | None
    summary: Summary | None
    pictures: tuple[ShownPicture, ...]


@dataclass(frozen=True, slots=True)
class SeriesFate:
    """What the rules did with one series: `analysed by`, or passed over and why."""

    tone: str
    text: str


DISPLAY_ORDER = (
    Standing.FINDINGS,
    Standing.NO_FINDING,
    Standing.REFUSED,
    Standing.FAILED,
    Standing.RECEIVING,
    Standing.WAITING,
    Standing.RUNNING,
    Standing.NEVER_SELECTED,
    Standing.CANCELED,
    Standing.QUARANTINED,
)
_STANDINGS: dict[Standing, tuple[str, str, str]] = {
    Standing.FINDINGS: ("▲", "Findings", "the model marked at least one region"),
    Standing.NO_FINDING: ("○", "No finding", "analysed; nothing above the threshold"),
    Standing.REFUSED: ("⊘", "Refused", "outside what the model may be shown; not analysed"),
    Standing.FAILED: ("✕", "Failed", "the analysis was given up; a report says so"),
    Standing.WAITING: ("…", "Waiting", "in the queue"),
    Standing.RUNNING: ("▶", "Running", "being analysed now"),
    Standing.NEVER_SELECTED: ("–", "Never selected", "no rule selected any series of this study"),
    Standing.CANCELED: ("∅", "Canceled", "canceled before it was analysed"),
    Standing.RECEIVING: ("↓", "Receiving", "images are still arriving"),
    Standing.QUARANTINED: ("!", "Quarantined", "nothing is analysed or sent until a person decides"),
}
_DELIVERIES: dict[DeliveryState, tuple[str, str, str]] = {
    DeliveryState.PENDING: ("waiting", "…", "Unsent"),
    DeliveryState.SENDING: ("running", "▶", "Sending"),
    DeliveryState.STORED: ("good", "✓", "Stored"),
    DeliveryState.COMMITTED: ("good", "✓", "Committed"),
    DeliveryState.FAILED: ("failed", "✕", "Dead letter"),
    DeliveryState.CANCELED: ("canceled", "∅", "Canceled"),
}
_OUTCOMES = {
    "success": ("quiet", "✓", "success"),
    "minor failure": ("refused", "!", "minor failure"),
    "serious failure": ("failed", "✕", "serious failure"),
}


def standing_badge(standing: Standing) -> Badge:
    """The badge of a study or a job."""
    sign, text, title = _STANDINGS[standing]
    return Badge(standing.value.replace(" ", "-"), sign, text, title)


def job_badge(job: JobRow) -> Badge:
    """The badge of a job, with the number of findings."""
    badge = standing_badge(job.standing)
    if job.standing is Standing.FINDINGS:
        noun = "finding" if job.findings == 1 else "findings"
        return Badge(badge.tone, badge.sign, f"{job.findings} {noun}", badge.title)
    if job.state is JobState.SCHEDULED and job.attempt:
        return Badge(badge.tone, badge.sign, f"Waiting, try {job.attempt + 1}", "an earlier try failed")
    return badge


def study_badges(study: StudyRow) -> tuple[Badge, ...]:
    """What the list shows of a study: one badge per current job, or its own where that says more."""
    own = standing_badge(study.standing)
    if study.standing in (Standing.RECEIVING, Standing.QUARANTINED) or not study.jobs:
        return (own,)
    return (*(job_badge(job) for job in study.jobs), *_completeness_badges(study))


def _completeness_badges(study: StudyRow) -> tuple[Badge, ...]:
    forced = (Badge("refused", "!", "Forced complete", "closed at its maximum age, while it was still being received"),)
    incomplete = (Badge("refused", "!", "Incomplete?", study.incomplete or ""),)
    return (*(forced if study.forced else ()), *(incomplete if study.incomplete else ()))


def delivery_badge(state: DeliveryState, count: int | None = None) -> Badge:
    """The badge of a delivery, or of several in the same state."""
    tone, sign, text = _DELIVERIES[state]
    return Badge(tone, sign, text if count is None or count == 1 else f"{text} ({count})")


def outcome_badge(outcome: str) -> Badge:
    """The badge of an event."""
    return Badge(*_OUTCOMES.get(outcome, ("quiet", "?", outcome)))


def shown_job(story: JobStory) -> ShownJob:
    """The job with plan, summary and pictures parsed; what another version wrote differently is left out."""
    summary = dict(story.summary) if story.summary else None
    pictures = summary.pop("pictures", []) if summary else []
    return ShownJob(
        story=story,
        badge=job_badge(story.row),
        plan=_plan(story.plan),
        summary=_summary(summary),
        pictures=tuple(ShownPicture(n, str(one.get("caption", ""))) for n, one in enumerate(pictures)),
    )


def series_fates(story: StudyStory, events: Iterable[AuditRow]) -> dict[str, tuple[SeriesFate, ...]]:
    """For each Series Instance UID what became of it, from current jobs' plans and rules' decisions."""
    fates: dict[str, list[SeriesFate]] = defaultdict(list)
    for one in story.series:
        if one.own:
            fates[one.series_instance_uid].append(SeriesFate("quiet", "this node's own result, come back"))
        if one.held:
            fates[one.series_instance_uid].append(SeriesFate("failed", "held: carries another patient"))
    current = {job.id for job in story.study.jobs}
    told: set[str] = set()
    for job in story.jobs:
        plan = _plan(job.plan) if job.row.id in current else None
        if plan is not None:
            told.add(job.row.rule)
            _add_plan(fates, job.row, plan)
    for event in events:
        rule = str(event.detail.get("rule", ""))
        if event.kind == EventKind.RULE_DECIDED and rule not in told:
            told.add(rule)
            for uid, code in dict(event.detail.get("passed over") or {}).items():
                fates[uid].append(SeriesFate("quiet", f"passed over by rule {rule}: {words(str(code))}"))
    return {uid: tuple(found) for uid, found in fates.items()}


def _add_plan(fates: dict[str, list[SeriesFate]], job: JobRow, plan: Plan) -> None:
    for uid in plan.analysed:
        if plan.refusal is not None:
            fates[uid].append(SeriesFate("refused", f"chosen by rule {job.rule}, refused: {plan.refusal.text}"))
        else:
            fates[uid].append(SeriesFate("chosen", f"chosen by rule {job.rule} for {job.model}"))
    for passed in plan.passed_over:
        text = f"passed over by rule {job.rule}: {passed.reason.text}"
        fates[passed.series_instance_uid].append(SeriesFate("quiet", text))


def job_reason(job: ShownJob) -> Reason | None:
    """Why a job was refused or failed, in the fullest words there are."""
    if job.summary is not None and job.summary.reason is not None:
        return job.summary.reason
    if job.plan is not None and job.plan.refusal is not None:
        return job.plan.refusal
    return Reason(job.story.row.reason, "") if job.story.row.reason else None


def _plan(stored: JsonObject) -> Plan | None:
    try:
        return Plan.from_json(stored)
    except (KeyError, TypeError):
        return None


def _summary(stored: JsonObject | None) -> Summary | None:
    try:
        return None if stored is None else Summary.from_json(stored)
    except (KeyError, TypeError, ValueError):
        return None


def words(code: str) -> str:
    """A reason code as words."""
    return code.replace("-", " ").replace("_", " ")


def utc(value: datetime | None) -> str:
    """`2026-03-01 09:30:12`, UTC, or a dash."""
    return "–" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def since(value: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that fits: `12 s`, `5 min`, `3 h`, `4 d`."""
    return "–" if value is None else duration((now - value).total_seconds())


def duration(seconds: float) -> str:
    """A length of time in one unit."""
    seconds = max(0.0, seconds)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def person_name(value: str) -> str:
    """A DICOM person name (PS3.5 6.2.1.1) for reading: `Family, Given Middle`, first component group."""
    parts = [part.strip() for part in value.split("=")[0].split("^")]
    given = " ".join(part for part in parts[1:3] if part)
    return ", ".join(part for part in (parts[0], given) if part)


def dicom_date(value: str) -> str:
    """A DICOM date as `YYYY-MM-DD`; anything else as it is."""
    try:
        return date(int(value[:4]), int(value[4:6]), int(value[6:8])).isoformat() if len(value) == 8 else value
    except ValueError:
        return value


def file_size(size: int) -> str:
    """Bytes in a readable unit."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def detail_text(detail: JsonObject) -> str:
    """An event's detail in one line: `key value; key value`."""
    return "; ".join(f"{key}: {_value(value)}" for key, value in detail.items() if value not in (None, "", [], {}))


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_value(inner) for inner in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
