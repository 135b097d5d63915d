"""What the papers claim, where the truth is known: swapped classes, the forward process, voting levels, sampled masks, crops.

The networks are the best there can be: each knows the distribution of the slices, or of their masks, and answers by Bayes' rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.corruptors import Inversion, Noised
from inference.denoisers import PredictedNoise
from inference.forward import ForwardResidual
from inference.methods.memory import PeakMemory
from inference.metrics import average_precision, dice
from inference.networks import build
from inference.objectives import Examples
from inference.recipes import RECIPES
from inference.recipes.patchddm import CROP, VOLUME_UNET
from inference.recipes.recipe import GridPlan, Recipe
from inference.recipes.trainings import HEALTHY, NULL, SICK
from inference.samplers import Ensemble, Estimate, OneShot
from inference.schedules import LINEAR
from inference.scorers import Scored
from inference.slices import Network
from inference.volumes import PredictNoiseInCrops, the_image_and_place
from tests.inference.heads import Knows, shown

SIZE, TEXTURE, CONTRAST = 32, 0.3, 3.0
SEEDS = range(4)


def disc(seed: int, radius: float = 5.0) -> Tensor:
    """A lesion somewhere in a slice: [1, 1, row, column], 0 or 1."""
    row, column = np.random.default_rng(seed).uniform(9, SIZE - 9, 2)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((y - row) ** 2 + (x - column) ** 2) <= radius**2).float()[None, None]


def tissue(seed: int) -> Tensor:
    """A healthy slice: texture around the brain's median."""
    return TEXTURE * torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(100 + seed))


@dataclass(frozen=True)
class TwoClasses:
    """The noise in slices of texture without (healthy) or with (sick) this lesion; told neither, it weighs both."""

    lesion: Tensor

    def __call__(self, x_t: Tensor, level: Tensor, label: Tensor) -> Tensor:
        """eps_hat = (x_t - alpha E[x0 | x_t, class]) / sigma."""
        alpha, sigma = LINEAR.mixing(level, x_t)
        spread = (alpha * TEXTURE) ** 2 + sigma**2
        means = [torch.zeros_like(x_t), CONTRAST * self.lesion.expand_as(x_t)]
        likely = torch.stack([-((x_t - alpha * mean) ** 2 / (2 * spread)).sum((1, 2, 3)) for mean in means], dim=1)
        weight = torch.softmax(likely, dim=1)
        for known in (HEALTHY, SICK):
            weight = torch.where((label == known)[:, None], nn.functional.one_hot(torch.tensor(known), 2).float(), weight)
        clean = sum(
            weight[:, k, None, None, None] * (mean + alpha * TEXTURE**2 / spread * (x_t - alpha * mean))
            for k, mean in enumerate(means)
        )
        return (x_t - alpha * clean) / sigma


def scored(recipe: Recipe, image: Tensor, seed: int = 0, **networks: Network) -> Scored:
    """What a recipe makes of slices."""
    slices = shown(image, seed, **networks)
    return recipe.scorer.score(slices, recipe.sampler.stream(slices, recipe.corruptor, recipe.denoiser))


@pytest.mark.parametrize("seed", SEEDS)
def test_ddib_takes_the_lesion_out_and_keeps_what_both_classes_share(seed: int) -> None:
    lesion = disc(seed)
    image, recipe, network = tissue(seed) + CONTRAST * lesion, RECIPES["ddib"], TwoClasses(lesion)
    assert isinstance(recipe.corruptor, Inversion)
    unswapped = replace(recipe, corruptor=replace(recipe.corruptor, denoiser=PredictedNoise(label=HEALTHY)))

    swapped, same = (scored(one, image, noise=network) for one in (recipe, unswapped))

    assert float(swapped.raw[lesion > 0].mean()) == pytest.approx(CONTRAST, rel=0.1)
    assert float(swapped.raw[lesion == 0].abs().mean()) < 0.5 * TEXTURE
    assert float(same.raw[lesion > 0].mean()) < 0.4 * CONTRAST  # from health to health: what ten steps lose of a sick slice


@pytest.mark.parametrize("seed", SEEDS)
def test_the_forward_process_finds_the_lesion_and_leaves_a_healthy_slice_alone(seed: int) -> None:
    lesion = disc(seed)
    images = torch.cat([tissue(seed) + CONTRAST * lesion, tissue(seed + 50)])

    result = scored(RECIPES["anofpdm"], images, seed, noise=TwoClasses(lesion))

    sick, healthy = result.raw.abs()
    assert average_precision(sick[0].numpy(), lesion[0, 0].numpy() > 0) > 0.95
    assert float(healthy.max()) < 0.25 * float(sick[lesion[0] > 0].mean())
    scorer = replace(RECIPES["anofpdm"].scorer, alike=0.999)  # type: ignore[type-var]
    assert isinstance(scorer, ForwardResidual)
    gated = scored(replace(RECIPES["anofpdm"], scorer=scorer), images, seed, noise=TwoClasses(lesion))
    assert gated.raw[0].any()
    assert not gated.raw[1].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_fine_grain_in_the_guided_estimates_does_not_hide_the_lesion(seed: int) -> None:
    """The largest residuals are single pixels of grain: cut first, a median leaves little of the map."""
    lesion, grain = disc(seed, radius=3.0), torch.Generator().manual_seed(seed)
    slices = shown(tissue(seed) + CONTRAST * lesion)
    scorer = RECIPES["anofpdm"].scorer
    assert isinstance(scorer, ForwardResidual)

    def estimate(level: float) -> Estimate:
        guided = tissue(seed) + 0.6 * CONTRAST * torch.randn(1, 1, SIZE, SIZE, generator=grain)
        return Estimate(level, torch.cat([guided, slices.image], dim=1))

    found = scorer.score(slices, [estimate(level) for level in (0.1, 0.3, 0.5)])

    assert average_precision(found.raw[0, 0].abs().numpy(), lesion[0, 0].numpy() > 0) > 0.65


@pytest.mark.parametrize("seed", SEEDS)
def test_without_guidance_the_two_estimates_never_part_and_nothing_is_to_be_seen(seed: int) -> None:
    lesion, recipe = disc(seed), RECIPES["anofpdm"]
    image = tissue(seed) + CONTRAST * lesion
    guided = recipe.denoiser.guidance  # type: ignore[attr-defined]
    unguided = replace(recipe, denoiser=replace(recipe.denoiser, guidance=replace(guided, weight=0.0)))  # type: ignore[type-var]

    with_it, without = (scored(one, image, seed, noise=TwoClasses(lesion)).raw for one in (recipe, unguided))

    assert float(with_it[lesion > 0].mean()) > 10 * float(without[lesion > 0].abs().mean())
    assert guided.null == NULL


@pytest.mark.parametrize("seed", SEEDS)
def test_voting_levels_beat_single_ones_and_disagree_where_they_err(seed: int) -> None:
    recipe, lesion = RECIPES["timestep_ensemble"], disc(seed, radius=7.0)
    image = tissue(seed) + 1.0 * lesion
    assert isinstance(recipe.sampler, OneShot)

    def heads(features: Tensor) -> Tensor:
        return 4.0 * (features - 0.5)  # between tissue at 0 and lesion at 1

    recipe = replace(recipe, corruptor=Noised(), denoiser=Knows())
    together = scored(recipe, image, seed, heads=heads)
    single = [scored(replace(recipe, sampler=OneShot(at=(t,))), image, seed, heads=heads).raw for t in recipe.sampler.at]

    truth = lesion[0, 0].numpy() > 0
    each = [average_precision(one[0, 0].numpy(), truth) for one in single]
    assert average_precision(together.raw[0, 0].numpy(), truth) > np.mean(each) + 0.1
    assert together.uncertainty is not None
    wrong = (together.raw > 0.5) != (lesion > 0)
    assert float(together.uncertainty[wrong].mean()) > 1.05 * float(together.uncertainty[~wrong].mean())


@dataclass(frozen=True)
class TwoReaders:
    """Of a slice that readers outline in two ways, each as often: what is to be known of its mask at a level."""

    small: Tensor
    large: Tensor

    def weight(self, likely: list[Tensor]) -> Tensor:
        """How likely the small outline is, for each slice."""
        return torch.softmax(torch.stack([one.sum((1, 2, 3)) for one in likely], dim=1), dim=1)[:, 0, None, None, None]

    def noise(self, given: Tensor, level: Tensor) -> Tensor:
        """The noise in a noised mask of -1 and 1."""
        x_t = given[:, :1]
        alpha, sigma = LINEAR.mixing(level, x_t)
        masks = [2 * one.expand_as(x_t) - 1 for one in (self.small, self.large)]
        weight = self.weight([-((x_t - alpha * mask) ** 2) / (2 * sigma**2) for mask in masks])
        return (x_t - alpha * (weight * masks[0] + (1 - weight) * masks[1])) / sigma

    def flips(self, given: Tensor, level: Tensor) -> Tensor:
        """The log-odds of a flip in a flipped mask."""
        x_t = given[:, :1]
        kept = LINEAR.mixing(level, x_t)[0] ** 2
        masks = [2 * one.expand_as(x_t) - 1 for one in (self.small, self.large)]
        weight = self.weight([torch.log((1 + kept * x_t * mask) / 2) for mask in masks])
        mean = weight * masks[0] + (1 - weight) * masks[1]
        return torch.logit((1 - x_t * mean) / 2, eps=1e-6)


SAMPLED = ("mask_ensemble", "medsegdiff", "berdiff")


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_sample_is_one_readers_mask_and_not_a_mixture(name: str, seed: int) -> None:
    readers, recipe = TwoReaders(disc(seed, 4.0), disc(seed, 7.0)), RECIPES[name]
    slices = shown(tissue(seed), seed, noise=readers.noise, flips=readers.flips)

    samples = [one.value > 0 for one in recipe.sampler.stream(slices, recipe.corruptor, recipe.denoiser)]

    for one in samples:
        fits = [dice(one.numpy(), mask.numpy() > 0) for mask in (readers.small, readers.large)]
        assert max(fits) > 0.97


@pytest.mark.parametrize("name", SAMPLED)
def test_over_many_slices_both_readers_are_heard(name: str) -> None:
    readers, recipe = TwoReaders(disc(1, 4.0), disc(1, 7.0)), RECIPES[name]
    image = tissue(1).repeat(8, 1, 1, 1)
    slices = shown(image, 3, noise=readers.noise, flips=readers.flips)

    samples = torch.stack([one.value > 0 for one in recipe.sampler.stream(slices, recipe.corruptor, recipe.denoiser)])

    ring = (readers.large > readers.small).expand_as(image)
    share = float(samples[:, ring].float().mean())  # of 8 x 5 samples, each of one reader: a standard error of 0.08
    assert 0.2 < share < 0.8


@pytest.mark.parametrize("name", SAMPLED)
def test_the_samples_spread_where_readers_disagree(name: str) -> None:
    readers, recipe = TwoReaders(disc(2, 4.0), disc(2, 7.0)), RECIPES[name]
    image = tissue(2).repeat(8, 1, 1, 1)

    result = scored(recipe, image, 5, noise=readers.noise, flips=readers.flips)

    assert result.uncertainty is not None
    ring = (readers.large > readers.small).expand_as(image)
    assert float(result.uncertainty[ring].mean()) > 0.3
    assert float(result.uncertainty[~ring].mean()) < 0.05
    assert float(result.raw[readers.small.expand_as(image) > 0].min()) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_staple_beats_the_worst_sample_by_far_and_the_usual_one(seed: int) -> None:
    """Every draw has a misreading of its own: a blot that no other draw has."""
    lesion, recipe = disc(seed, 7.0), RECIPES["medsegdiff"]
    image = tissue(seed)

    def misread(given: Tensor, level: Tensor) -> Tensor:
        x_t = given[:, :1]
        alpha, sigma = LINEAR.mixing(level, x_t)
        blots = torch.stack([lesion[0] * (1 - disc(900 + seed + k, 6.0)[0]) for k in range(len(x_t))])
        blots = torch.maximum(blots, torch.stack([disc(700 + seed + k, 4.0)[0] for k in range(len(x_t))]))
        return (x_t - alpha * (2 * blots - 1)) / sigma

    slices = shown(image, seed, noise=misread)
    assert isinstance(recipe.sampler, Ensemble)
    samples = [one.value > 0 for one in recipe.sampler.stream(slices, recipe.corruptor, recipe.denoiser)]
    fused = scored(recipe, image, seed, noise=misread).raw > 0.5

    truth = lesion.numpy() > 0
    single = [dice(one.numpy(), truth) for one in samples]
    assert dice(fused.numpy(), truth) > min(single) + 0.1
    assert dice(fused.numpy(), truth) > np.mean(single) + 0.05


def placed(seed: int = 0) -> Examples:
    """A study of texture alone whose lesion lies where it always does: in one corner of the brain."""
    image = TEXTURE * torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    lesion = torch.zeros_like(image)
    lesion[:4, :, :16, :16] = 1
    return Examples(image, torch.ones_like(image), torch.zeros_like(image), lesion)


class GoesByPlace(nn.Module):
    """Looks at nothing but where a voxel lies in the brain, and knows the corner."""

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        """The noise in the mask."""
        x_t = given[:, :1]
        alpha, sigma = LINEAR.mixing(level, x_t)
        corner = (given[:, 2:5] < 0).all(1, keepdim=True)
        return (x_t - alpha * (2.0 * corner - 1)) / sigma


def test_a_crop_and_the_whole_volume_agree_on_where_a_voxel_lies() -> None:
    study, network, recipe = placed(), GoesByPlace(), RECIPES["patchddm"]
    crops = PredictNoiseInCrops((3, 12, 20), the_image_and_place, crops=16).begin(GridPlan(), 0)

    loss = float(crops({"noise": network}, study, torch.Generator().manual_seed(3)))
    result = scored(recipe, study.image, 2, noise=network)

    assert loss < 1e-6
    assert torch.allclose(result.raw, study.lesion, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_learned_on_crops_holds_for_the_whole(seed: int) -> None:
    torch.manual_seed(seed)
    network = build("volume_unet", {**VOLUME_UNET, "channels": [16, 16]})
    cut, whole = (PredictNoiseInCrops(size, the_image_and_place, 4, levels=(0.2, 0.9)) for size in ((4, 16, 16), (8, 32, 32)))
    learned, asked = (one.begin(GridPlan(), 0) for one in (cut, whole))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step in range(40):
        optimiser.zero_grad()
        learned({"noise": network}, placed(step), torch.Generator().manual_seed(1000 * seed + step)).backward()
        optimiser.step()

    with torch.no_grad():
        errors = [float(one({"noise": network}, placed(999), torch.Generator().manual_seed(7))) for one in (learned, asked)]
    assert errors[1] < 0.5  # 1 is the error of a network that has learned nothing
    assert errors[1] < 1.3 * errors[0]


@pytest.mark.slow
def test_training_on_crops_takes_less_memory_than_on_whole_volumes() -> None:
    network = build("volume_unet", VOLUME_UNET)
    image = torch.zeros(24, 1, 96, 80)
    study = Examples(image, torch.ones_like(image), image, image)

    def peak(crop: tuple[int, int, int]) -> float:
        loss = PredictNoiseInCrops(crop, the_image_and_place, crops=1).begin(GridPlan(), 0)
        loss({"noise": network}, study, torch.Generator().manual_seed(0)).backward()  # what libraries keep for good
        with PeakMemory() as memory:
            loss({"noise": network}, study, torch.Generator().manual_seed(0)).backward()
        return memory.mb

    assert peak(CROP) < 0.7 * peak((24, 96, 80))
