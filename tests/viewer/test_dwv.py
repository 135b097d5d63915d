"""dwv, a viewer that shares no code with OHIF, draws Fovea's segmentation in the same places and colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from tests.viewer import checks
from tests.viewer.cases import FINDINGS, MULTI_FRAME, SERIES, Case
from tests.viewer.checks import Fault, Samples
from tests.viewer.conftest import Stage
from tests.viewer.dwv import Dwv

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]

Keep = Callable[[str, NDArray[np.uint8]], None]


def faults_shown(stage: Stage, case: Case, segmentation: Dataset, keep: Keep, name: str) -> set[Fault]:
    """Load the files from the archive and look at the fullest image of each finding."""
    dwv = Dwv(stage.driver, stage.url)
    dwv.load([stage.address(image) for image in case.stored])
    dwv.load([stage.address(segmentation)])
    faults: set[Fault] = set()
    for finding in range(1, len(FINDINGS) + 1):
        image = case.fullest(finding)
        inside = checks.points_inside(case, image, finding)
        picture = dwv.show(inside[len(inside) // 2].tolist())
        keep(f"dwv-{name}-{finding}", picture)
        assert image.startswith(dwv.current())
        outside = checks.points_outside(case, image)
        colours = [checks.colours_at(picture, dwv.to_window(points)) for points in (inside, outside)]
        faults |= checks.faults_of_samples(finding, Samples(*colours))
    return faults


@pytest.mark.feature("E9")
@pytest.mark.parametrize("name", [name for name in SERIES if name not in MULTI_FRAME])
def test_each_finding_is_drawn_in_its_place_and_colour(name: str, stage: Stage, keep: Keep) -> None:
    """Not over an enhanced image: dwv 0.36.4 finds no index for the segmentation's first frame."""
    case = stage.cases[name]

    assert faults_shown(stage, case, case.segmentation, keep, name) == set()


@pytest.mark.feature("E9")
@pytest.mark.parametrize(
    ("control", "faults"),
    [
        ("mirrored", {Fault.MISSING, Fault.ELSEWHERE}),
        ("turned over", {Fault.MISSING, Fault.ELSEWHERE}),
        ("exchanged", {Fault.HUE}),
        ("recoloured", {Fault.HUE}),
    ],
    ids=["mirrored", "turned over", "exchanged", "recoloured"],
)
def test_a_spoilt_segmentation_does_not_pass(control: str, faults: set[Fault], stage: Stage, keep: Keep) -> None:
    assert faults_shown(stage, stage.cases["oblique"], stage.controls[control], keep, f"control-{control}") == faults
