"""What latent methods claim, where the truth is known: codecs without networks, networks that know what is healthy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inference.bernoulli import BernoulliStep, Flipped, UnlessFlipped
from inference.code_scores import PriorDeviation
from inference.codecs import Arrival, BinaryCodec, CodeShown, InLatent, KlCodec
from inference.corruptors import Inversion, Noised, Untouched
from inference.denoisers import CleanImage, PredictedNoise
from inference.likelihood import Inpainted, Unlikelihood
from inference.recipes import RECIPES
from inference.samplers import Chain, Ddim, OneShot, ddpm, even_pairs
from inference.schedules import LINEAR
from inference.scorers import Residual
from inference.selective import Selective, Velocity, WhereMarked
from inference.slices import Networks
from tests.inference.heads import Knows, shown

SIZE, TEXTURE, CONTRAST = 32, 0.3, 3.0
SEEDS = range(3)


@dataclass(frozen=True)
class Coarse:
    """A codec that keeps the mean of four pixels a side: what is finer it cannot draw."""

    factor: int = 4

    def encode(self, x: Tensor, networks: Networks) -> Tensor:
        return functional.avg_pool2d(x, self.factor)

    def decode(self, z: Tensor, networks: Networks) -> Tensor:
        return functional.interpolate(z, scale_factor=self.factor, mode="nearest")


def disc(seed: int, radius: float = 5.0, size: int = SIZE) -> Tensor:
    """A lesion somewhere in a slice: [1, 1, row, column], 0 or 1."""
    row, column = np.random.default_rng(seed).uniform(size / 4, 3 * size / 4, 2)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((y - row) ** 2 + (x - column) ** 2) <= radius**2).float()[None, None]


def tissue(seed: int) -> Tensor:
    """A healthy slice: texture around the brain's median."""
    return TEXTURE * torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(100 + seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_compared_with_what_the_codec_makes_of_the_slice_its_own_error_is_no_finding(seed: int) -> None:
    healthy, lesion = tissue(seed), disc(seed)
    slices = shown(healthy + CONTRAST * lesion)
    oracle = Knows(functional.avg_pool2d(healthy, 4))

    stream = list(InLatent(OneShot(at=(0.5,)), Coarse()).stream(slices, Noised(), oracle))
    beside = Residual().score(slices, stream).raw
    plain = Residual().score(slices, [one._replace(reference=None) for one in stream]).raw

    away = functional.max_pool2d(lesion, 9, 1, 4) == 0  # four pixels clear of the lesion, a place of the code
    assert float(beside[away].abs().max()) < 1e-6
    assert float(plain[away].abs().mean()) > 0.5 * TEXTURE
    assert float(beside[lesion > 0].mean()) > 0.7 * CONTRAST


def test_within_a_codec_the_sampler_sees_codes_and_the_scorer_slices() -> None:
    slices, mirror = shown(torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0))), Knows()

    (one,) = InLatent(OneShot(at=(0.3,)), Coarse()).stream(slices, Untouched(), mirror)

    assert {tuple(image.shape) for _, image in mirror.asked} == {(1, 4, 2)}
    assert one.reference is not None
    assert one.value.shape == slices.image.shape
    assert torch.equal(one.value, one.reference)


@pytest.mark.parametrize("seed", SEEDS)
def test_inpainting_changes_what_is_unlikely_and_keeps_all_else_to_the_bit(seed: int) -> None:
    healthy, lesion = tissue(seed), disc(seed)
    sick = healthy + CONTRAST * lesion
    scan = Unlikelihood(OneShot(at=(0.4, 0.5, 0.6)))
    sampler = Inpainted(scan, Chain(even_pairs(0.5, 0.0, 5), ddpm()))
    slices = shown(sick, most=1, limit=lambda nats: torch.full_like(nats, 1e-6))

    (one,) = sampler.stream(slices, Noised(), Knows(healthy))
    nats = scan.of(slices, Noised(), Knows(sick))

    assert torch.equal(one.value[lesion == 0], sick[lesion == 0])
    assert torch.allclose(one.value[lesion > 0], healthy[lesion > 0], atol=1e-5)
    assert not nats.any()  # a model that foresees every step finds nothing unlikely


def test_the_unlikelihood_is_the_divergence_of_the_two_gaussians_of_a_step() -> None:
    # in double precision: the two means lie a thousandth of a step apart
    clean, guess = (torch.full((1, 1, 4, 4), value, dtype=torch.float64) for value in (0.7, 0.2))
    x_t = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level, s = 0.5, 0.5 - 0.001

    nats = Unlikelihood(OneShot(at=(level,))).of(shown(clean), Noised(), Knows(guess))

    means = [replace(ddpm(), eta=1.0, noise=Silent()).move(x_t, one, level, s, shown(clean)) for one in (clean, guess)]
    variance = (LINEAR.sigma(s) / LINEAR.sigma(level)) ** 2 * (1 - (LINEAR.alpha(level) / LINEAR.alpha(s)) ** 2)
    assert torch.allclose(nats, (means[0] - means[1]) ** 2 / (2 * variance), rtol=1e-9, atol=0)


class Silent:
    """Noise that is none, so that a step is its mean."""

    def draw(self, random: object, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_change_only_where_a_flip_is_likely(seed: int) -> None:
    healthy = torch.where(tissue(seed) > 0, 1.0, -1.0)
    lesion = disc(seed)
    bits = torch.where(lesion > 0, -healthy, healthy)
    unsure = Knows(torch.where(lesion > 0, healthy, 0.2 * bits))  # of healthy bits it knows little
    chain = Chain(even_pairs(0.2, 0.0, 5), BernoulliStep())

    blended, plain = (list(chain.stream(shown(bits, seed), Flipped(), one))[-1].value for one in (UnlessFlipped(unsure), unsure))

    assert torch.equal(blended[lesion > 0], healthy[lesion > 0])
    assert torch.equal(blended[lesion == 0], bits[lesion == 0])
    assert float((plain - bits)[lesion == 0].abs().mean()) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_masked_diffusion_moves_marked_places_only(seed: int) -> None:
    healthy, lesion = tissue(seed), disc(seed)
    sick = healthy + CONTRAST * lesion

    def network(x_t: Tensor, level: Tensor) -> Tensor:
        return torch.cat([healthy + 0.1, 20 * lesion - 10], dim=1)

    slices = shown(sick, seed, restorer=network)
    chain = Chain(even_pairs(1.0, 0.0, 10), Selective(Ddim(eta=0.5)))

    marked = list(chain.stream(slices, Untouched(), WhereMarked()))[-1].value
    everywhere = list(Chain(chain.pairs, Ddim(eta=0.5)).stream(slices, Untouched(), CleanImage()))[-1].value

    assert torch.equal(marked[lesion == 0], healthy[lesion == 0])
    assert torch.allclose(marked[lesion > 0], healthy[lesion > 0] + 0.1, atol=1e-5)
    assert float((everywhere - healthy)[lesion == 0].abs().mean()) > 0.05


def test_a_selective_step_leaves_the_announced_signal_and_noise_where_it_moves() -> None:
    clean = torch.full((1, 1, 200, 200), 4.0)
    x_t = Noised().corrupt(clean, 0.6, shown(clean))
    half = torch.zeros_like(clean)
    half[..., :100] = 1

    moved = Selective(Ddim(eta=0.5)).move(x_t, torch.where(half > 0, clean, x_t), 0.6, 0.3, shown(clean).after(1))

    assert torch.equal(moved[..., 100:], x_t[..., 100:])
    assert float(moved[..., :100].mean()) == pytest.approx(4 * LINEAR.alpha(0.3), abs=0.03)
    assert float(moved[..., :100].std()) == pytest.approx(LINEAR.sigma(0.3), rel=0.03)


@pytest.mark.parametrize("level", [0.25, 1.0])
def test_one_euler_step_along_a_straight_way_arrives(level: float) -> None:
    healthy, velocity = tissue(1), CONTRAST * disc(1)

    found = Velocity().estimate(healthy + level * velocity, level, shown(healthy, velocity=lambda x, t: velocity))

    assert torch.allclose(found, healthy, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_inversion_leads_healthy_slices_to_the_prior_and_others_away_from_it(seed: int) -> None:
    # healthy numbers are standard normal: the best network's noise is sigma x_t
    healthy = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    lesion = disc(seed)
    images = torch.cat([healthy, healthy + CONTRAST * lesion])
    slices = shown(images, noise=lambda x_t, level: LINEAR.mixing(level, x_t)[1] * x_t)
    slices = replace(slices, brain=torch.ones_like(images))
    recipe = RECIPES["invad"]
    assert isinstance(recipe.corruptor, Inversion)

    stream = list(Arrival(0.999).stream(slices, recipe.corruptor, PredictedNoise()))
    well, ill = PriorDeviation().score(slices, stream).raw

    assert float(ill.mean()) > 1.2 * float(well.mean())  # the gate
    assert float(ill[lesion[0] > 0].mean()) > 2 * float(ill[lesion[0] == 0].mean())  # and where


@pytest.mark.parametrize("name", ["latent_diffusion", "bernoulli_latent", "mad_ad", "invad", "reflect"])
def test_a_latent_recipe_works_on_a_sixteenth_of_the_places(name: str) -> None:
    assert isinstance(RECIPES[name].sampler, InLatent)
    assert RECIPES[name].training.stages[0].trains[:2] == ("encoder", "decoder")


def test_bits_decode_as_the_likelier_ones_and_the_mean_is_the_code_of_a_gaussian() -> None:
    image = torch.tensor([[[[0.3, -2.0]]]])
    networks = {"encoder": lambda x: torch.cat([x, 9 * x], 1), "decoder": lambda z: z}

    assert torch.equal(KlCodec().encode(image, networks), image)
    assert BinaryCodec().decode(image, networks).tolist() == [[[[1.0, -1.0]]]]
    assert CodeShown(KlCodec(), 2).decode(image, networks).shape == (1, 1, 2, 4)
