"""The uncertainty is higher where the answer is wrong, for every way in which recipes come by one.

Over severities: the shipped network, on a head made by code into which lesions are inserted. Over draws of noise: a small
network that learns as its recipe says, on slices of another head with painted anomalies. Over masks: a denoiser that knows each
pixel's probability exactly. Wrong is a healthy estimate that is off by more than half a standardised unit (an eighth of the
brain's median), and a mask's probability that is off by more than one half.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import inference
from inference.bundle import load_bundle
from inference.data import axial_volume
from inference.evaluation.uncertainty import uncertainty_quality
from inference.learn import Budget, Run, train_networks
from inference.localizer import Context, RecipeLocalizer
from inference.material import Gathered
from inference.phantom import synthetic_head
from inference.phantom.analytic import analytic_atlas
from inference.phantom.banks import UNIT, Bank, healthy_slice
from inference.phantom.insertion import insert_lesions
from inference.phantom.lesions import AnomalyPainter, Corruption
from inference.preprocess import brain_median
from inference.recipes import RECIPES
from inference.recipes.recipe import GridPlan, Material, NetworkSpec, Recipe
from inference.restoration import Setting, restore
from inference.schedules import LINEAR

pytestmark = pytest.mark.feature("L6")

SHIPPED = Path(inference.__file__).parent / "models" / "brain-flair"
GRID = GridPlan(48, 40, 4.8)
OFF = 0.5


@pytest.mark.slow
def test_the_spread_over_severities_is_higher_where_the_healthy_estimate_is_wrong() -> None:
    head = synthetic_head(seed=21, shape=(18, 128, 116), spacing_mm=(7.0, 1.75, 1.75), lesions=0)
    image, rng = head.image.astype(np.float32), np.random.default_rng(4)
    for diameter_mm, contrast in ((20.0, 0.5), (14.0, 0.3), (20.0, -0.4)):
        image = insert_lesions(
            image, head.brain, head.spacing_mm, diameter_mm=diameter_mm, contrast=contrast, count=2, rng=rng
        ).image
    localizer = RecipeLocalizer(load_bundle(SHIPPED, device="cpu"), RECIPES["cold_mean"])

    maps = localizer.raw_maps(axial_volume(image, head.spacing_mm), Context())

    assert maps.healthy is not None
    assert maps.uncertainty is not None
    off = np.abs(maps.healthy - head.image)[maps.brain] * UNIT / brain_median(image, maps.brain)
    assert (off > OFF).sum() > 500
    assert uncertainty_quality(maps.uncertainty[maps.brain], off > OFF).error_auroc > 0.6


@pytest.mark.slow
def test_the_spread_over_draws_is_higher_where_the_healthy_estimate_is_wrong(tmp_path: Path) -> None:
    recipe = small(RECIPES["coarse_ensemble"])
    learned_from, _, brain, white = slices_of(3001, 200)
    as_bytes = [np.rint(one.numpy()[:, 0] * 255).astype(np.uint8) for one in (brain, white)]
    bank = Bank(learned_from.target.numpy()[:, 0].astype(np.float16), *as_bytes)
    networks, _ = train_networks(
        recipe, Gathered({Material.HEALTHY: bank}, None, (), (), (), True), Run(Budget(steps=200), tmp_path, device="cpu")
    )
    painted, _, brain, _ = slices_of(3002, 50)

    maps = restore(
        painted.image.numpy()[:, 0], brain.numpy()[:, 0] > 0.5, recipe, networks, Setting(torch.device("cpu"), multiple=16)
    )

    assert maps.healthy is not None
    assert maps.uncertainty is not None
    inside = brain.numpy()[:, 0] > 0.5
    wrong = np.abs(maps.healthy - painted.target.numpy()[:, 0])[inside] > OFF
    assert wrong.sum() > 500
    assert uncertainty_quality(maps.uncertainty[inside], wrong).error_auroc > 0.55


def test_the_spread_over_masks_is_higher_where_the_mask_is_wrong() -> None:
    rng = np.random.default_rng(0)
    likely = np.clip(rng.beta(0.3, 0.3, (6, 32, 32)), 0.01, 0.99).astype(np.float32)
    truth = rng.random(likely.shape) < likely
    odds = torch.from_numpy(np.log(likely / (1 - likely)))[:, None]

    def knows(shown: Tensor, level: Tensor) -> Tensor:
        """The noise that follows from E[y | x_t] = tanh(alpha x_t / sigma^2 + log odds / 2), y being -1 or 1."""
        x_t = shown[:, :1]
        alpha, sigma = LINEAR.mixing(level, x_t)
        whole = odds.repeat(len(x_t) // len(odds), 1, 1, 1)
        return (x_t - alpha * torch.tanh(alpha * x_t / sigma**2 + whole / 2)) / sigma

    brain = np.ones(likely.shape, dtype=np.bool_)
    maps = restore(likely, brain, RECIPES["mask_ensemble"], {"noise": knows}, Setting(torch.device("cpu")))

    assert maps.uncertainty is not None
    assert np.mean(np.abs(maps.raw - likely)) < 0.15  # five draws of what is likely
    wrong = np.abs(maps.raw - truth) > OFF
    assert wrong.sum() > 200
    assert uncertainty_quality(maps.uncertainty.ravel(), wrong.ravel()).error_auroc > 0.75


def slices_of(head: int, count: int) -> tuple[Corruption, Tensor, Tensor, Tensor]:
    """Slices of a head made by code with an anomaly in most, without any, their brain and white matter; all as Corruption is."""
    rng, generator = np.random.default_rng(head), torch.Generator().manual_seed(head)
    atlas = analytic_atlas(head)
    cuts = [healthy_slice(rng, atlas, (GRID.rows, GRID.columns), GRID.spacing_mm) for _ in range(count)]
    clean, brain, white = (
        torch.from_numpy(np.stack([getattr(one, name) for one in cuts])).float()[:, None] for name in ("image", "brain", "white")
    )
    brain = (brain > 0.5).float()
    clean = torch.where(brain > 0, clean, torch.full_like(clean, -UNIT))
    painter = AnomalyPainter((GRID.rows, GRID.columns), GRID.spacing_mm, seed=head)
    return painter(clean, brain, white, torch.ones(count), generator), clean, brain, white


def small(recipe: Recipe) -> Recipe:
    """The recipe with its own objective, on coarse slices and with few channels."""
    networks = tuple(
        NetworkSpec(one.name, one.kind, {**one.arguments, "channels": [8, 16, 24]}) for one in recipe.training.networks
    )
    return replace(recipe, training=replace(recipe.training, networks=networks, grid=GRID))
