"""Figures of a set are what one would work out by hand, intervals are over patients, and thresholds come from other patients."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from inference.data import Study, is_development
from inference.evaluation.case import Case, Rules, measure_case
from inference.evaluation.cohort import Cohort, Fixed, SharedPatients, curves_of
from inference.evaluation.curves import STATISTICS, Curves, Thresholds
from inference.evaluation.maps import BASELINES, RESIDUAL, SCORE
from inference.evaluation.resampling import holm
from inference.evaluation.run import NothingMeasured, Plan, measure_sets
from inference.evaluation.strata import strata
from inference.evaluation.summary import summarise, to_json
from inference.localizer import Context
from tests.inference.evaluation.studies import SPACING, Plain, Studies, cohort_of_studies, study

RULES = Rules(pictures=False)


def measured(studies: list[Study], localizer: Plain | None = None) -> list[Case]:
    """Every study under a threshold on intensity."""
    return [measure_case(localizer or Plain(), one, RULES, Context()) for one in studies]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Eight patients."""
    return measured(cohort_of_studies())


@pytest.mark.feature("L5")
def test_a_case_counts_lesions_false_findings_and_voxels() -> None:
    [case] = measured([study("one", factor=1.5, lesions=2, false=1)])
    done = case.delivered

    assert [lesion.found for lesion in done.matched.lesions] == [True, True]
    assert [lesion.sign for lesion in done.matched.lesions] == ["brighter", "brighter"]
    assert done.matched.lesions[0].volume_mm3 == pytest.approx(72 * math.prod(SPACING))
    assert (done.matched.findings, done.matched.false_findings) == (3, 1)
    assert (done.marked_voxels, done.shared_voxels) == (144, 144)
    assert done.dice == pytest.approx(2 * 144 / (144 + done.found_voxels))
    assert done.volume_error_ml == pytest.approx((done.found_voxels - 144) * 0.016)
    assert case.lost_by_mask == 0.0


def test_a_study_without_marks_has_a_false_volume_and_no_dice() -> None:
    [case] = measured([study("healthy", lesions=0, false=2, marked=False)])
    found = Cohort([case], draws=0).delivered()

    assert math.isnan(case.delivered.dice)
    assert math.isnan(found["dice_mean"].value)
    assert math.isnan(found["lesion_sens"].value)
    assert found["fp_volume_ml"].value == pytest.approx(case.delivered.found_voxels * 0.016)
    assert found["fp_per_scan"].value == 2.0


def test_pooled_figures_are_of_all_voxels_and_means_are_of_patients(cases: list[Case]) -> None:
    found = Cohort(cases, draws=0).delivered()
    done = [case.delivered for case in cases]

    shared = sum(2 * one.shared_voxels for one in done)
    assert found["dice_pooled"].value == pytest.approx(shared / sum(one.found_voxels + one.marked_voxels for one in done))
    assert found["dice_mean"].value == pytest.approx(np.mean([one.dice for one in done]))
    assert found["dice_pooled"].value != pytest.approx(found["dice_mean"].value, abs=1e-4)


def test_every_interval_holds_its_figure_and_is_wider_for_fewer_patients(cases: list[Case]) -> None:
    eight = Cohort(cases, draws=200).map_figures(SCORE).figures
    twice = Cohort([*cases, *measured([_renamed(one) for one in cohort_of_studies()])], draws=200).map_figures(SCORE).figures

    for name in ("ap_pooled", "ap_case", "dice_max_pooled", "dice_max_mean", "dice_max_per_case", "aupro_05"):
        one = eight[name]
        assert one.low <= one.value <= one.high, name
    assert eight["ap_case"].high - eight["ap_case"].low > twice["ap_case"].high - twice["ap_case"].low


def _renamed(one: Study) -> Study:
    return Study("again-" + one.patient, one.volume, one.lesion, one.traits)


def test_studies_of_a_patient_are_drawn_together(cases: list[Case]) -> None:
    twice = Cohort([*cases, *cases], draws=50)
    once = Cohort(cases, draws=50)

    assert twice.resampling.patients == once.resampling.patients == 8
    assert np.array_equal(twice.resampling.drawn[:, :8], twice.resampling.drawn[:, 8:])
    pair = [one.map_figures(SCORE).figures["ap_pooled"] for one in (once, twice)]
    assert pair[0].value == pytest.approx(pair[1].value)
    assert (pair[0].low, pair[0].high) == pytest.approx((pair[1].low, pair[1].high), abs=2e-3)  # bins are merged for draws


def test_merging_bins_for_the_draws_hardly_changes_a_figure(cases: list[Case]) -> None:
    ones = np.ones((1, len(cases)))
    for name in (SCORE, RESIDUAL, "equalised"):
        curves = curves_of(cases, name)
        full, thin = (one.statistics(ones, Thresholds())[0] for one in (curves, curves.thinned(500)))

        known = slice(0, STATISTICS.index("dice_fixed_pooled"))  # nobody fixed a threshold here
        assert thin[known] == pytest.approx(full[known], abs=5e-3)


def test_baselines_are_measured_in_the_same_mask(cases: list[Case]) -> None:
    for case in cases:
        totals = {float((curve.marked + curve.unmarked).sum()) for curve in case.curves.values()}
        assert totals == {6 * 40 * 36}
        lowest = {name: float(curve.unmarked[0]) for name, curve in case.curves.items()}
        assert len(set(lowest.values())) == 1  # as many voxels outside the mask, in the lowest bin, under every map


def test_rates_of_false_positives_are_of_the_brain_and_precision_of_everything(cases: list[Case]) -> None:
    [case] = measured([study("one", lesions=1, false=1)])
    curve = case.curves["intensity"]
    alone = replace(curve, outside=0.0)  # as if what lies outside the brain were part of it
    ones = np.ones((1, 1))

    told, flattered = (
        dict(zip(STATISTICS, Curves.of([one], -25.0, 25.0).statistics(ones, Thresholds())[0], strict=True))
        for one in (curve, alone)
    )

    brain_voxels, marked = 6 * 32 * 28, 72
    assert curve.outside == 6 * 40 * 36 - brain_voxels
    assert told["ap_pooled"] == flattered["ap_pooled"]
    assert told["auroc_pooled"] < flattered["auroc_pooled"]
    lost = (1 - told["auroc_pooled"]) * (brain_voxels - marked)
    assert (1 - flattered["auroc_pooled"]) * (6 * 40 * 36 - marked) == pytest.approx(lost)
    assert told["aupro_05"] < flattered["aupro_05"]


def test_a_paired_difference_of_a_map_with_itself_is_nothing_and_with_a_worse_one_is_above_it(cases: list[Case]) -> None:
    own = Cohort(cases, draws=200)
    worse = Cohort(measured([_noisy(one) for one in cohort_of_studies()]), draws=200)
    rows, others = own.curve_rows(RESIDUAL), worse.curve_rows(RESIDUAL)

    same = own.difference_of(rows, own, rows, "ap_pooled")
    gain = own.difference_of(rows, worse, others, "ap_pooled")

    assert (same.estimate.value, same.estimate.low, same.estimate.high) == (0, 0, 0)
    assert same.p == 1.0
    assert 0 < gain.estimate.low < gain.estimate.value
    assert gain.p < 0.05


def _noisy(one: Study) -> Study:
    rng = np.random.default_rng(len(one.patient))
    inside = one.volume.array > 0
    image = np.maximum(one.volume.array + rng.normal(0, 120, inside.shape), 60) * inside
    return Study(one.patient, one.volume.with_array(image.astype(np.float32)), one.lesion)


def test_only_the_same_studies_are_compared(cases: list[Case]) -> None:
    first, second = Cohort(cases[:4], draws=5), Cohort(cases[4:], draws=5)

    with pytest.raises(ValueError, match="same studies"):
        first.difference_of(first.curve_rows(SCORE), second, second.curve_rows(SCORE), "ap_pooled")


def test_holm_corrects_step_by_step_and_leaves_out_what_is_no_number() -> None:
    # by hand: 0.01 x 3; max(0.03, 0.03 x 2); max(0.06, 0.04 x 1)
    assert holm([0.04, 0.01, math.nan, 0.03])[:2] == pytest.approx([0.06, 0.03])
    assert holm([0.04, 0.01, math.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(holm([0.5, math.nan])[1])


def test_strata_cover_every_lesion_and_every_patient(cases: list[Case]) -> None:
    found = strata(Cohort(cases, draws=20))
    lesions = sum(len(case.delivered.matched.lesions) for case in cases)

    for kind, total in (("lesion volume", lesions), ("lesion contrast", lesions), ("sex", 8), ("site", 8), ("age", 8)):
        assert sum(one.count for one in found if one.kind == kind) == total, kind
    bands = {one.group: one for one in found if one.kind == "lesion volume"}
    assert set(bands) == {"1 to 10 mL"}


def test_thresholds_are_fixed_on_development_patients_and_measured_on_the_others() -> None:
    reader = Studies(cohort_of_studies(16))

    [found] = measure_sets({"plain": Plain()}, Plan([reader], fixed_on_development=True, rules=RULES, draws=20))
    cohort = found.cohorts["plain"]

    measured_on = {case.patient for case in cohort.cases}
    assert all(is_development(patient) for patient in cohort.fixed.patients)
    assert not any(is_development(patient) for patient in measured_on)
    assert measured_on | cohort.fixed.patients == set(reader.read)
    figures = cohort.map_figures(SCORE)
    assert figures.figures["dice_fixed_pooled"].value <= figures.figures["dice_max_pooled"].value
    assert f"{len(cohort.fixed.patients)} other patients" in found.fixed_on
    assert cohort.reliability() is not None


def test_uncertainty_that_is_lowest_far_from_the_threshold_ranks_errors() -> None:
    studies = [study(f"q{n}", seed=n, factor=1.22, noise=0.08) for n in range(4)]
    cohort = Cohort(measured(studies, Plain(threshold=0.8, doubt=True)), draws=10)

    assert cohort.delivered()["uncertainty_error_auroc"].value > 0.6


def test_a_refused_study_is_told_and_in_no_figure() -> None:
    bad = study("bad")
    bad.volume.array[0, 0, 0] = -1.0
    reader = Studies([*cohort_of_studies(3), bad])

    [found] = measure_sets({"plain": Plain(), "eager": Plain(threshold=0.6)}, Plan([reader], rules=RULES, draws=10))

    assert found.refused == ("bad: test: unusable",)
    assert [len(cohort.cases) for cohort in found.cohorts.values()] == [3, 3]


def test_a_source_that_gives_nothing_is_an_error() -> None:
    with pytest.raises(NothingMeasured, match="made by code"):
        measure_sets({"plain": Plain()}, Plan([Studies([])], rules=RULES))


def test_the_json_names_pooling_mask_prevalence_and_cost_and_has_no_nan() -> None:
    plan = Plan([Studies(cohort_of_studies(4))], rules=RULES, draws=20)
    found = summarise(measure_sets({"plain": Plain()}, plan), "fovea evaluate", ["plain 1"], plan.rules)

    content = json.loads(to_json(found))

    [one] = content["sets"]
    marked = 72 * (1 + 2 + 1 + 2)
    assert one["prevalence"] == pytest.approx(marked / (4 * 6 * 40 * 36))
    assert "pooled" in content["pooling"]
    assert "brain" in content["mask"]
    [localizer] = one["localizers"]
    assert set(localizer["maps"]) == {SCORE, RESIDUAL, *BASELINES}
    assert localizer["cost"]["evaluations_per_slice"] == 1.0
    assert localizer["cost"]["gflop_per_slice"] == 0.25
    assert localizer["maps"][SCORE]["figures"]["dice_fixed_pooled"]["value"] is None


def test_a_patient_may_not_fix_a_threshold_and_be_measured_with_it(cases: list[Case]) -> None:
    with pytest.raises(SharedPatients, match="8 patients both"):
        Cohort(cases, Fixed.on(cases))
