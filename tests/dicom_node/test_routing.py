"""Which series becomes a job: the rule's conditions, the model's declared range, and every reason why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.header import InstanceHeader
from dicom_node.outcome import Reason
from dicom_node.routing import Plan, SeriesFacts, StudyFacts, decide, plan_of
from dicom_node.settings import Rule
from dicom_node.stack import stack_of
from dicom_node.validity import outside
from inference.card import Validity

VALIDITY = Validity(
    modality="MR", body_part="BRAIN", contrast="FLAIR", echo_time_ms=(60, 500), inversion_time_ms=(1500, 3200),
    slices=(8, 400), pixel_spacing_mm=(0.3, 2.0), slice_spacing_mm=(0.5, 8.0), field_of_view_mm=(150, 320),
    maximum_tilt_deg=35, age_years=(18, 100),
)  # fmt: skip
FLAIR = InstanceHeader(
    modality="MR", body_part_examined="BRAIN", series_description="AX FLAIR", image_type=("ORIGINAL", "PRIMARY"),
    scanning_sequence=("SE", "IR"), echo_time_ms=120, repetition_time_ms=9000, inversion_time_ms=2500, rows=256, columns=256,
    pixel_spacing_mm=(0.9, 0.9), slice_thickness_mm=5, image_orientation=(1, 0, 0, 0, 1, 0), has_pixel_data=True,
)  # fmt: skip
RULE = Rule(name="flair", model="brain-flair", destinations=("pacs",))


def series(
    header: InstanceHeader, *, uid: str = "1.2.3", number: int = 3, slices: int = 24, spacing_mm: float = 5.0
) -> SeriesFacts:
    """A stack of `slices` images along its own normal."""
    orientation = header.image_orientation or (1, 0, 0, 0, 1, 0)
    rx, ry, rz, cx, cy, cz = orientation
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    headers = tuple(
        replace(header, instance_number=k + 1, image_position_lps=tuple(k * spacing_mm * n for n in normal))
        for k in range(slices)
    )
    return SeriesFacts(uid, number, header.series_description, header.modality, headers)


def decide_one(*members: SeriesFacts, rule: Rule = RULE, received_from: str = "PACS"):  # type: ignore[no-untyped-def]
    return decide(StudyFacts(received_from, members), [rule], {"brain-flair": VALIDITY})[0]


def test_a_flair_series_is_analysed() -> None:
    decision = decide_one(series(FLAIR))

    assert decision.analysed is not None
    assert decision.refusal is None
    assert plan_of(decision).analysed == ("1.2.3",)


def test_of_two_suitable_series_the_one_with_smaller_voxels_is_analysed_and_the_other_is_named() -> None:
    thick = series(FLAIR, uid="1.2.1", number=2)
    thin = series(FLAIR, uid="1.2.2", number=9, slices=150, spacing_mm=1.0)

    decision = decide_one(thick, thin)
    plan = plan_of(decision)

    assert plan.analysed == ("1.2.2",)
    assert [(one.series_instance_uid, one.reason.code) for one in plan.passed_over] == [("1.2.1", "another-series")]


def test_a_series_outside_the_models_range_beside_a_suitable_one_is_passed_over() -> None:
    t1 = series(replace(FLAIR, echo_time_ms=3.0, inversion_time_ms=450, series_description="SAG T1"), uid="1.2.9")

    plan = plan_of(decide_one(series(FLAIR), t1))

    assert plan.refusal is None
    assert plan.passed_over[0].reason.code == "contrast"


def test_a_selected_series_outside_the_models_range_alone_is_a_refusal_that_is_delivered() -> None:
    decision = decide_one(series(replace(FLAIR, echo_time_ms=3.0, inversion_time_ms=450)))

    assert decision.makes_a_job
    assert decision.refusal is not None
    assert decision.refusal.code == "contrast"
    assert "3 ms" in decision.refusal.text


def test_where_no_rule_selects_a_series_nothing_is_made() -> None:
    decision = decide_one(series(replace(FLAIR, modality="CT")))

    assert not decision.makes_a_job
    assert decision.verdicts[0].reason is not None
    assert decision.verdicts[0].reason.code == "rule-modality"


@pytest.mark.parametrize(
    ("change", "rule", "code"),
    [
        ({"modality": "CT"}, {}, "rule-modality"),
        ({"body_part_examined": "KNEE"}, {"body_part": ("BRAIN",)}, "rule-body-part"),
        ({"image_type": ("DERIVED", "PRIMARY")}, {}, "rule-image-type"),
        ({"scanning_sequence": ("GR",)}, {"scanning_sequence": ("IR",)}, "rule-scanning-sequence"),
        ({"contrast_bolus_agent": "Gd"}, {"contrast_agent": False}, "rule-contrast-agent"),
        ({"image_orientation": (0, 1, 0, 0, 0, -1)}, {"orientation": ("axial",)}, "rule-orientation"),
        ({"echo_time_ms": 20.0}, {"echo_time_ms": (80, 200)}, "rule-echo-time"),
        ({"echo_time_ms": None}, {"echo_time_ms": (80, 200)}, "rule-echo-time"),
        ({"repetition_time_ms": 500.0}, {"repetition_time_ms": (4000, 15000)}, "rule-repetition-time"),
        ({"inversion_time_ms": 450.0}, {"inversion_time_ms": (1500, 3200)}, "rule-inversion-time"),
        ({}, {"slices": (30, 60)}, "rule-slices"),
        ({}, {"slice_spacing_mm": (0.5, 2.0)}, "rule-slice-spacing"),
        ({"pixel_spacing_mm": (3.0, 3.0)}, {"pixel_spacing_mm": (0.3, 1.2)}, "rule-pixel-spacing"),
        ({}, {"description_matches": "space"}, "rule-description"),
        ({}, {"description_excludes": "flair"}, "rule-description"),
        ({"has_pixel_data": False}, {}, "not-an-image"),
    ],
)
def test_each_condition_of_a_rule_has_its_reason(change: dict[str, object], rule: dict[str, object], code: str) -> None:
    conditions = RULE.model_copy(update=rule)

    decision = decide_one(series(replace(FLAIR, **change)), rule=conditions)  # type: ignore[arg-type]

    assert not decision.makes_a_job
    assert decision.verdicts[0].reason is not None
    assert decision.verdicts[0].reason.code == code


@pytest.mark.parametrize(
    ("change", "stack", "code"),
    [
        ({"modality": "CT"}, {}, "modality"),
        ({"body_part_examined": "KNEE"}, {}, "body-part"),
        ({"echo_time_ms": 10.0}, {}, "contrast"),
        ({"inversion_time_ms": 900.0}, {}, "contrast"),
        ({"echo_time_ms": None, "inversion_time_ms": None, "series_description": "AX T2 TSE"}, {}, "contrast"),
        ({"echo_time_ms": None, "inversion_time_ms": None, "series_description": "AX T1 FLAIR"}, {}, "contrast"),
        ({"patient_age": "004Y"}, {}, "age"),
        ({"patient_age": "018M"}, {}, "age"),
        ({}, {"slices": 4}, "slices"),
        ({"image_orientation": (0, 1, 0, 0, 0, -1)}, {}, "pixel-spacing"),
        ({"image_orientation": (1, 0, 0, 0, 0.73, -0.683)}, {"spacing_mm": 1.0, "slices": 180}, "orientation"),
        ({"pixel_spacing_mm": (2.5, 2.5)}, {}, "pixel-spacing"),
        ({}, {"spacing_mm": 12.0}, "slice-spacing"),
        ({"rows": 64, "columns": 64}, {}, "field-of-view"),
    ],
)
def test_each_limit_of_a_card_has_its_reason(change: dict[str, object], stack: dict[str, float], code: str) -> None:
    facts = series(replace(FLAIR, **change), **stack)  # type: ignore[arg-type]

    reason = outside(VALIDITY, facts.headers, stack_of(facts.headers))

    assert reason is not None
    assert reason.code == code


@pytest.mark.parametrize("words", ["AX FLAIR", "t2_tirm_tra_dark-fluid", "T2 FLAIR", "ep2d_x", ""])
def test_without_echo_and_inversion_time_the_words_or_the_pixels_decide(words: str) -> None:
    facts = series(replace(FLAIR, echo_time_ms=None, inversion_time_ms=None, series_description=words))

    assert outside(VALIDITY, facts.headers, stack_of(facts.headers)) is None


def test_a_sagittal_series_with_small_cubic_voxels_is_as_good_as_an_axial_one() -> None:
    sagittal = replace(FLAIR, image_orientation=(0, 1, 0, 0, 0, -1), pixel_spacing_mm=(1.0, 1.0))
    facts = series(sagittal, slices=176, spacing_mm=1.0)

    assert outside(VALIDITY, facts.headers, stack_of(facts.headers)) is None


def test_a_second_rule_for_the_same_model_does_not_report_twice() -> None:
    rules = [RULE, RULE.model_copy(update={"name": "again"})]

    first, second = decide(StudyFacts("PACS", (series(FLAIR),)), rules, {"brain-flair": VALIDITY})

    assert first.makes_a_job
    assert second.not_applied == Reason("model-taken", "rule flair already runs brain-flair on this study")


def test_a_rule_for_other_senders_does_not_apply() -> None:
    decision = decide_one(series(FLAIR), rule=RULE.model_copy(update={"from_peers": ("CT1",)}))

    assert decision.not_applied is not None
    assert decision.not_applied.code == "peer"


def test_a_plan_reads_back_as_it_was_stored() -> None:
    plan = plan_of(decide_one(series(FLAIR), series(replace(FLAIR, modality="CT"), uid="1.2.7")))

    assert Plan.from_json(plan.as_json()) == plan


def test_a_scout_in_the_series_does_not_hide_its_stack() -> None:
    facts = series(FLAIR)
    scout = replace(FLAIR, image_orientation=(0, 1, 0, 0, 0, -1), rows=512, columns=512)

    stack = stack_of((scout, scout, *facts.headers))

    assert (stack.slices, stack.plane) == (24, "axial")
    assert stack.slice_spacing_mm == pytest.approx(5.0)
