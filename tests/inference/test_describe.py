"""What a reader is told of a recipe is drawn from the recipe itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from inference.describe import PARTS, page, part_lines, picture, price, stage_lines
from inference.recipes import RECIPES

SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> list[str]:
    """The texts of a picture, which must be well-formed."""
    return [str(one.text) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # our own


@pytest.mark.parametrize("name", RECIPES)
def test_the_picture_names_the_five_parts_of_the_recipe_and_its_trainings(name: str) -> None:
    recipe = RECIPES[name]

    words = words_of(picture(recipe))

    assert [word for word in words if word in PARTS] == list(PARTS)
    assert {type(getattr(recipe, part)).__name__ for part in PARTS} <= set(words)
    assert sum(word.startswith("training ") for word in words) == len(recipe.training.stages)


def test_another_number_makes_another_picture() -> None:
    recipe = RECIPES["thor"]

    other = replace(recipe, scorer=replace(recipe.scorer, intensity_weight=0.125))

    assert picture(other) != picture(recipe)
    assert "  intensity weight: 0.125" in part_lines(other.scorer)


def test_a_training_says_what_its_network_is_made_of_and_how_long_it_lasts_and_parts_in_turn_are_all_named() -> None:
    bank, restorer = RECIPES["fdp_dae"].training.stages

    first, second = (" ".join(stage_lines(RECIPES["fdp_dae"], stage, 80)) for stage in (bank, restorer))

    assert "entries 128" in first
    assert "25% of the time" in first
    assert "channels 24, 40, 64" in second
    assert "Recalled" in second
    assert "CoarseNoise" in second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "evaluations"), [("cold_restore", 1), ("cold_mean", 4), ("classifier_free", 30), ("patchddm", 18), ("intensity", 0)]
)
def test_the_price_counts_what_the_networks_are_asked(name: str, evaluations: int) -> None:
    found = price(RECIPES[name])

    assert found.evaluations == evaluations
    assert (found.gflop > 0) == (evaluations > 0) == (found.parameters > 0)


def test_four_levels_cost_four_times_one() -> None:
    assert price(RECIPES["cold_mean"]).gflop == pytest.approx(4 * price(RECIPES["cold_restore"]).gflop)


def test_a_page_fetches_nothing_and_says_how_to_train() -> None:
    text = page(RECIPES["andi"])

    assert "fovea train andi" in text
    assert "src=" not in text
    assert "href=" not in text


def test_the_command_lists_one_recipe_in_full_writes_its_page_and_knows_what_there_is(tmp_path: Path) -> None:
    run = CliRunner().invoke

    told = run(app, ["recipes", "dae"])
    as_json = run(app, ["recipes", "dae", "--json"])
    drawn = run(app, ["recipes", "dae", "--page", str(tmp_path / "dae.html")])
    unknown = run(app, ["recipes", "cold_fusion"])

    assert all(part in told.output for part in PARTS)
    assert json.loads(as_json.output)["dae"]["evaluations"] == 1
    assert drawn.exit_code == 0
    assert "<svg" in (tmp_path / "dae.html").read_text()
    assert unknown.exit_code != 0
    assert "cold_restore" in str(unknown.exception) + unknown.output
