"""Calibration never turns an order round; components are found, measured and numbered as declared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference.card import Calibration, OperatingPointCard
from inference.postprocess import (
    Components,
    Support,
    calibrate,
    calibrated,
    check_calibration,
    check_operating_point,
    evidence_of,
    study_score,
)
from inference.types import Contrast
from tests.inference.heads import affine, volume

RAMP = Calibration(
    reference="a ramp",
    voxels=10_000,
    raw={"brighter": (0.0, 1.0, 2.0, 3.0), "darker": (0.0, 2.0, 4.0, 6.0)},
    exceedance=(1.0, 0.1, 0.01, 0.001),
)
SHAPE = (6, 12, 12)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
SPACING = (4.0, 2.0, 2.0)


def point(brighter: float = 2.0, darker: float = 2.0, volume_mm3: float = 0.0, most: int = 9) -> OperatingPointCard:
    """An operating point."""
    return OperatingPointCard(
        threshold={"brighter": brighter, "darker": darker},
        minimum_volume_mm3=volume_mm3,
        maximum_findings=most,
        rule="a test's",
    )


def grid(array: np.ndarray, spacing: tuple[float, float, float] = (4.0, 1.0, 2.0)) -> object:
    """The array as a volume of voxels of 8 mm3 by default."""
    return volume(array.astype(np.float32), affine(SHAPE, spacing, tilt_deg=(10, 20, 30)))


@pytest.mark.parametrize(
    ("sign", "raw", "score"),
    [
        (Contrast.BRIGHTER, 2.0, 2.0),
        (Contrast.BRIGHTER, 1.5, 1.5),
        (Contrast.BRIGHTER, -5.0, 0.0),
        (Contrast.BRIGHTER, 99.0, 3.0 + 96 / 97),
        (Contrast.DARKER, -4.0, 2.0),
        (Contrast.DARKER, 4.0, 0.0),
    ],
    ids=["entry", "between", "wrong sign", "beyond the table", "dark entry", "dark of bright"],
)
def test_a_raw_score_becomes_minus_log10_of_its_exceedance(sign: Contrast, raw: float, score: float) -> None:
    assert calibrated(np.array([raw], dtype=np.float32), RAMP, sign)[0] == pytest.approx(score, abs=1e-6)


@given(
    arrays.arrays(np.float32, st.integers(2, 400), elements=st.floats(-50, 50, width=32)),
    arrays.arrays(np.float32, 30, elements=st.floats(-60, 60, width=32)),
)
def test_calibration_is_monotone_and_hardly_passes_the_size_of_the_reference(reference: np.ndarray, raw: np.ndarray) -> None:
    table = calibrate(reference, "drawn")
    check_calibration(table)

    for sign, ordered in ((Contrast.BRIGHTER, np.sort(raw)), (Contrast.DARKER, np.sort(raw)[::-1])):
        score = calibrated(ordered, table, sign)

        assert np.all(np.diff(score) >= 0)
        assert score.min() >= 0
        assert score.max() <= math.log10(reference.size) + 1


def test_a_calibration_table_gives_the_fraction_of_reference_voxels_at_least_as_high() -> None:
    reference = np.random.default_rng(0).standard_normal(200_000)
    table = calibrate(reference, "normal")

    for value in (-1.0, 0.0, 1.0, 2.0, 3.0):
        for sign, departure in ((Contrast.BRIGHTER, reference), (Contrast.DARKER, -reference)):
            raw = value if sign is Contrast.BRIGHTER else -value
            expected = -math.log10(np.mean(departure >= value))
            found = calibrated(np.array([raw], dtype=np.float32), table, sign)[0]
            assert found == pytest.approx(expected, abs=0.01)  # 256 points over 5.3 decades: 0.02 apart


@pytest.mark.parametrize("reference", [np.array([]), np.array([1.0, np.nan])], ids=["none", "not a number"])
def test_no_table_is_made_of(reference: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        calibrate(reference, "broken")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exceedance": (1.0, 0.1, 0.2, 0.001)}, "falling fractions"),
        ({"exceedance": (1.0, 0.1, 0.01, 0.0)}, "above 0"),
        ({"exceedance": ()}, "at least one"),
        ({"raw": {"brighter": (0.0, 1.0, 2.0, 3.0)}}, "raw scores for darker: 0, expected 4"),
        (
            {"raw": {"brighter": (0.0, 1.0, 2.0, 1.0), "darker": (0.0, 2.0, 4.0, 6.0)}},
            "brighter must be finite and",
        ),
        ({"voxels": 0}, "a reference of 0 voxels"),
    ],
)
def test_a_broken_table_is_an_error(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_calibration(RAMP.model_copy(update=change))


def test_a_threshold_for_one_sign_only_is_an_error() -> None:
    with pytest.raises(ValueError, match="no threshold for darker"):
        check_operating_point(point().model_copy(update={"threshold": {"brighter": 1.0}}))


def test_one_table_for_both_signs_scores_equal_departures_alike() -> None:
    rng = np.random.default_rng(3)
    skewed = np.where(rng.random(20_000) < 0.9, np.abs(rng.normal(0, 1, 20_000)), -0.1 * np.abs(rng.normal(0, 1, 20_000)))

    apart, together = Components().calibrate(skewed, "skewed"), Components(one_table=True).calibrate(skewed, "skewed")
    raw = np.array([1.0, -1.0])

    assert calibrated(raw, apart, Contrast.DARKER)[1] > calibrated(raw, apart, Contrast.BRIGHTER)[0] + 1
    assert calibrated(raw, together, Contrast.DARKER)[1] == calibrated(raw, together, Contrast.BRIGHTER)[0]
    expected = -np.log10(np.mean(np.abs(skewed) >= 1.0))
    assert calibrated(raw, together, Contrast.BRIGHTER)[0] == pytest.approx(expected, abs=0.02)
    assert calibrated(raw, together, Contrast.BRIGHTER)[1] == 0  # of the other sign


def test_a_finding_must_be_striking_or_large() -> None:
    raw = np.zeros(SHAPE)
    raw[2, 1:3, 1:3], raw[2, 2:6, 5:8] = 2.5, 2.5  # of one height, 4 and 12 voxels

    asked = point().model_copy(update={"least_evidence": {"brighter": 0.0}})
    all_of_them = Components().assess(grid(raw), EVERYWHERE, RAMP, asked)
    peak = all_of_them.findings[0].peak_score
    least = evidence_of(peak, all_of_them.findings[0].volume_mm3)
    large_only = Components().assess(
        grid(raw), EVERYWHERE, RAMP, point().model_copy(update={"least_evidence": {"brighter": least - 0.01}})
    )
    none = Components().assess(
        grid(raw), EVERYWHERE, RAMP, point().model_copy(update={"least_evidence": {"brighter": least + 0.01}})
    )

    assert [finding.voxels for finding in all_of_them.findings] == [12, 4]
    assert [finding.voxels for finding in large_only.findings] == [12]
    assert none.findings == ()


@pytest.mark.parametrize("most", [0, 65_536])
def test_a_number_of_findings_that_labels_cannot_hold_is_an_error(most: int) -> None:
    with pytest.raises(ValueError, match="outside 1 to 65535"):
        check_operating_point(point(most=most))


def test_each_sign_has_its_own_threshold_and_its_own_findings() -> None:
    raw = np.zeros(SHAPE)
    raw[2, 2:5, 2:5], raw[2, 2:5, 5:8] = 2.5, -5.0  # touching: a bright and a dark region stay two

    both = Components().assess(grid(raw), EVERYWHERE, RAMP, point())
    dark_only = Components().assess(grid(raw), EVERYWHERE, RAMP, point(brighter=2.9))

    assert [(finding.contrast, finding.voxels) for finding in both.findings] == [
        (Contrast.BRIGHTER, 9),
        (Contrast.DARKER, 9),
    ]
    assert [finding.contrast for finding in dark_only.findings] == [Contrast.DARKER]


def test_corners_connect() -> None:
    raw = np.zeros(SHAPE)
    raw[1, 1, 1] = raw[2, 2, 2] = raw[3, 3, 3] = 3.0

    assert [finding.voxels for finding in Components().assess(grid(raw), EVERYWHERE, RAMP, point()).findings] == [3]


def test_nothing_outside_the_brain_is_scored() -> None:
    raw, brain = np.full(SHAPE, 3.0), np.zeros(SHAPE, dtype=bool)
    brain[2:4, 3:6, 3:6] = True

    found = Components().assess(grid(raw), brain, RAMP, point())

    assert not found.score[~brain].any()
    assert not found.labels[~brain].any()
    assert found.findings[0].voxels == 18


def test_the_minimum_volume_is_in_mm3_and_inclusive() -> None:
    raw = np.zeros(SHAPE)
    raw[1, 1, 1:4], raw[4, 1, 1:3] = 3.0, 3.0  # 24 and 16 mm3

    def sizes(least_mm3: float) -> list[float]:
        found = Components().assess(grid(raw), EVERYWHERE, RAMP, point(volume_mm3=least_mm3))
        return [round(finding.volume_mm3, 3) for finding in found.findings]

    assert sizes(16.0) == [24.0, 16.0]
    assert sizes(16.1) == [24.0]
    assert sizes(25.0) == []


def test_the_largest_findings_are_kept_and_numbered_by_falling_volume() -> None:
    raw = np.zeros(SHAPE)
    for place, length in enumerate((2, 5, 3, 4)):
        raw[place, 2 * place, 1 : 1 + length] = 3.0

    found = Components().assess(grid(raw, (4.0, 1.0, 2.0)), EVERYWHERE, RAMP, point(most=2))

    # diagonal neighbours in slice and row are two rows apart: not connected
    assert [(finding.number, finding.voxels) for finding in found.findings] == [(1, 5), (2, 4)]
    assert found.findings_left_out == 2
    assert np.count_nonzero(found.labels == 1) == 5
    assert found.labels.dtype == np.uint16


@pytest.mark.parametrize("side", [1, 3])
def test_the_median_filter_removes_single_voxels_and_one_leaves_them(side: int) -> None:
    raw = np.zeros(SHAPE, dtype=np.float32)
    raw[2, 5, 5] = 3.0

    assert Components(median=side).smooth(raw, SPACING).any() == (side == 1)


def test_the_study_score_is_a_percentile_inside_the_brain() -> None:
    score, brain = np.zeros(1000, dtype=np.float32), np.zeros(1000, dtype=bool)
    brain[:201], score[:201], score[500] = True, np.arange(201), 1e6

    assert study_score(score, brain) == pytest.approx(0.995 * 200)
    assert study_score(score, np.zeros(1000, dtype=bool)) == 0.0


def test_a_departure_that_neighbouring_slices_share_weighs_more_than_a_lone_one() -> None:
    raw = np.zeros((9, 8, 8), dtype=np.float32)
    raw[2, 2, 2] = raw[4:7, 5, 5] = 1.0

    smooth = Components(through_sigma=0.6).smooth(raw, SPACING)

    assert smooth[5, 5, 5] > 0.9
    assert smooth[2, 2, 2] < 0.7
    assert smooth.sum() == pytest.approx(raw.sum(), rel=1e-4)
    assert np.array_equal(Components().smooth(raw, SPACING), raw)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_voxel_in_striking_company_weighs_more_than_a_lone_one_of_either_sign(sign: float) -> None:
    raw = np.zeros((20, 40, 40), dtype=np.float32)
    raw[10, 8, 8] = 2.0
    raw[7:14, 24:36, 24:36] = 2.0
    raw[10, 30, 30] = 0.5  # a faint voxel within the striking ones

    supported = sign * Support(above=1.0, sigma_mm=8.0, weight=2.0).add(sign * raw, SPACING)

    assert supported[10, 29, 29] > 3.0  # two thirds of its neighbourhood or more
    assert 2.0 < supported[10, 8, 8] < 2.2
    assert supported[10, 30, 30] - 0.5 == pytest.approx(supported[10, 29, 29] - 2.0, abs=0.1)
    assert supported.max() <= 4.0


def test_company_is_counted_in_millimetres() -> None:
    support, ball = Support(above=1.0, sigma_mm=8.0, weight=2.0), 15.0
    heights = []
    for spacing in ((2.0, 2.0, 2.0), (5.0, 2.5, 2.5)):
        steps = [(np.arange(40) - 20) * mm for mm in spacing]
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*steps, indexing="ij")))
        heights.append(float(support.add(np.where(distance < ball, 2.0, 0.0).astype(np.float32), spacing)[20, 20, 20]))

    assert heights[0] == pytest.approx(heights[1], abs=0.1)
