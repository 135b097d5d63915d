"""Ours lacks the mistakes found in published evaluators (methods compared in the review's code): one test for each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inference.evaluation.case import Rules, measure_case
from inference.evaluation.cohort import Cohort, Fixed, SharedPatients
from inference.evaluation.curves import STATISTICS, Curves, Thresholds, case_curve
from inference.evaluation.maps import SCORE, SPANS, maps_of
from inference.evaluation.surfaces import surface_distances
from inference.localizer import Context
from tests.inference.evaluation.studies import Plain, cohort_of_studies, study

NOBODY = Thresholds()
RULES = Rules(pictures=False)
pytestmark = pytest.mark.feature("L5")


def statistic(name: str, score: np.ndarray, truth: np.ndarray, fixed: Thresholds = NOBODY) -> float:
    """One statistic of one case over scores from 0 to 8."""
    curve = case_curve(score.astype(np.float32), truth.astype(np.int32), 0.0, 8.0)
    return float(Curves.of([curve], 0.0, 8.0).statistics(np.ones((1, 1)), fixed)[0, STATISTICS.index(name)])


def test_precision_and_recall_are_not_swapped() -> None:
    # one of ten marked voxels found, nothing false: precision 1, recall 0.1; swapped, the Dice would be the same but not this
    truth = np.arange(100) < 10
    score = np.where(np.arange(100) < 1, 4.0, 0.0)

    found = statistic("ap_pooled", score, truth)

    assert found == pytest.approx(0.1 * 1.0 + 0.9 * 0.1)
    assert found != pytest.approx(statistic("ap_pooled", truth * 4.0, score > 0))


def test_truth_and_prediction_are_not_exchanged() -> None:
    predicted, truth = np.zeros((3, 20, 20), bool), np.zeros((3, 20, 20), bool)
    truth[1, 5:9, 5:9] = True
    predicted[1, 5:9, 5:9] = predicted[1, 15, 15] = True
    score = np.where(predicted, 4.0, 0.0)

    assert statistic("auroc_pooled", score, truth) == pytest.approx(1 - 0.5 / (1200 - 16))
    assert statistic("auroc_pooled", truth * 4.0, predicted) == pytest.approx(1 - 0.5 / 17)
    assert surface_distances(predicted, truth, (1, 1, 1)).nsd == surface_distances(truth, predicted, (1, 1, 1)).nsd


def test_the_false_positive_rate_is_of_unmarked_voxels_and_not_of_findings() -> None:
    truth = np.arange(1000) < 100
    score = np.where(truth, 4.0, np.where(np.arange(1000) < 109, 3.0, 1.0))
    curve = case_curve(score.astype(np.float32), truth.astype(np.int32), 0.0, 8.0)

    threshold = Curves.of([curve], 0.0, 8.0).false_positive_threshold(0.0101)  # 9 of 900; of the 109 findings it is 8 %

    assert threshold == pytest.approx(3.0)


def test_no_map_is_divided_by_its_own_maximum() -> None:
    loud, faint = study("loud", factor=1.9, noise=0.0), study("faint", factor=1.3, noise=0.0)
    results = [Plain().localize(one.volume, Context()) for one in (loud, faint)]

    for name in SPANS:
        if name != "equalised":  # a rank has no maximum of its own
            highest = [
                float(maps_of(result, np.asarray(one.volume.array), (4.0, 2.0, 2.0))[name].max())
                for result, one in zip(results, (loud, faint), strict=True)
            ]
            assert highest[0] > 1.5 * highest[1], name


def test_an_empty_truth_is_not_counted_as_perfect() -> None:
    full, empty = study("full"), study("empty", lesions=0, marked=False)
    cases = [measure_case(Plain(), one, RULES, Context()) for one in (full, empty)]

    both, alone = Cohort(cases, draws=0), Cohort(cases[:1], draws=0)

    assert math.isnan(statistic("ap_pooled", np.ones(9), np.zeros(9, bool)))
    assert math.isnan(statistic("dice_max_pooled", np.ones(9), np.zeros(9, bool)))
    for name in ("dice_mean", "dice_pooled", "hd95_mm"):
        assert both.delivered()[name].value == alone.delivered()[name].value, name
    for name in ("dice_max_mean", "dice_max_per_case", "ap_case"):
        figures = [one.map_figures(SCORE).figures[name].value for one in (both, alone)]
        assert figures[0] == pytest.approx(figures[1]), name


def test_a_threshold_is_not_tuned_on_the_patients_it_is_measured_on() -> None:
    cases = [measure_case(Plain(), one, RULES, Context()) for one in cohort_of_studies(4)]

    with pytest.raises(SharedPatients):
        Cohort(cases[:2], Fixed.on(cases[1:]))
    without = Cohort(cases[:2], draws=0).map_figures(SCORE)
    assert math.isnan(without.figures["dice_fixed_pooled"].value)  # nobody fixed one: not the oracle's in its place
    assert without.thresholds.dice is None


def test_every_voxel_and_every_slice_is_counted() -> None:
    one = study("whole", lesions=2)

    case = measure_case(Plain(), one, RULES, Context())

    curve = case.curves[SCORE]
    assert curve.marked.sum() + curve.unmarked.sum() == one.volume.array.size
    assert case.slices == one.volume.spatial_shape[0]
    assert len(case.images[SCORE].slices) == 6
    assert case.slice_marked.tolist() == [False, False, True, True, False, False]


def test_the_best_threshold_is_found_where_dice_has_two_peaks() -> None:
    # a halving search that trusts one peak stays at the lower one, or misses the narrow high one
    truth = np.arange(1000) < 200
    score = np.full(1000, 1.0)
    score[:90] = 7.0  # peak one: 90 found, none false
    score[300:500] = 5.0  # a valley of 200 false voxels
    score[90:200] = 4.0  # peak two: all found, 200 false
    by_hand = [2 * 90 / (90 + 200), 2 * 90 / (290 + 200), 2 * 200 / (400 + 200), 2 * 200 / 1200]

    assert statistic("dice_max_pooled", score, truth) == pytest.approx(max(by_hand))
    assert max(by_hand) == by_hand[2]


def test_the_three_highest_dices_have_three_names_and_are_not_one_quantity() -> None:
    cases = [measure_case(Plain(), one, RULES, Context()) for one in cohort_of_studies(6)]

    figures = Cohort(cases, draws=0).map_figures("intensity").figures

    values = [figures[name].value for name in ("dice_max_pooled", "dice_max_mean", "dice_max_per_case")]
    assert values[2] > values[1]
    assert len({round(value, 6) for value in values}) == 3
