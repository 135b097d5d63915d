"""Recipes: five parts and their numbers; the digest tells any two of them apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.coders import Codebook
from inference.corruptors import Inversion
from inference.networks import build
from inference.recipes import RECIPES
from inference.recipes.recipe import Recipe, Scheme
from inference.restoration import Setting, restore
from inference.samplers import Chain, OneShot
from inference.schedules import LINEAR
from inference.scorers import Aggregate, Residual
from inference.slices import Network
from tests.inference.heads import Knows, card, restless, shown

POINT = card().operating_point["cold_restore"]
NO_NETWORK = ("intensity", "equalised")
SETTING = Setting(torch.device("cpu"), seed=3, multiple=8)


def nothing_wrong(image: Tensor, level: Tensor) -> Tensor:
    """A network that finds every image healthy."""
    return image


def slices() -> tuple[np.ndarray, np.ndarray]:
    """Eight slices and their brain; the first and the last show none."""
    images = np.random.default_rng(0).standard_normal((8, 21, 30)).astype(np.float32)
    brain = np.zeros(images.shape, dtype=bool)
    brain[1:-1, 4:-4, 4:-4] = True
    return np.where(brain, images, np.float32(-4.0)), brain


@pytest.mark.feature("L2")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_registered_by_its_name_and_names_its_paper(name: str) -> None:
    assert RECIPES[name].name == name
    assert RECIPES[name].paper
    assert bool(RECIPES[name].networks) == (name not in NO_NETWORK)


def test_every_supervision_scheme_has_a_recipe() -> None:
    assert {recipe.scheme for recipe in RECIPES.values()} == set(Scheme)


@pytest.mark.parametrize("name", ["cold_restore", "cold_mean", "cold_steps"])
def test_where_a_cold_recipe_finds_all_healthy_only_its_share_of_the_intensity_is_left(name: str) -> None:
    images, brain = slices()

    maps = restore(images, brain, RECIPES[name], {"restorer": nothing_wrong}, SETTING)

    share = RECIPES[name].scorer.intensity_weight
    assert np.allclose(maps.raw, np.where(brain.any(axis=(1, 2))[:, None, None], share * np.maximum(images, 0), 0), atol=1e-6)
    assert np.allclose(maps.healthy, images, atol=1e-6)


ONE_RESTORER = [one for one in RECIPES.values() if one.networks == ("restorer",)]


def networks_of(recipe: Recipe) -> dict[str, torch.nn.Module]:
    """The recipe's own networks, with random weights."""
    torch.manual_seed(5)
    return {one.name: restless(build(one.kind, one.arguments).eval(), 5) for one in recipe.training.networks}


@pytest.mark.slow
@pytest.mark.feature("L1")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_same_seed_gives_the_same_bits_and_every_map_is_finite(recipe: Recipe) -> None:
    images, brain = slices()
    setting, networks = replace(SETTING, multiple=16), networks_of(recipe)

    one, two = (restore(images[:4], brain[:4], recipe, networks, setting) for _ in range(2))

    assert np.isfinite(one.raw).all()
    assert np.array_equal(one.raw, two.raw)
    assert (one.healthy is None) == (two.healthy is None)
    if one.uncertainty is not None:
        assert two.uncertainty is not None
        assert np.isfinite(one.uncertainty).all()
        assert np.array_equal(one.uncertainty, two.uncertainty)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_slice_gets_the_same_map_in_any_batch(recipe: Recipe) -> None:
    networks = networks_of(recipe)

    assert moved_by_the_batch(recipe, {name: in_double(network) for name, network in networks.items()}) < 1e-4


def test_a_network_that_looks_beyond_its_slice_gives_another_map_in_another_batch() -> None:
    def looks_about(image: Tensor, level: Tensor) -> Tensor:
        return 0.99 * image + 0.01 * image.roll(1, 0)

    assert moved_by_the_batch(RECIPES["cold_restore"], {"restorer": looks_about}) > 1e-3


def moved_by_the_batch(recipe: Recipe, networks: dict[str, Network]) -> float:
    """By how much of its range a map differs at most between slices that are shown together and one by one.

    In double precision: convolutions round differently by batch and by processor, and in single precision one such rounding may
    turn a mark (MAD-AD), a bit or a threshold, from where a random network carries it all over the slice.
    """
    images, brain = slices()
    images = images.astype(np.float64)
    setting = replace(SETTING, multiple=16)

    together, apart = (
        restore(images[:4], brain[:4], recipe, networks, one).raw  # type: ignore[arg-type]
        for one in (setting, replace(setting, batch=1))
    )

    return float(np.abs(together - apart).max() / np.abs(together).max())


def in_double(network: torch.nn.Module) -> torch.nn.Module:
    """The network in double precision; MONAI's quantizer looks its entries up in single precision, whatever it is given."""
    return network if isinstance(network, Codebook) else network.double()


def test_double_precision_moves_no_map_by_more_than_a_thousandth_of_its_range() -> None:
    """The stated tolerance between precisions, for recipes without a chain."""
    image = torch.from_numpy(slices()[0][1:3, None, :16, :16])
    for name in ("cold_restore", "dae", "andi", "mhd", "diffusion_features"):
        recipe = RECIPES[name]
        single = networks_of(recipe)
        double = {key: network.double() for key, network in networks_of(recipe).items()}
        with torch.no_grad():
            maps = [
                recipe.scorer.score(given, recipe.sampler.stream(given, recipe.corruptor, recipe.denoiser)).raw
                for given in (shown(image, **single), shown(image.double(), **double))
            ]

        assert float((maps[0] - maps[1]).abs().max()) <= 1e-3 * float(maps[1].abs().max())


@pytest.mark.parametrize("recipe", ONE_RESTORER, ids=[one.name for one in ONE_RESTORER])
def test_the_network_sees_slices_with_brain_only_once_per_level(recipe: Recipe) -> None:
    images, brain = slices()
    seen: list[int] = []

    def network(image: Tensor, level: Tensor) -> Tensor:
        seen.append(len(image))
        assert image.shape[-2] % 8 == 0
        assert image.shape[-1] % 8 == 0
        return torch.cat([image, image], 1) if recipe.name == "cold_outline" else image

    maps = restore(images, brain, recipe, {"restorer": network}, SETTING)

    assert sum(seen) == 6 * len(recipe.sampler.levels)
    assert maps.raw.shape == images.shape
    assert not maps.raw[[0, -1]].any()


def test_the_baseline_scores_the_standardised_intensity_itself() -> None:
    images, brain = slices()

    maps = restore(images, brain, RECIPES["intensity"], {}, SETTING)

    assert np.array_equal(maps.raw[1:-1], images[1:-1])


def test_the_default_asks_once_at_severity_one_half() -> None:
    assert RECIPES["cold_restore"].sampler == OneShot(at=(0.5,))


def test_the_multi_step_recipe_ends_with_what_the_network_restores_step_by_step() -> None:
    images, brain = slices()
    told: list[float] = []

    def halves(image: Tensor, level: Tensor) -> Tensor:
        told.append(float(level[0]))
        return image / 2

    maps = restore(images, brain, RECIPES["cold_steps"], {"restorer": halves}, SETTING)

    # x_s = x/2 + (s/t) x/2: after t = 1, 0.75, 0.5 the factors are 7/8, 5/6, 3/4; the last answer is half
    expected = images * (7 / 8) * (5 / 6) * (3 / 4) / 2
    assert told == [1.0, 0.75, 0.5, 0.25]
    assert np.allclose(maps.healthy[1:-1], expected[1:-1], atol=1e-6)


def test_the_ensemble_averages_its_own_noise_away_and_reports_its_spread() -> None:
    images, brain = slices()

    maps = restore(images, brain, RECIPES["coarse_ensemble"], {"restorer": nothing_wrong}, SETTING)

    # the network returns what it was shown: mean and spread of the draws are those of the noise, 1.6 at most between cells
    assert maps.uncertainty is not None
    assert 0.4 < float(maps.uncertainty[brain].mean()) < 1.6
    assert float(np.abs(maps.raw[brain]).mean()) < 0.6 * float(maps.uncertainty[brain].mean())


def test_the_digest_is_over_parts_numbers_and_operating_point() -> None:
    recipe = RECIPES["cold_restore"]
    variants = [
        *(other.digest(POINT) for other in RECIPES.values()),
        replace(recipe, scorer=Residual(intensity_weight=0.1)).digest(POINT),
        replace(recipe, scorer=Residual(Aggregate.LAST)).digest(POINT),
        replace(recipe, sampler=OneShot(at=(0.25,))).digest(POINT),
        replace(recipe, paper="another").digest(POINT),
        recipe.digest(POINT.model_copy(update={"minimum_volume_mm3": 1.0})),
        recipe.digest(POINT.model_copy(update={"threshold": {"brighter": 1.0, "darker": 1.5}})),
    ]

    assert len(set(variants)) == len(variants)
    assert all(len(digest) == 64 for digest in variants)


def test_the_canonical_form_names_every_part() -> None:
    content = json.loads(RECIPES["cold_steps"].canonical_json(POINT))

    assert content["recipe"]["corruptor"] == {"part": "Untouched"}
    assert content["recipe"]["sampler"]["step"] == {"part": "Cold"}
    assert content["recipe"]["sampler"]["blend"] == "inference.samplers.keep_estimate"
    assert content["operating_point"]["maximum_findings"] == 20


def test_equal_recipes_have_equal_digests() -> None:
    recipe = RECIPES["cold_steps"]
    assert isinstance(recipe.sampler, Chain)

    again = replace(recipe, sampler=replace(recipe.sampler))

    assert again is not recipe
    assert again.digest(POINT) == recipe.digest(POINT)


def test_a_part_that_cannot_be_written_down_is_an_error() -> None:
    broken = replace(RECIPES["cold_restore"], scorer=object())  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="not object"):
        broken.digest(POINT)


@pytest.mark.parametrize("name", ["anoddpm", "thor"])
def test_a_chain_holds_at_each_level_the_signal_and_noise_that_the_network_is_told(name: str) -> None:
    recipe = RECIPES[name]
    clean = torch.full((2, 1, 96, 96), 4.0)
    oracle = Knows(clean)

    ends = list(recipe.sampler.stream(shown(clean, seed=2), recipe.corruptor, oracle))

    assert torch.equal(ends[-1].value, clean)
    for level, image in oracle.asked:
        sigma = LINEAR.sigma(level)
        # simplex noise has few periods in a slice, so its sample mean and deviation stray further than white noise's
        of_mean, of_deviation = (0.6, 0.35) if name == "anoddpm" else (0.05, 0.04)
        assert float(image.mean()) == pytest.approx(4.0 * LINEAR.alpha(level), abs=of_mean * sigma)
        assert float(image.std()) == pytest.approx(sigma, rel=of_deviation)


@pytest.mark.parametrize("name", ["classifier_free", "classifier_guided"])
def test_inversion_and_decoding_pass_the_same_levels(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe.corruptor, Inversion)
    assert isinstance(recipe.sampler, Chain)

    up, down = recipe.corruptor.pairs, recipe.sampler.pairs

    assert [level for level, _ in down] == pytest.approx([level for _, level in reversed(up)])
    assert down[-1][1] == pytest.approx(up[0][0])
