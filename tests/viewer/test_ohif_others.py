"""OHIF shows reports without findings in words, and the further objects with the warnings that are burned into them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.results.statements import NOTHING_FOUND
from tests.viewer import checks
from tests.viewer.cases import FINDINGS, Case, world
from tests.viewer.conftest import Stage
from tests.viewer.ohif import Ohif
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]

Keep = Callable[[str, NDArray[np.uint8]], None]

SAID = {
    "negative": (NOTHING_FOUND, "Known blind spot", "Research use; not a medical device"),
    "refused": ("Not analysed: the series is not suitable. Nothing was looked for", "T1 weighted, the model is for FLAIR"),
    "failed": ("The analysis failed. Nothing can be said about the images", "the analysis took more than 4096 MB"),
}
"""What a reader must find on the screen."""


@pytest.mark.feature("E9")
@pytest.mark.parametrize("name", SAID)
def test_a_report_without_findings_is_shown_in_words(name: str, stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.without_findings[name]
    ohif.open(case.study_instance_uid, [case.series_instance_uid, str(case.report.SeriesInstanceUID)])

    ohif.open_words(SAID[name][0])

    keep(f"ohif-{name}-report", ohif.look_at_words())
    assert all(sentence in ohif.text() for sentence in SAID[name])


@pytest.mark.feature("E9")
def test_the_document_of_a_negative_study_is_shown(stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.without_findings["negative"]
    (document,) = case.results["PDF"]
    ohif.open(case.study_instance_uid, [case.series_instance_uid, str(document.SeriesInstanceUID)])

    ohif.open_document()

    keep("ohif-negative-document", ohif.look_at_paper())  # which waits until there are letters on the paper


def shown_against_stored(ohif: Ohif, picture: NDArray[np.uint8], image: Dataset, box: tuple[slice, slice]) -> float:
    """The correlation of the screen's brightness with the image's own pixels in that part of it [row, column]."""
    rows, columns = (index[box].astype(np.float64) for index in np.indices((image.Rows, image.Columns)))
    places = ohif.to_window(world(image, rows, columns).reshape(-1, 3))
    seen = checks.colours_at(picture, places).mean(axis=-1)
    return float(np.corrcoef(seen, image.pixel_array[box].ravel())[0, 1])


@pytest.mark.feature("E4")
def test_the_estimate_says_on_the_screen_that_it_was_not_acquired(stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.cases["oblique"]
    images = case.results["HEALTHY"]
    ohif.open(case.study_instance_uid, [str(images[0].SeriesInstanceUID)])
    middle = images[len(images) // 2]

    screen = ohif.show(f"{middle.SOPInstanceUID}/frames/1")

    keep("ohif-pseudo-healthy", screen.picture)
    assert "AI pseudo-healthy, not acquired" in ohif.text()
    lettering = (slice(0, 12), slice(0, middle.Columns))
    assert np.ptp(middle.pixel_array[lettering]) > 0.9 * np.ptp(middle.pixel_array)
    assert shown_against_stored(ohif, screen.picture, middle, lettering) > 0.8


@pytest.mark.feature("E5")
def test_the_capture_shows_outlines_and_its_warning(stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.cases["oblique"]
    images = case.results["CAPTURE"]
    ohif.open(case.study_instance_uid, [str(images[0].SeriesInstanceUID)])

    screen = ohif.show(f"{_capture_of(case, case.fullest(1)).SOPInstanceUID}/frames/1")

    keep("ohif-capture", screen.picture)
    assert "AI outlines, burned in" in ohif.text()
    left, top, width, height = (int(value) for value in screen.viewport)
    view = screen.picture[top : top + height, left : left + width]
    assert np.count_nonzero(checks.has_hue_of(view.reshape(-1, 3), 1)) > 100
    yellow = np.abs(view.astype(int) - (255, 210, 0)).max(axis=-1) < 60
    assert np.count_nonzero(yellow[: height // 3]) > 200  # the letters of the warning, at the top
    assert np.count_nonzero(yellow[height // 3 :]) < 20
    place = checks.place_of(screen.picture, screen.inside(), 1)
    assert place is not None
    assert place[0] > left + width / 2  # the left-sided finding, on a picture turned as a radiologist reads it


def _capture_of(case: Case, image: str) -> Dataset:
    """The picture that was made of that image."""
    uid = image.partition("/")[0]
    return next(one for one in case.results["CAPTURE"] if one.SourceImageSequence[0].ReferencedSOPInstanceUID == uid)


@pytest.mark.feature("E5")
def test_the_viewer_says_that_it_does_not_know_presentation_states(stage: Stage, ohif: Ohif) -> None:
    """Why `presentation-state` is for other viewers, and off by default."""
    case = stage.cases["oblique"]
    (state,) = case.results["GSPS"]

    ohif.open(case.study_instance_uid, [case.series_instance_uid, str(state.SeriesInstanceUID)])

    both = ["@ohif/extension-default.sopClassHandlerModule.stack", "unsupported"]
    wait_until("both series are listed", lambda: sorted(ohif.listed()) == both)
    assert len(FINDINGS) == len(state.GraphicLayerSequence)
