"""Thresholds are where the rule says, false findings are counted as the rule says, and figures add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from inference.calibrate import healthy_heads, ordinary_studies, provisional, reference_table, spotted_heads
from inference.data import chosen, is_development
from inference.domain import FIGURES, LEAST_STUDIES
from inference.evaluation.maps import intensity_maps
from inference.model_card import model_card_text
from inference.operating import MOST_FALSE, RawHead, candidates, false_per_head, operating_point, rule_words
from inference.phantom.tissues import Atlas, Tissue, atlas_from_tissue
from inference.postprocess import Components
from inference.types import Contrast
from tests.inference.heads import card

pytestmark = pytest.mark.feature("R6")

SPACING = (5.0, 1.0, 1.0)


def noise_head(seed: int, blobs: tuple[tuple[int, float], ...] = (), lesion: bool = False, side: int = 8) -> RawHead:
    """Gaussian raw scores with blobs, 8 x 8 x 2 voxels the first and `side` square the others, at the given columns.

    The first is a lesion where asked.
    """
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 0.3, (6, 64, 64)).astype(np.float32)
    for number, (column, value) in enumerate(blobs):
        size = 8 if number == 0 else side
        raw[2:4, 20 : 20 + size, column : column + size] = value
    marked = np.zeros(raw.shape, dtype=np.bool_)
    if lesion:
        marked[2:4, 20:28, blobs[0][0] : blobs[0][0] + 8] = True
    return RawHead(raw, np.ones(raw.shape, dtype=np.bool_), SPACING, marked, marked)


def ball() -> Atlas:
    index = np.stack(np.meshgrid(*(np.arange(120),) * 3, indexing="ij"))
    radius = np.linalg.norm(index - 60.0, axis=0)
    tissue = np.full(radius.shape, Tissue.AIR, dtype=np.uint8)
    tissue[radius < 52] = Tissue.SKIN
    tissue[radius < 46] = Tissue.CORTEX
    tissue[radius < 42] = Tissue.WHITE
    return atlas_from_tissue("ball", tissue)


def test_scores_of_the_reference_are_its_own_exceedances() -> None:
    heads = [noise_head(seed) for seed in range(3)]

    table = reference_table(Components(), heads, np.zeros(0, np.float32), "noise")

    middle = int(np.argmin(np.abs(np.array(table.exceedance) - 0.5)))
    assert table.voxels == 3 * 6 * 64 * 64
    assert table.raw["brighter"][middle] == pytest.approx(0.0, abs=0.02)
    assert all(low <= high for low, high in pairwise(table.raw["darker"]))


def test_the_threshold_is_that_of_the_best_dice_and_evidence_keeps_small_false_findings_out() -> None:
    table, _ = provisional()  # the score is the raw value
    healthy = [noise_head(seed) for seed in range(4)]
    patients = [noise_head(seed, ((30, 4.0), (2, 4.5), (12, 4.5), (50, 4.5)), lesion=True, side=3) for seed in range(10, 13)]

    point = operating_point(table, healthy, patients, "a rule")

    threshold, evidence = point.threshold["brighter"], point.least_evidence["brighter"]
    assert 1.5 < threshold <= 4.0
    assert false_per_head(table, patients, Contrast.BRIGHTER, threshold) == 3
    assert false_per_head(table, patients, Contrast.BRIGHTER, threshold, evidence) <= MOST_FALSE[Contrast.BRIGHTER]
    for patient in patients:
        kept = [one for one in candidates(patient, table, Contrast.BRIGHTER, threshold) if one.evidence >= evidence]
        assert [one.marked for one in kept] == [8 * 8 * 2]


def test_without_patients_the_lesion_free_heads_decide_alone_and_the_card_says_so() -> None:
    table, _ = provisional()
    healthy = [noise_head(seed, ((5, 3.5), (20, 3.5), (35, 3.5), (50, 3.5))) for seed in range(4)]

    point = operating_point(table, healthy, [], rule_words("nobody", []))

    threshold, evidence = point.threshold["brighter"], point.least_evidence["brighter"]
    assert false_per_head(table, healthy, Contrast.BRIGHTER, threshold) == 4
    assert false_per_head(table, healthy, Contrast.BRIGHTER, threshold, evidence) <= MOST_FALSE[Contrast.BRIGHTER]
    assert "no patient had a say" in point.rule


def test_a_finding_on_a_lesion_is_not_false_and_one_far_away_is() -> None:
    table = reference_table(Components(), [noise_head(0)], np.zeros(0, np.float32), "noise")
    alone = noise_head(1, ((30, 4.0),), lesion=True)
    accompanied = noise_head(1, ((30, 4.0), (5, 4.0)), lesion=True)
    top = float(np.log10(table.voxels)) - 0.01

    assert false_per_head(table, [alone], Contrast.BRIGHTER, top) == 0
    assert false_per_head(table, [accompanied], Contrast.BRIGHTER, top) == 1
    assert false_per_head(table, [], Contrast.BRIGHTER, top) == 0


@pytest.mark.slow
def test_healthy_heads_have_no_lesion_and_spotted_ones_have_the_size_asked_for() -> None:
    atlas = ball()

    healthy = next(healthy_heads([atlas], 1, seed=1))
    spotted = next(spotted_heads([atlas], 6.0, 0.8, 4, seed=1))

    assert not healthy.lesion.any()
    volume = spotted.lesion.sum() * np.prod(spotted.spacing_mm)
    assert 2 * 500 < volume < 4 * 1600  # up to four balls of 905 mm3, bent by a tenth
    inside = spotted.image[spotted.lesion].mean() / np.median(spotted.image[spotted.brain])
    assert inside > 1.4


def test_baselines_are_brightest_where_the_image_is_and_lowest_outside_the_brain() -> None:
    image = np.array([[[100.0, 200.0, 300.0, 900.0]]], dtype=np.float32)
    brain = np.array([[[True, True, True, False]]])

    maps = intensity_maps(image, brain, (5.0, 5.0, 5.0))

    for values in maps.values():
        assert np.argmax(values[0, 0]) == 2
        assert values[0, 0, 3] == -4.0


def test_a_split_takes_each_patient_once() -> None:
    class Named:
        def __init__(self, patient: str) -> None:
            self.patient = patient

    everyone = [Named(f"p{n}") for n in range(50)]

    development = [study.patient for study in chosen(everyone, "development")]  # type: ignore[arg-type]  # only the name counts
    held_out = [study.patient for study in chosen(everyone, "held-out")]  # type: ignore[arg-type]  # only the name counts

    assert sorted(development + held_out) == sorted(study.patient for study in everyone)
    assert all(map(is_development, development))


def test_the_page_for_people_tells_what_the_card_holds() -> None:
    shown = card(measured={"Dice": 0.7123, "patients": 43}, blind_spots=("spots below 3 mm",))

    text = model_card_text(shown)

    assert "| Dice | 0.712 |" in text
    assert "- spots below 3 mm" in text
    for name in shown.recipes:
        assert f"`{name}`" in text


def test_only_real_studies_may_refuse_another_and_too_few_say_nothing() -> None:
    rng = np.random.default_rng(0)
    figures = [rng.normal(0, 1, len(FIGURES)) for _ in range(LEAST_STUDIES)]

    made, real = ordinary_studies(figures[:1], figures), ordinary_studies(figures, figures)

    assert ordinary_studies(figures[:5], figures[:5]) is None
    assert made is not None
    assert made.refuse_above is None
    assert "1 real studies and 20 lesion-free" in made.reference
    assert real is not None
    assert real.refuse_above is not None
    assert len(real.distances) == 2 * LEAST_STUDIES
