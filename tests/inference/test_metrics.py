"""Metrics equal scikit-learn's where it has them, and lack the known faults of published evaluators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from inference.metrics import (
    ScoreHistogram,
    average_precision,
    best_mean_dice,
    count_lesions,
    dice,
    mean_best_dice,
)

SPACING = (5.0, 1.0, 1.0)


def case(seed: int, marked: float = 0.05, size: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores in 0..8 of one case, higher where marked."""
    random = np.random.default_rng(seed)
    truth = random.random(size) < marked
    score = np.clip(random.gamma(1.0, 0.6, size) + truth * random.gamma(2.0, 0.8, size), 0, 8)
    return score.astype(np.float32), truth


def histogram(*cases: tuple[np.ndarray, np.ndarray]) -> ScoreHistogram:
    """The pooled histogram of cases."""
    pooled = ScoreHistogram(0.0, 8.0)
    for score, truth in cases:
        pooled.add(score, truth)
    return pooled


@pytest.mark.feature("L5")
@pytest.mark.parametrize("marked", [0.001, 0.05, 0.6])
def test_pooled_average_precision_equals_scikit_learns_within_a_ten_thousandth(marked: float) -> None:
    cases = [case(seed, marked) for seed in range(5)]
    scores, truths = (np.concatenate(parts) for parts in zip(*cases, strict=True))

    found = histogram(*cases).average_precision()

    assert found == pytest.approx(average_precision_score(truths, scores), abs=1e-4)


def test_pooled_auroc_equals_scikit_learns() -> None:
    cases = [case(seed) for seed in range(3)]
    scores, truths = (np.concatenate(parts) for parts in zip(*cases, strict=True))

    assert histogram(*cases).auroc() == pytest.approx(roc_auc_score(truths, scores), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=80))
def test_both_average_precisions_equal_scikit_learns_under_ties(pairs: list[tuple[int, bool]]) -> None:
    score = np.array([value for value, _ in pairs], dtype=np.float64) / 4
    truth = np.array([label for _, label in pairs])
    found = [average_precision(score, truth), histogram((score, truth)).average_precision()]

    if not truth.any():
        assert all(math.isnan(value) for value in found)
    else:
        assert found == pytest.approx([average_precision_score(truth, score)] * 2, abs=1e-6)


def test_adding_cases_one_by_one_or_merging_is_the_same() -> None:
    together = histogram(case(1), case(2))
    merged = histogram(case(1))
    merged.merge(histogram(case(2)))

    assert np.array_equal(together.marked, merged.marked)
    assert together.average_precision() == merged.average_precision()


def test_histograms_over_different_ranges_are_not_merged() -> None:
    with pytest.raises(ValueError, match="ranges differ"):
        ScoreHistogram(0, 1).merge(ScoreHistogram(0, 2))


def test_memory_does_not_grow_with_the_number_of_cases() -> None:
    assert histogram(*(case(seed, size=1000) for seed in range(50))).marked.nbytes == 65_536 * 8


def test_dice_at_a_threshold_equals_f1() -> None:
    score, truth = case(4)
    threshold = 2.0  # an edge of the bins: 65,536 over 8

    expected = f1_score(truth, score >= threshold)

    assert histogram((score, truth)).dice(threshold) == pytest.approx(expected, abs=1e-12)
    assert dice(score >= threshold, truth) == pytest.approx(expected, abs=1e-12)


def test_the_best_pooled_dice_is_the_best_over_all_thresholds() -> None:
    cases = [case(seed) for seed in range(3)]
    scores, truths = (np.concatenate(parts) for parts in zip(*cases, strict=True))
    exhaustive = max(dice(scores >= threshold, truths) for threshold in np.quantile(scores, np.linspace(0.8, 1, 400)))

    best = histogram(*cases).best_dice()

    assert best.dice == pytest.approx(exhaustive, abs=2e-3)
    assert best.dice >= exhaustive - 1e-6
    assert histogram(*cases).dice(best.threshold) == pytest.approx(best.dice)


def test_the_three_best_dices_are_not_the_same_quantity() -> None:
    cases = [histogram(case(1, 0.01)), histogram(case(2, 0.3))]
    pooled = histogram(case(1, 0.01), case(2, 0.3))

    common, own = best_mean_dice(cases), mean_best_dice(cases)

    assert own == pytest.approx(np.mean([one.best_dice().dice for one in cases]))
    assert common.dice == pytest.approx(np.mean([one.dice(common.threshold) for one in cases]))
    assert own > common.dice
    assert pooled.best_dice().dice != pytest.approx(common.dice, abs=1e-3)


def test_a_case_without_marks_has_no_dice_and_is_not_counted_as_perfect() -> None:
    empty = histogram((np.zeros(100), np.zeros(100, dtype=bool)))
    full = histogram(case(1))

    assert math.isnan(dice(np.zeros(9, dtype=bool), np.zeros(9, dtype=bool)))
    assert math.isnan(empty.dice(1.0))
    assert math.isnan(empty.best_dice().dice)
    assert math.isnan(empty.average_precision())
    assert best_mean_dice([full, empty]).dice == best_mean_dice([full]).dice
    assert mean_best_dice([full, empty]) == full.best_dice().dice
    assert math.isnan(mean_best_dice([empty]))


def test_precision_and_recall_are_not_swapped() -> None:
    # one of two marked voxels found, alone at the top: precision 1 there; the other among two at the bottom
    score, truth = np.array([3.0, 1.0, 1.0]), np.array([True, True, False])

    assert average_precision(score, truth) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_the_mask_leaves_background_out() -> None:
    score, truth = case(6)
    padded = np.concatenate([score, np.zeros_like(score)]), np.concatenate([truth, np.zeros_like(truth)])
    inside = np.arange(2 * len(score)) < len(score)
    masked = ScoreHistogram(0.0, 8.0)

    masked.add(*padded, inside)

    assert masked.auroc() == histogram((score, truth)).auroc()
    assert masked.prevalence() == pytest.approx(truth.mean())
    assert histogram(padded).auroc() > masked.auroc()


@pytest.mark.parametrize("rate", [0.01, 0.001])
def test_the_threshold_for_a_false_positive_rate_holds_it(rate: float) -> None:
    score, truth = case(8)
    threshold = histogram((score, truth)).false_positive_threshold(rate)

    reached = float(np.mean(score[~truth] >= threshold))

    assert 0.8 * rate < reached <= rate


def test_scores_beyond_the_range_count_in_the_outermost_bins() -> None:
    odd = ScoreHistogram(0.0, 1.0)

    odd.add(np.array([-5.0, 5.0]), np.array([False, True]))

    assert odd.unmarked[0] == 1
    assert odd.marked[-1] == 1


@pytest.mark.parametrize(
    ("score", "truth", "message"),
    [
        (np.zeros(3), np.zeros(4, dtype=bool), "shapes differ"),
        (np.zeros(3), np.zeros(3), "must be boolean"),
        (np.array([0.0, np.nan]), np.zeros(2, dtype=bool), "finite"),
    ],
)
def test_bad_input_is_an_error(score: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreHistogram(0.0, 1.0).add(score, truth)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (0.0, math.inf)])
def test_a_range_that_is_none_is_an_error(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="cannot be binned"):
        ScoreHistogram(low, high)


def lesions() -> np.ndarray:
    """Three lesions of 20, 4 and 1 voxels of 5 mm3."""
    truth = np.zeros((6, 20, 20), dtype=bool)
    truth[1, 2:6, 2:7] = truth[3, 10:12, 10:12] = truth[5, 18, 18] = True
    return truth


def test_a_lesion_is_found_by_a_tenth_of_its_voxels_and_touched_by_one() -> None:
    predicted = np.zeros((6, 20, 20), dtype=bool)
    predicted[1, 2, 2:4] = True  # 2 of 20
    predicted[3, 10, 10] = True  # 1 of 4

    count = count_lesions(predicted, lesions(), SPACING)
    one_voxel = np.zeros_like(predicted)
    one_voxel[1, 2, 2] = True  # 1 of 20
    touched = count_lesions(one_voxel, lesions(), SPACING)

    assert (count.lesions, count.hit, count.touched) == (3, 2, 2)
    assert (touched.hit, touched.touched) == (0, 1)
    assert count.sensitivity == pytest.approx(2 / 3)
    assert count.false_findings == 0


def test_small_lesions_are_not_counted_yet_finding_one_is_no_fault() -> None:
    predicted = np.zeros((6, 20, 20), dtype=bool)
    predicted[5, 18, 18] = True

    count = count_lesions(predicted, lesions(), SPACING, minimum_volume_mm3=20.0)

    assert (count.lesions, count.hit) == (2, 0)
    assert (count.findings, count.false_findings) == (1, 0)


@pytest.mark.parametrize(
    ("place", "false"),
    [((1, 2, 9), 1), ((1, 2, 8), 0), ((2, 3, 3), 1)],
    ids=["3 mm beside", "2 mm beside", "the next slice, 5 mm off"],
)
def test_a_finding_is_false_where_no_lesion_lies_within_2_mm(place: tuple[int, int, int], false: int) -> None:
    predicted = np.zeros((6, 20, 20), dtype=bool)
    predicted[place] = True

    assert count_lesions(predicted, lesions(), SPACING).false_findings == false


def test_a_split_finding_counts_its_lesion_once_and_one_finding_may_find_two() -> None:
    split, wide = np.zeros((6, 20, 20), dtype=bool), np.zeros((6, 20, 20), dtype=bool)
    split[1, 2, 2:7] = split[1, 5, 2:7] = True
    wide[1:6, 2:20, 2:20] = True

    assert (
        count_lesions(split, lesions(), SPACING).hit,
        count_lesions(split, lesions(), SPACING).findings,
    ) == (1, 2)
    assert (
        count_lesions(wide, lesions(), SPACING).hit,
        count_lesions(wide, lesions(), SPACING).findings,
    ) == (3, 1)


def test_without_lesions_every_finding_is_false_and_there_is_no_sensitivity() -> None:
    predicted = np.zeros((6, 20, 20), dtype=bool)
    predicted[1, 1, 1] = predicted[4, 4, 4] = True

    count = count_lesions(predicted, np.zeros_like(predicted), SPACING)

    assert count.false_findings == 2
    assert math.isnan(count.sensitivity)
