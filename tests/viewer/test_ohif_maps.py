"""OHIF draws Fovea's parametric map over its images, and holds at each point of the patient the score that belongs there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from tests.viewer import checks
from tests.viewer.cases import FINDINGS, Case
from tests.viewer.checks import Fault, Samples
from tests.viewer.conftest import Stage
from tests.viewer.ohif import Ohif

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]

Keep = Callable[[str, NDArray[np.uint8]], None]


def faults_shown(ohif: Ohif, case: Case, score_map: Dataset, keep: Keep, name: str) -> set[Fault]:
    """Load the map over the case's images, read values on the fullest image of each finding, and look at it."""
    ohif.open(case.study_instance_uid, [case.series_instance_uid, str(score_map.SeriesInstanceUID)])
    ohif.load_map()
    (mapping,) = score_map.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    faults: set[Fault] = set()
    for finding in range(1, len(FINDINGS) + 1):
        image = case.fullest(finding)
        high = checks.points_scoring(case, image, checks.HIGH_SCORE, np.inf)
        low = checks.points_scoring(case, image, 0.0, checks.LOW_SCORE)
        screen = ohif.go_to(high[0].tolist(), image)
        keep(f"ohif-map-{name}-{finding}", screen.picture)
        every = checks.points_scoring(case, image, 0.0, np.inf)
        stored = ohif.map_values(np.concatenate([high, every]))
        values = stored * float(mapping.RealWorldValueSlope) + float(mapping.RealWorldValueIntercept)
        faults |= checks.faults_of_values(np.concatenate([high, every]), values)
        colours = [checks.colours_at(screen.picture, ohif.to_window(points)) for points in (high, low)]
        faults |= checks.faults_of_map(Samples(*colours))
    return faults


@pytest.mark.feature("E3")
@pytest.mark.parametrize("name", ["oblique", "sagittal", "reversed"])
def test_the_map_is_drawn_and_its_values_are_the_score(name: str, stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.cases[name]

    assert faults_shown(ohif, case, case.score_map, keep, name) == set()


@pytest.mark.feature("E3")
@pytest.mark.parametrize(
    ("control", "faults"),
    [
        ("mirrored map", {Fault.VALUES, Fault.MISSING}),
        ("reversed map", {Fault.VALUES}),
        ("rescaled map", {Fault.VALUES}),
    ],
    ids=["mirrored", "reversed", "rescaled"],
)
def test_a_spoilt_map_does_not_pass(control: str, faults: set[Fault], stage: Stage, ohif: Ohif, keep: Keep) -> None:
    case = stage.cases["oblique"]

    assert faults_shown(ohif, case, stage.controls[control], keep, control) >= faults


@pytest.mark.feature("E3")
def test_the_viewer_cannot_load_a_map_of_the_brain_alone(stage: Stage, ohif: Ohif) -> None:
    """Why `output.map_extent` is "whole" by default."""
    case = stage.cases["oblique"]
    ohif.open(case.study_instance_uid, [case.series_instance_uid, str(stage.other_maps["brain"].SeriesInstanceUID)])

    ohif.attempt("PMAP", "Parametric map have different geometry dimensions")


@pytest.mark.feature("E3")
def test_the_viewer_misreads_a_map_of_integers(stage: Stage, ohif: Ohif, keep: Keep) -> None:
    """Why `output.map_values` is "float32" by default: a hundred times what is stored has no room in 16 bits."""
    case = stage.cases["oblique"]

    faults = faults_shown(ohif, case, stage.other_maps["uint16"], keep, "uint16")

    assert faults >= {Fault.VALUES, Fault.MISSING}
