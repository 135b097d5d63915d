"""One run, in the child process: files to volume, volume to localization, localization to result objects and pictures.

The only module of the node that imports the network's libraries; nothing but the child and the command line imports it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydicom import Dataset

from dicom_node.outcome import (
    FindingSummary,
    Outcome,
    PassedOver,
    Picture,
    Reason,
    RunOutcome,
    RunRequest,
    SeriesInput,
    Summary,
)
from dicom_node.pictures import draw
from dicom_node.results.account import Account, Analysis
from dicom_node.results.encode import encode
from dicom_node.results.headers import character_set_for, content_moment, sanitise_series, under_identity
from dicom_node.results.identity import Identity, identity_of
from dicom_node.results.segmentation import tracking_uid
from dicom_node.results.statements import plain_text
from dicom_node.series import read_headers, read_series
from dicom_node.unsuitable import UnsuitableSeries
from inference.card import BundleError, ModelCard, read_card
from inference.localizer import Context, Localizer, load_localizer
from inference.types import Cost, Localization, ModelIdentity, Refusal

OTHER_SERIES_USED = "other-series-used"
UNKNOWN_VERSION = "unknown"


def prepare_process(threads: int) -> None:
    """Set the threads of the network's arithmetic before anything is computed."""
    torch.set_num_threads(max(1, threads))


def run(request: RunRequest) -> RunOutcome:
    """What the request asks for: always a report; a segmentation and pictures where something was localized.

    Whatever the series or the model refuse becomes a refusal report. Everything else that goes wrong is raised.
    """
    if not request.analysed:
        raise ValueError("a run needs at least one series")
    clock = _Clock()
    trial = _refused_before(request) or _analyse(request, clock)
    account = _account(request, trial)
    identity = identity_of(account)
    with clock.stage("encode"):
        objects = encode(account, identity)
    pictures: tuple[Picture, ...] = ()
    if trial.analysis is not None:
        with clock.stage("draw"):
            pictures = draw(trial.analysis.series, trial.analysis.localization)
    return RunOutcome(objects, pictures, _summary(account, identity, clock.seconds))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """How the series of a request fared: one analysed, or the reason of the first."""

    outcome: Outcome
    series: SeriesInput
    reason: Reason | None = None
    analysis: Analysis | None = None
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(slots=True)
class _Clock:
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "localize", "encode", "draw"), 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to the stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started


def _refused_before(request: RunRequest) -> _Trial | None:
    if request.failure is not None:
        return _Trial(Outcome.FAILED, request.analysed[0], request.failure)
    if request.refusal is not None:
        return _Trial(Outcome.REFUSED, request.analysed[0], request.refusal)
    return None


def _analyse(request: RunRequest, clock: _Clock) -> _Trial:
    """The first series that can be analysed; those before it are passed over with their reason, those after it unread."""
    localizer = load_localizer(
        Path(request.bundle), request.recipe or None, expected_digest=request.model_digest, device=request.device
    )
    reasons: list[Reason] = []
    for position, series in enumerate(request.analysed):
        analysis = _try(series, localizer, request, clock)
        if isinstance(analysis, Reason):
            reasons.append(analysis)
            continue
        unsuitable = [_passed_over(one, why) for one, why in zip(request.analysed, reasons, strict=False)]
        why = Reason(OTHER_SERIES_USED, "another series of the study was analysed by the same rule")
        unread = [_passed_over(one, why) for one in request.analysed[position + 1 :]]
        found = analysis.localization.findings
        outcome = Outcome.FINDINGS if found else Outcome.NO_FINDING
        return _Trial(outcome, series, None, analysis, (*unsuitable, *unread))
    others = [_passed_over(one, why) for one, why in zip(request.analysed[1:], reasons[1:], strict=True)]
    return _Trial(Outcome.REFUSED, request.analysed[0], reasons[0], None, tuple(others))


def _try(series: SeriesInput, localizer: Localizer, request: RunRequest, clock: _Clock) -> Analysis | Reason:
    try:
        with clock.stage("read"):
            volume = read_series([Path(file) for file in series.files], _echo_time_ms(request))
        with clock.stage("localize"):
            context = Context(seed=_seed(request), threads=request.threads or None, remarks=volume.notes)
            localization = localizer.localize(volume.volume, context)
    except UnsuitableSeries as error:
        return Reason(error.code, error.text)
    except Refusal as error:
        return Reason(error.code, str(error))
    return Analysis(volume, localization)


def _echo_time_ms(request: RunRequest) -> tuple[float, float] | None:
    card = _card(request)
    return None if card is None else card.validity.echo_time_ms


def _seed(request: RunRequest) -> int:
    """31 bits of the input's digest: the same input, the same draws."""
    return int(request.input_digest[:8] or "0", 16) & 0x7FFFFFFF


def _passed_over(series: SeriesInput, reason: Reason) -> PassedOver:
    return PassedOver(series.series_instance_uid, series.series_number, series.description, series.modality, reason)


def _account(request: RunRequest, trial: _Trial) -> Account:
    headers = _headers(trial, request)
    card = _card(request)
    return Account(
        study_instance_uid=request.study_instance_uid,
        revision=request.revision,
        input_digest=request.input_digest,
        recipe_digest=request.recipe_digest,
        outcome=trial.outcome,
        reason=trial.reason,
        analysed=trial.series,
        passed_over=(*trial.passed_over, *request.passed_over),
        headers=headers,
        analysis=trial.analysis,
        model=_model(request, card),
        body_part=card.validity.body_part if card else "",
        blind_spots=card.blind_spots if card else (),
        quality=_quality(trial, request.remarks),
        created=content_moment(request.analysis_started_at, headers),
        output=request.output,
        taken_series_numbers=request.taken_series_numbers,
        predecessors=request.predecessors,
    )


def _headers(trial: _Trial, request: RunRequest) -> tuple[Dataset, ...]:
    wanted = request.output.character_set
    if trial.analysis is not None:
        source: Sequence[Dataset] = trial.analysis.series.source
    else:
        source = list(_readable_headers(trial.series))
    headers = sanitise_series(source, wanted)
    for header in headers:
        under_identity(header, request.identity)
    character_set = character_set_for(headers, wanted)
    for header in headers:
        header.SpecificCharacterSet = character_set
    return tuple(headers)


def _readable_headers(series: SeriesInput) -> Iterator[Dataset]:
    """The headers that can be read at all: a report of a failure needs one, not every one."""
    unreadable: UnsuitableSeries | None = None
    count = 0
    for file in series.files:
        try:
            yield read_headers([Path(file)])[0]
            count += 1
        except UnsuitableSeries as error:
            unreadable = error
    if not count:
        raise ValueError(f"no file of series {series.series_instance_uid} is readable") from unreadable


def _card(request: RunRequest) -> ModelCard | None:
    """The card; None where a failure is reported that may be the bundle's own."""
    try:
        return read_card(Path(request.bundle))
    except BundleError:
        if request.failure is None and request.refusal is None:
            raise
        return None


def _model(request: RunRequest, card: ModelCard | None) -> ModelIdentity:
    if card is None:
        return ModelIdentity(Path(request.bundle).name, UNKNOWN_VERSION, "", request.model_digest)
    return ModelIdentity(card.name, card.version, card.manufacturer, request.model_digest)


def _quality(trial: _Trial, remarks: tuple[str, ...]) -> tuple[str, ...]:
    if trial.analysis is None:
        return remarks
    told = (*remarks, *trial.analysis.series.notes, *trial.analysis.localization.provenance.quality)
    return tuple(dict.fromkeys(told))


def _summary(account: Account, identity: Identity, seconds: dict[str, float]) -> Summary:
    found = account.localization
    cost = found.provenance.cost if found else Cost(0, 0.0, 0.0, 0.0, "", "")
    return Summary(
        outcome=account.outcome,
        reason=account.reason,
        findings=_findings(found, identity) if found else (),
        findings_left_out=found.findings_left_out if found else 0,
        study_score=found.study_score if found else None,
        threshold=found.provenance.operating_point.threshold if found else None,
        quality=account.quality,
        report_text=plain_text(account),
        seconds=seconds,
        network_evaluations=cost.network_evaluations,
        gflop=cost.gflop,
        peak_memory_mb=cost.peak_memory_mb,
        domain_distance=found.domain.distance if found and found.domain else None,
    )


def _findings(found: Localization, identity: Identity) -> tuple[FindingSummary, ...]:
    return tuple(
        FindingSummary(
            number=finding.number,
            contrast=finding.contrast,
            volume_mm3=finding.volume_mm3,
            long_axis_mm=finding.long_axis_mm,
            centroid_lps=finding.centroid_lps,
            hemisphere=finding.hemisphere,
            peak_score=finding.peak_score,
            mean_score=finding.mean_score,
            tracking_uid=tracking_uid(identity, finding),
        )
        for finding in found.findings
    )


