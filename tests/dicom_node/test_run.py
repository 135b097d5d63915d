"""A whole run in one process, through the model that is shipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.catalog import shipped_models
from dicom_node.outcome import (
    Outcome,
    OutputOptions,
    PassedOver,
    Reason,
    RunOutcome,
    RunRequest,
    SeriesInput,
    request_from_json,
    request_to_json,
)
from dicom_node.pictures import MAXIMUM_PICTURES
from dicom_node.results import codes
from dicom_node.run import run
from inference.card import BundleError, card_digest
from inference.phantom import SyntheticHead, synthetic_head
from tests.data import ge_datasets, labelled_flair
from tests.dicom_node.results.builders import AXIAL, STARTED_AT, SeriesPlan, write
from tests.dicom_node.results.test_report import items
from tests.dicom_node.results.tools import complaints

BUNDLE = shipped_models() / "brain-flair"


@dataclass(frozen=True)
class Study:
    """A synthetic head as files, and the request to analyse them."""

    head: SyntheticHead
    request: RunRequest


def series_input(files: list[Path], uid: str = "1.2.826.0.1.3680043.8.498.1.5") -> SeriesInput:
    return SeriesInput(uid, 5, "ax FLAIR", "MR", tuple(str(file) for file in files))


def request_for(*analysed: SeriesInput) -> RunRequest:
    return RunRequest(
        job_id=1,
        study_instance_uid="1.2.826.0.1.3680043.8.498.1",
        revision=1,
        rule="flair",
        analysed=analysed,
        passed_over=(PassedOver("1.2.3", 2, "T1", "MR", Reason("contrast", "T1 weighted, the model is for FLAIR")),),
        bundle=str(BUNDLE),
        model_digest=card_digest(BUNDLE),
        recipe="",
        recipe_digest="34" * 32,
        input_digest="12" * 32,
        device="cpu",
        threads=2,
        output=OutputOptions(),
        taken_series_numbers=(2, 5),
        analysis_started_at=STARTED_AT,
    )


def plan_of(head: SyntheticHead, edit: Callable[[Dataset, int], None] | None = None) -> SeriesPlan:
    """The head as an axial series: its slices go from foot to head, as the plan's do."""
    return SeriesPlan(
        shape=head.image.shape, directions=AXIAL, spacing_mm=head.spacing_mm, pixels=head.image.clip(0, 4000), edit=edit
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    head = synthetic_head(seed=1, shape=(24, 128, 128), spacing_mm=(6.5, 1.8, 1.8), lesions=2)
    files = write(plan_of(head), tmp_path_factory.mktemp("study"))
    return Study(head, request_for(series_input(files)))


@pytest.fixture(scope="module")
def outcome(study: Study) -> RunOutcome:
    return run(study.request)


@pytest.mark.slow
@pytest.mark.feature("L1")
def test_a_run_finds_the_lesions_and_tells_of_them(study: Study, outcome: RunOutcome) -> None:
    segmentation, report = (dcmread(BytesIO(one.data)) for one in outcome.objects)

    assert outcome.summary.outcome is Outcome.FINDINGS
    assert len(segmentation.SegmentSequence) == len(outcome.summary.findings)
    by_source = _marked_by_source(segmentation)
    lesion = study.head.lesion
    touched = sum(np.count_nonzero(by_source[number] & lesion[number - 1]) for number in by_source)
    assert touched > 0.5 * np.count_nonzero(lesion)
    assert items(report, codes.NUMBER_OF_LESIONS)[0].MeasuredValueSequence[0].NumericValue == len(outcome.summary.findings)


def test_the_report_carries_the_studys_newest_patient(tmp_path: Path) -> None:
    """F46: the images still name the patient as it was; no network is needed to say that a run was refused."""
    images = series_input(write(SeriesPlan(shape=(3, 16, 16)), tmp_path))
    newest = (("PatientID", "P9"), ("IssuerOfPatientID", ""), ("PatientName", "New^Name"), ("AccessionNumber", "A9"))
    asked = replace(request_for(images), refusal=Reason("slices", "too few"), identity=newest)

    assert request_from_json(request_to_json(asked)) == asked
    report = dcmread(BytesIO(run(asked).objects[-1].data))

    assert (report.PatientID, report.PatientName, report.AccessionNumber) == ("P9", "New^Name", "A9")
    before = dcmread(BytesIO(run(replace(asked, identity=())).objects[-1].data))
    assert before.PatientID != "P9"
    assert before.SOPInstanceUID != report.SOPInstanceUID


def _marked_by_source(segmentation: Dataset) -> dict[int, np.ndarray]:
    """By Instance Number of the source image, which the builder puts last in its UID, the pixels of any finding."""
    marked: dict[int, np.ndarray] = {}
    frames = np.atleast_3d(segmentation.pixel_array).reshape(-1, segmentation.Rows, segmentation.Columns) > 0
    for groups, pixels in zip(segmentation.PerFrameFunctionalGroupsSequence, frames, strict=True):
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = int(uid.rsplit(".", 1)[1])
        marked[number] = marked.get(number, np.zeros_like(pixels)) | pixels
    return marked


@pytest.mark.slow
@pytest.mark.feature("D4")
def test_a_dynamic_series_is_analysed_at_its_first_time_and_says_so(study: Study, outcome: RunOutcome, tmp_path: Path) -> None:
    def at_time(time: int) -> Callable[[Dataset, int], None]:
        def edit(dataset: Dataset, index: int) -> None:
            dataset.TemporalPositionIdentifier = time
            dataset.InstanceNumber += 100 * (time - 1)
            dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{dataset.InstanceNumber}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

        return edit

    darker = replace(study.head, image=study.head.image * np.float32(0.8))
    files = [
        *write(plan_of(darker, at_time(2)), tmp_path / "late"),
        *write(plan_of(study.head, at_time(1)), tmp_path / "early"),
    ]

    dynamic = run(replace(study.request, analysed=(series_input(files),)))

    segmentation, report = (dcmread(BytesIO(one.data)) for one in dynamic.objects)
    first_alone = dcmread(BytesIO(outcome.objects[0].data))
    assert segmentation.PixelData == first_alone.PixelData
    sources = [list(one.PerFrameFunctionalGroupsSequence) for one in (segmentation, first_alone)]
    assert [_source(frame) for frame in sources[0]] == [_source(frame) for frame in sources[1]]
    assert any("2 time points; the first whole one" in item.TextValue for item in items(report, codes.INPUT_QUALITY))


def _source(frame: Dataset) -> str:
    return str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


@pytest.mark.feature("E8")
@pytest.mark.peer
def test_the_objects_of_a_real_run_are_valid(outcome: RunOutcome, tmp_path: Path) -> None:
    for one in outcome.objects:
        path = tmp_path / f"{one.kind}.dcm"
        path.write_bytes(one.data)
        assert complaints(path) == []


@pytest.mark.slow
@pytest.mark.feature("E7")
def test_the_same_request_gives_the_same_objects_and_pictures(study: Study, outcome: RunOutcome) -> None:
    again = run(request_from_json(request_to_json(study.request)))

    assert again.objects == outcome.objects
    assert again.pictures == outcome.pictures


def test_the_summary_has_the_report_and_the_stages(outcome: RunOutcome) -> None:
    summary = outcome.summary

    assert set(summary.seconds) == {"read", "localize", "encode", "draw"}
    assert all(seconds > 0 for seconds in summary.seconds.values())
    assert summary.network_evaluations > 0
    assert summary.report_text.splitlines()[0].endswith("from healthy anatomy")
    assert "Research use; not a medical device" in summary.report_text
    assert len(outcome.pictures) == 1 + min(len(summary.findings), MAXIMUM_PICTURES)
    assert "Yamada" not in summary.report_text


@pytest.mark.feature("E5")
@pytest.mark.parametrize("kind", [Outcome.REFUSED, Outcome.FAILED])
def test_a_refusal_or_failure_of_the_parent_becomes_a_report_without_a_look_at_pixels(
    kind: Outcome, study: Study, tmp_path: Path
) -> None:
    reason = Reason("worker-lost", "the worker was lost three times")
    request = replace(study.request, bundle=str(tmp_path / "gone"))
    request = replace(request, refusal=reason) if kind is Outcome.REFUSED else replace(request, failure=reason)

    outcome = run(request)

    (report,) = (dcmread(BytesIO(one.data)) for one in outcome.objects)
    assert outcome.summary.outcome is kind
    assert outcome.summary.reason == reason
    assert items(report, codes.REASON)[0].TextValue == "the worker was lost three times (code worker-lost)"
    assert outcome.pictures == ()
    assert outcome.summary.study_score is None


@pytest.mark.slow
@pytest.mark.feature("D4")
def test_an_unsuitable_series_becomes_a_refusal_with_its_numbers(study: Study, tmp_path: Path) -> None:
    files = write(plan_of(study.head), tmp_path / "study")
    gone = next(file for file in files if dcmread(file, stop_before_pixels=True).InstanceNumber == 12)
    files.remove(gone)

    outcome = run(request_for(series_input(files)))

    assert outcome.summary.outcome is Outcome.REFUSED
    assert outcome.summary.reason is not None
    assert outcome.summary.reason.code == "gap"
    assert "slice gap 13.00 mm between instance 13 and instance 11" in outcome.summary.reason.text
    assert [one.kind for one in outcome.objects] == ["SR"]


def test_what_the_model_refuses_becomes_a_refusal(study: Study, tmp_path: Path) -> None:
    short = SeriesPlan(shape=(4, 128, 128), directions=AXIAL, spacing_mm=(6.5, 1.8, 1.8), pixels=study.head.image[:4])

    outcome = run(request_for(series_input(write(short, tmp_path))))

    assert outcome.summary.outcome is Outcome.REFUSED
    assert outcome.summary.reason is not None
    assert outcome.summary.reason.text


@pytest.mark.slow
@pytest.mark.feature("L6")
@pytest.mark.filterwarnings("ignore")  # pydicom on the de-identified headers
def test_a_real_t1_series_that_calls_itself_flair_is_refused_by_its_pixels(tmp_path: Path) -> None:
    t1 = labelled_flair(ge_datasets(tmp_path / "ge"), "run")
    files = [tmp_path / f"{number}.dcm" for number in range(len(t1))]
    for image, file in zip(t1, files, strict=True):
        image.save_as(file)

    outcome = run(request_for(series_input(files, str(t1[0].SeriesInstanceUID))))

    reason = outcome.summary.reason
    (report,) = (dcmread(BytesIO(one.data)) for one in outcome.objects)
    assert outcome.summary.outcome is Outcome.REFUSED
    assert reason is not None
    assert reason.code == "out-of-distribution"
    found = re.search(r"distance (\d+\.\d), the limit is (\d+\.\d)", reason.text)
    assert found is not None
    assert float(found.group(1)) > 1.1 * float(found.group(2))  # 15.5 and 9.8 measured: no close call
    assert "(code out-of-distribution)" in items(report, codes.REASON)[0].TextValue


@pytest.mark.slow
def test_the_next_series_is_analysed_where_the_first_is_unsuitable(study: Study, tmp_path: Path) -> None:
    single = write(replace(plan_of(study.head), shape=(1, 128, 128), pixels=study.head.image[:1]), tmp_path / "single")
    first = series_input(single, "1.2.826.0.1.3680043.8.498.1.4")
    last = series_input(single, "1.2.826.0.1.3680043.8.498.1.6")

    outcome = run(request_for(first, *study.request.analysed, last))

    report = dcmread(BytesIO(outcome.objects[-1].data))
    told = [item.TextValue for item in items(report, codes.SERIES_PASSED_OVER)]
    assert outcome.summary.outcome is Outcome.FINDINGS
    assert [text[text.rindex("(code") :] for text in told] == [
        "(code too-few-slices)",
        "(code other-series-used)",
        "(code contrast)",
    ]


def test_an_unreadable_file_of_a_failed_run_does_not_stop_its_report(study: Study, tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\0" * 500)
    series = study.request.analysed[0]
    request = replace(
        study.request,
        analysed=(replace(series, files=(str(broken), *series.files)),),
        failure=Reason("crash", "the analysis crashed"),
    )

    assert run(request).summary.outcome is Outcome.FAILED


def test_a_bundle_that_is_not_the_pinned_one_is_not_run(study: Study) -> None:
    with pytest.raises(BundleError):
        run(replace(study.request, model_digest="00" * 32))


def test_a_request_without_series_is_an_error(study: Study) -> None:
    with pytest.raises(ValueError, match="at least one series"):
        run(replace(study.request, analysed=()))
