"""The methods page: patients apart, one list of slices, and a table that hides nothing."""

from __future__ import annotations

import numpy as np

from inference.data import is_development
from inference.methods import THRESHOLD, TRAINING, VALIDATION, Row, best_threshold, levels_of, within
from inference.methods_page import page
from inference.recipes import RECIPES


def row(recipe: str, ap: float, fall: float = 0.0, steps: int = 2000) -> Row:
    return Row(recipe, ap, 0.5, 1.0, 25.0, 6.0, 90.0, 40.0, steps, fall, 80, 8, 0.02)


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
    score = np.array([[0.1, 0.4, 0.6, 0.9, -1e6]], dtype=np.float32)
    truth = np.array([[False, False, True, True, False]])

    threshold = best_threshold([(score, truth)])

    assert 0.4 < threshold <= 0.6


def test_the_page_says_what_did_not_converge_and_what_is_missing() -> None:
    rows = {
        "anoddpm": (row("anoddpm", 0.3, fall=0.4), 40.0),
        "thor": (row("thor", 0.3, steps=30), 40.0),
        "dae": (row("dae", 0.4), 40.0),
    }

    text = page(rows)

    assert "not converged: fell by 40%" in next(line for line in text.splitlines() if line.startswith("| `anoddpm` | unsup"))
    assert "not converged: too few" in next(line for line in text.splitlines() if line.startswith("| `thor` | unsup"))
    assert "level" in next(line for line in text.splitlines() if line.startswith("| `dae` | self"))
    missing = next(line for line in text.splitlines() if line.startswith("Not measured yet: "))
    assert "cold_restore" in missing
    assert "thor" not in missing
    assert all(f"`{name}`" in text for name in RECIPES)
