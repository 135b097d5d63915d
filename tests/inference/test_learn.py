"""One way to train: every recipe ends in a bundle that localizes, a killed training ends in the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.bundle import load_bundle
from inference.data import Arrays, Study, Terms, axial_volume
from inference.domain import LEAST_STUDIES
from inference.fit import Progress
from inference.healthy import Suspect
from inference.learn import Budget, Run, train, train_networks
from inference.localizer import Context, load_localizer
from inference.material import Gathered, Origins, draw, write_audit
from inference.phantom import synthetic_head
from inference.phantom.banks import Bank
from inference.recipes import RECIPES
from inference.recipes.recipe import GridPlan, Material, Recipe

GRID = GridPlan(32, 32, 6.0)
SHIPPED = Path(__file__).parents[2] / "inference" / "models" / "brain-flair"
TRAINABLE = {name: one for name, one in RECIPES.items() if one.training.stages}


def bank(count: int = 12, sick: bool = True) -> Bank:
    rng = np.random.default_rng(0)
    brain = np.zeros((count, GRID.rows, GRID.columns), dtype=np.uint8)
    brain[:, 4:-4, 4:-4] = 255
    lesion = np.zeros_like(brain)
    if sick:
        lesion[::2, 10:16, 10:16] = 255
    image = np.where(brain > 0, rng.normal(0, 0.3, brain.shape) + 3.0 * (lesion > 0), -4.0)
    return Bank(image.astype(np.float16), brain, brain, lesion, (count - 5, 5))


def material(recipe: Recipe) -> Gathered:
    banks = {stage.material: bank(sick=stage.material is not Material.HEALTHY) for stage in recipe.training.stages}
    return Gathered(banks, None, (), (), (), True)


def small(recipe: Recipe) -> Recipe:
    """The recipe with its own kinds of networks and objectives, on small slices and in small batches."""
    stages = tuple(replace(stage, batch=4) for stage in recipe.training.stages)
    return replace(recipe, training=replace(recipe.training, stages=stages, grid=GRID))


@pytest.mark.slow
@pytest.mark.feature("L2")
@pytest.mark.parametrize("recipe", TRAINABLE.values(), ids=TRAINABLE.keys())
def test_every_recipe_trains_all_its_networks_and_leaves_them_at_rest(recipe: Recipe, tmp_path: Path) -> None:
    chosen = small(recipe)
    before = train_networks(chosen, material(chosen), Run(Budget(steps=1), tmp_path / "one", device="cpu"))[0]

    networks, facts = train_networks(chosen, material(chosen), Run(Budget(steps=20), tmp_path / "twenty", device="cpu"))

    assert set(networks) == set(chosen.networks)
    for name, network in networks.items():
        assert not network.training
        weights = zip(network.parameters(), before[name].parameters(), strict=True)
        assert any(not torch.equal(one, other) for one, other in weights)
        assert all(torch.isfinite(one).all() for one in network.parameters())
    assert facts["stage_1_steps"] >= 1


def thin(recipe: Recipe) -> Recipe:
    """The recipe with networks of few channels, which cost little."""
    networks = tuple(replace(one, arguments={**one.arguments, "channels": [8, 8, 8]}) for one in recipe.training.networks)
    return replace(recipe, training=replace(recipe.training, networks=networks))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_a_killed_training_of_two_stages_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    recipe = small(RECIPES["classifier_guided"])
    whole, _ = train_networks(recipe, material(recipe), Run(Budget(steps=45), tmp_path / "whole", device="cpu"))

    def kill(progress: Progress) -> None:
        if progress.steps < 20 and progress.step == 10:  # in the midst of the second stage
            raise Killed

    run = Run(Budget(steps=45), tmp_path / "broken", device="cpu", checkpoint_every_s=0.0)
    with pytest.raises(Killed):
        train_networks(recipe, material(recipe), replace(run, told=kill))
    resumed, _ = train_networks(recipe, material(recipe), run)

    for name in whole:
        for key, value in whole[name].state_dict().items():
            assert torch.equal(value, resumed[name].state_dict()[key]), f"{name}.{key}"


@pytest.mark.slow
def test_samples_are_drawn_in_the_midst_of_a_training_and_change_nothing_of_it(tmp_path: Path) -> None:
    recipe = small(RECIPES["coarse_ensemble"])
    seen: list[bool] = []
    run = Run(Budget(steps=20), tmp_path / "seen", device="cpu", samples_every_s=0.0)
    run = replace(run, told=lambda progress: seen.append((run.work / "samples.png").exists()))

    watched, _ = train_networks(recipe, material(recipe), run)
    alone, _ = train_networks(recipe, material(recipe), Run(Budget(steps=20), tmp_path / "alone", device="cpu"))

    assert seen == [True, True]
    for key, value in alone["restorer"].state_dict().items():
        assert torch.equal(value, watched["restorer"].state_dict()[key])


@pytest.mark.slow
def test_minutes_become_steps_once_and_are_remembered(tmp_path: Path) -> None:
    recipe = small(RECIPES["dae"])
    ticks = iter(range(1000))
    budget = Budget(minutes=0.1, clock=lambda: float(next(ticks)))  # one tick for four timed steps: a quarter of a second each

    _, facts = train_networks(recipe, material(recipe), Run(budget, tmp_path, device="cpu"))
    stopped = replace(budget, clock=lambda: pytest.fail("timed again"))
    _, again = train_networks(recipe, material(recipe), Run(stopped, tmp_path, device="cpu"))

    assert facts["stage_1_steps"] == again["stage_1_steps"] == 24


def test_recipes_that_share_a_training_share_its_checkpoint(tmp_path: Path) -> None:
    for name in ("cold_restore", "cold_steps"):
        recipe = small(RECIPES[name])
        train_networks(recipe, material(recipe), Run(Budget(steps=2), tmp_path, device="cpu"))

    assert len(list(tmp_path.glob("stage-*.ckpt"))) == 1


def test_a_budget_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="either"):
        Budget()
    with pytest.raises(ValueError, match="either"):
        Budget(steps=1, minutes=1.0)


def test_the_same_generator_draws_the_same_slices_and_marks_stay_on_their_lesions() -> None:
    one, two = (draw(bank(), 6, torch.Generator().manual_seed(9)) for _ in range(2))

    assert torch.equal(one.image, two.image)
    assert torch.equal(one.lesion, two.lesion)
    assert float(one.image[one.lesion > 0].mean()) > 2.0
    assert set(one.sick.tolist()) <= {0, 1}


def test_the_audit_lists_the_worst_first(tmp_path: Path) -> None:
    suspects = [Suspect("own", "a", 3, 0.05, True), Suspect("own", "b", 7, 0.4, False)]

    write_audit(suspects, tmp_path / "audit.json")

    listed = json.loads((tmp_path / "audit.json").read_text())
    assert [(one["patient"], one["slice"], one["used"]) for one in listed] == [("b", 7, False), ("a", 3, True)]


class Sick:
    """Heads with a bright ball and a mask of it, under terms that forbid handing weights on."""

    name = "borrowed heads"
    terms = Terms("for evaluation only", distributable=False)

    def studies(self) -> Iterator[Study]:
        for number in range(3):
            head = synthetic_head(seed=60 + number, shape=(20, 104, 88), spacing_mm=(7.0, 2.2, 2.2), lesions=2)
            yield Study(f"patient {number}", axial_volume(head.image, head.spacing_mm), head.lesion)


def healthy() -> Arrays:
    heads = [synthetic_head(seed=50 + n, shape=(20, 104, 88), spacing_mm=(7.0, 2.2, 2.2), lesions=0) for n in range(2)]
    return Arrays("own heads", (7.0, 2.2, 2.2), [(f"patient {n}", head.image, None) for n, head in enumerate(heads)])


@pytest.mark.feature("L4")
@pytest.mark.slow
def test_a_label_free_recipe_trained_from_studies_is_a_bundle_that_localizes(tmp_path: Path) -> None:
    told: list[Progress] = []
    origins = Origins((healthy(),), per_head=4, made=(1001,))
    run = Run(Budget(steps=10), tmp_path / "work", device="cpu", told=told.append, reference_heads=1)

    card = train(thin(RECIPES["dae"]), origins, run, SHIPPED, tmp_path / "bundle")

    assert [one.name for one in card.sources][:2] == ["own heads", "heads made by code (inference.phantom)"]
    assert card.distributable
    assert card.calibration["dae"].voxels > 10_000
    assert len(card.domain["dae"].distances) == LEAST_STUDIES
    assert card.domain["dae"].refuse_above is None  # heads made by code may not refuse what a scanner made
    assert {"samples.png", "audit.json"} <= {path.name for path in (tmp_path / "work").iterdir()}
    assert told[-1].step == 10
    head = synthetic_head(seed=9, shape=(20, 104, 88), spacing_mm=(7.0, 2.2, 2.2), lesions=1)
    found = load_localizer(tmp_path / "bundle", device="cpu").localize(axial_volume(head.image, head.spacing_mm), Context())
    assert found.provenance.recipe == "dae"
    assert found.pseudo_healthy is not None
    assert found.domain is not None
    assert found.domain.limit == card.domain["dae"].remark_above


@pytest.mark.feature("L4")
@pytest.mark.slow
def test_terms_and_marks_reach_the_card_of_a_supervised_recipe(tmp_path: Path) -> None:
    run = Run(Budget(steps=3), tmp_path / "work", device="cpu", reference_heads=1, ordinary_studies=0)

    card = train(thin(RECIPES["mask_ensemble"]), Origins((Sick(),)), run, SHIPPED, tmp_path / "bundle")

    assert not card.distributable
    assert card.sources[0].licence == "for evaluation only"
    assert "may not be distributed" in card.summary
    assert card.domain == {}
    bundle = load_bundle(tmp_path / "bundle", device="cpu")
    assert set(bundle.networks) == {"noise", "brain"}
    assert not bundle.card.distributable


@pytest.mark.slow
def test_a_recipe_that_needs_marks_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no study with a marked lesion"):
        train(
            RECIPES["mask_ensemble"], Origins((healthy(),)), Run(Budget(steps=1), tmp_path / "work"), SHIPPED, tmp_path / "bundle"
        )
    assert not (tmp_path / "bundle").exists()
