"""The methods page: patients apart, one list of slices, figures with intervals, and a table that hides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from inference.data import is_development
from inference.evaluation.resampling import Estimate
from inference.methods.measured import OUTSIDE, best_threshold, intervals
from inference.methods.memory import PeakMemory
from inference.methods.page import page
from inference.methods.patients import THRESHOLD, TRAINING, VALIDATION, levels_of, within
from inference.methods.row import Figures, Learned, Row, read_row, write_row
from inference.recipes import RECIPES


def row(recipe: str, ap: float, fall: float = 0.0, steps: int = 2000, shipped: str = "") -> Row:
    figures = Figures("f", Estimate(ap, ap - 0.1, ap + 0.1), Estimate(0.05), 0.5, 1.0, 25.0, 6.0, 90.0, 7.0, 80, 8, 0.02)
    return Row(recipe, shipped, Learned("l", 40.0, 50.0, steps, fall), figures)


def test_no_patient_is_in_two_shares_and_none_is_kept_back_for_others() -> None:
    patients = [f"patient {n}" for n in range(3000)]

    shares = [[p for p in patients if within(share, p)] for share in (TRAINING, THRESHOLD, VALIDATION)]

    assert all(shares)
    assert len(set().union(*shares)) == sum(map(len, shares))
    assert all(is_development(patient) for share in shares for patient in share)


def test_the_list_takes_eight_slices_of_the_middle_of_a_head() -> None:
    levels = levels_of(36)

    assert len(levels) == 8
    assert levels[0] >= 8
    assert levels[-1] <= 30
    assert levels == tuple(sorted(set(levels)))


def test_the_threshold_is_the_one_of_best_dice() -> None:
    score = np.array([[0.1, 0.4, 0.6, 0.9, OUTSIDE]], dtype=np.float32)
    truth = np.array([[False, False, True, True, False]])

    threshold = best_threshold([(score, truth)])

    assert 0.4 < threshold <= 0.6


@pytest.mark.slow
def test_the_interval_holds_the_exact_figure_and_voxels_outside_the_brain_score_lowest() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.random(4000) < 0.1 for _ in range(8)]
    scores = [(rng.normal(0, 1, 4000) + 1.5 * truth).astype(np.float32) for truth in truths]
    for score in scores:
        score[:500] = OUTSIDE
    noise = [rng.normal(0, 1, 4000).astype(np.float32) for _ in truths]

    ap, gain = intervals(scores, noise, truths)

    everything = [np.concatenate(parts) for parts in (truths, scores, noise)]
    expected = [average_precision_score(everything[0], values) for values in everything[1:]]
    assert ap.value == pytest.approx(expected[0], abs=1e-6)
    assert gain.value == pytest.approx(expected[0] - expected[1], abs=1e-6)
    assert ap.low < ap.value < ap.high
    assert 0 < gain.low < gain.value < gain.high


def test_two_equal_methods_differ_by_nothing() -> None:
    rng = np.random.default_rng(0)
    truths = [rng.random(1000) < 0.1 for _ in range(5)]
    scores = [rng.normal(0, 1, 1000).astype(np.float32) for _ in truths]

    assert intervals(scores, scores, truths)[1] == Estimate(0.0, 0.0, 0.0)


@pytest.mark.slow
def test_memory_that_was_taken_and_given_back_is_seen() -> None:
    with PeakMemory() as nothing:
        pass
    with PeakMemory() as much:
        np.ones(64 * 2**17).sum()  # 64 MB

    assert nothing.mb < 4
    assert 60 < much.mb < 80


def test_a_row_is_read_as_it_was_written_and_one_of_an_older_form_is_none(tmp_path: Path) -> None:
    path = tmp_path / "dae.json"
    unknown = row("dae", 0.4)
    unknown = replace(unknown, figures=replace(unknown.figures, memory_mb=float("nan")))

    write_row(row("dae", 0.4), path)
    same = read_row(path)
    write_row(unknown, path)
    with_nan = read_row(path)
    path.write_text('{"recipe": "dae", "ap_pooled": 0.4}')

    assert same is not None
    assert same.figures.ap_pooled == row("dae", 0.4).figures.ap_pooled
    assert same.learned == row("dae", 0.4).learned
    assert with_nan is not None
    assert np.isnan(with_nan.figures.memory_mb)
    assert read_row(path) is None
    assert read_row(tmp_path / "nothing.json") is None


def test_the_page_says_what_did_not_converge_and_what_is_missing() -> None:
    text = page([row("anoddpm", 0.3, fall=0.4), row("thor", 0.3, steps=30), row("dae", 0.4)])

    assert "not converged: fell by 40%" in next(line for line in text.splitlines() if line.startswith("| `anoddpm` | unsup"))
    assert "not converged: too few" in next(line for line in text.splitlines() if line.startswith("| `thor` | unsup"))
    assert "level" in next(line for line in text.splitlines() if line.startswith("| `dae` | self"))
    missing = next(line for line in text.splitlines() if line.startswith("Not measured yet: "))
    assert "cold_restore" in missing
    assert "thor" not in missing
    assert all(f"`{name}`" in text for name in RECIPES)


def test_the_page_goes_by_scheme_and_marks_what_was_shipped() -> None:
    rows = [row("mask_ensemble", 0.9), row("cold_outline", 0.8, shipped="brain-flair 1"), row("thor", 0.1), row("mhd", 0.2)]

    text = page([*rows, row("cold_outline", 0.7), row("intensity", 0.6)])

    table = text.split("## What")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    shipped = "`cold_outline`, **shipped** (brain-flair 1)"
    assert names == ["`intensity`", "`mhd`", "`thor`", "`cold_outline`", shipped, "`mask_ensemble`"]
    assert "0.800 (0.700 to 0.900)" in text
