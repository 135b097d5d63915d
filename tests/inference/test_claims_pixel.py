"""What each paper claims for its method, on phantoms where the right answer is known, with a margin, over several seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inference.bridges import Bridge
from inference.corruptors import CoarseNoise, Noised, Untouched
from inference.denoisers import CleanImage, PredictedNoise
from inference.frequencies import HealthyContext, LearnContexts
from inference.networks import build
from inference.noise import White
from inference.objectives import Examples
from inference.partial import Boxes, HiddenCells, HiddenFrequencies, InBox, InTurn
from inference.recipes import RECIPES
from inference.recipes.recipe import GridPlan, Training
from inference.repaint import Doubtful, Repainted
from inference.samplers import Chain, OneShot, ddpm, even_pairs
from inference.schedules import LINEAR
from inference.scorers import Residual
from inference.slices import SliceRandom, Slices, from_generator

SHAPE = (48, 40)
GRID = GridPlan(rows=48, columns=40, spacing_mm=4.8)
SEEDS = (1, 2, 3)


def healthy(count: int, seed: int) -> Tensor:
    """Heads [count, 1, 48, 40]: an ellipse of tissue whose place, size, grey and stripes differ from one to the next."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, SHAPE[0]), torch.linspace(-1, 1, SHAPE[1]), indexing="ij")
    away, wide, grey, phase = (torch.rand(count, 1, 1, generator=g) for _ in range(4))
    inside = (rows / (0.75 + 0.15 * wide)) ** 2 + ((columns - 0.1 * (away - 0.5)) / (0.7 + 0.15 * wide)) ** 2 < 1
    stripes = 0.5 * torch.sin(9 * columns + 6 * phase) * torch.cos(7 * rows)
    return torch.where(inside, grey - 0.5 + stripes, torch.tensor(-4.0))[:, None]


def with_lesion(clean: Tensor, bright: float = 3.0) -> tuple[Tensor, Tensor]:
    """The heads with a bright square of 8 pixels, and where it is."""
    lesion = torch.zeros_like(clean, dtype=torch.bool)
    lesion[:, :, 14:22, 12:20] = True
    return torch.where(lesion, clean + bright, clean), lesion


def slices(image: Tensor, networks: dict[str, Callable[..., Tensor]], seed: int = 0) -> Slices:
    """The images as a method sees them."""
    return Slices(image, (image > -3.5).float(), networks, SliceRandom(seed, tuple(range(len(image)))))


def examples(clean: Tensor) -> Examples:
    """A batch of training slices without marks."""
    brain = (clean > -3.5).float()
    return Examples(clean, brain, 0.5 * brain, torch.zeros_like(clean))


def trained(training: Training, seed: int, steps: int, batch: int = 12) -> dict[str, nn.Module]:
    """Small networks of a training after a few steps on healthy heads; stages one after another."""
    torch.manual_seed(seed)
    small = {"channels": [16, 24], "attention_levels": [False, False], "norm_groups": 8, "multiple": 4}
    networks = {
        spec.name: build(spec.kind, {**spec.arguments, **(small if "channels" in spec.arguments else {})})
        for spec in training.networks
    }
    for stage in training.stages:
        loss = stage.objective.begin(GRID, seed)
        weights = [one for name in stage.trains for one in networks[name].parameters()]
        optimiser = torch.optim.Adam(weights, lr=3e-3)
        for step in range(steps):
            optimiser.zero_grad()
            generator = torch.Generator().manual_seed(1000 * seed + step)
            loss(networks, examples(healthy(batch, 77 * seed + step)), generator).backward()
            optimiser.step()
    return {name: network.eval() for name, network in networks.items()}


def knowing(clean: Tensor) -> Callable[..., Tensor]:
    """A network that answers with the clean image whatever it is shown."""
    return lambda given, *_: clean.repeat(len(given) // len(clean), 1, 1, 1)


# Boxes under noise (pDDPM, mDDPM)


def test_the_boxes_cover_every_pixel_once_and_an_oracle_is_stitched_whole() -> None:
    clean = healthy(3, 0)
    image, _ = with_lesion(clean)
    sampler = Boxes(at=(0.5, 0.25), rows=3, columns=2)

    boxes = torch.stack(sampler.boxes(image)).sum(0)
    estimates = list(sampler.stream(slices(image, {"restorer": knowing(clean)}), Noised(), CleanImage()))

    assert torch.equal(boxes, torch.ones_like(boxes))
    assert len(sampler.levels) == 12
    assert [one.level for one in estimates] == [0.5, 0.25]
    assert all(torch.equal(one.value, clean) for one in estimates)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_box_in_a_clean_surround_keeps_healthy_tissue_closer_than_noise_everywhere(seed: int) -> None:
    clean = healthy(16, 900 + seed)
    inside = clean > -3.5
    stripes = torch.where(inside, clean - grey_of(clean, inside), clean)

    def by_surround(x_t: Tensor, level: Tensor) -> Tensor:
        """Knows all but the grey of a slice, which it reads from the tissue in the middle of the ranking: a clean majority."""
        del level
        seen = inside.repeat(len(x_t) // len(inside), 1, 1, 1)
        return torch.where(seen, stripes.repeat(len(x_t) // len(inside), 1, 1, 1) + grey_of(x_t, seen), -4.0)

    def through_noise(x_t: Tensor, level: Tensor) -> Tensor:
        """The same, the grey read from noised tissue as well as it can be: the signal's share is known."""
        alpha, _ = LINEAR.mixing(level, x_t)
        return torch.where(inside, stripes + grey_of(x_t, inside) / alpha, -4.0)

    ways = (Boxes(at=(0.5,), rows=3, columns=2), by_surround), (OneShot(at=(0.5,)), through_noise)
    found = [next(iter(way.stream(slices(clean, {"restorer": net}, seed), Noised(), CleanImage()))).value for way, net in ways]

    apart, whole = (float((one - clean).abs()[inside].mean()) for one in found)
    assert apart < 0.7 * whole


def grey_of(image: Tensor, inside: Tensor) -> Tensor:
    """The median of each image's tissue: [batch, 1, 1, 1]."""
    return torch.stack([one[where].median() for one, where in zip(image, inside, strict=True)])[:, None, None, None]


def test_a_box_in_training_is_destroyed_and_its_surround_is_not() -> None:
    clean = healthy(6, 4)
    work = slices(clean, {}, 5)
    corruptor = InBox(Noised(), share=0.5)

    found, box = corruptor.corrupt(clean, 0.5, work), corruptor.box(clean, work)

    assert torch.equal(found != clean, box)
    assert torch.equal(box.flatten(1).sum(1), torch.full((6,), 24 * 20))
    assert len({tuple(torch.nonzero(one)[0].tolist()) for one in box[:, 0]}) > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_hidden_cells_and_frequencies_take_about_their_share_and_leave_the_mean(seed: int) -> None:
    clean = torch.randn(64, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)) + 1.0
    work = slices(clean, {}, seed)

    cells = HiddenCells(cells=8, share=0.3).corrupt(clean, 0.5, work)
    waves = HiddenFrequencies(cells=8, share=0.3).corrupt(clean, 0.5, work)

    assert float((cells == 0).float().mean()) == pytest.approx(0.3, abs=0.05)
    assert float(waves.var() / clean.var()) == pytest.approx(0.7, abs=0.08)
    assert torch.allclose(waves.mean((2, 3)), clean.mean((2, 3)), atol=1e-5)


def test_corruptors_in_turn_draw_numbers_of_their_own() -> None:
    clean = torch.zeros(4, 1, *SHAPE)
    work = slices(clean, {}, 3)

    twice = InTurn((Noised(), Noised())).corrupt(clean, 0.5, work)
    once = Noised().corrupt(clean, 0.5, work)

    alpha, sigma = LINEAR.alpha(0.5), LINEAR.sigma(0.5)
    assert float(twice.std()) == pytest.approx(sigma * (1 + alpha**2) ** 0.5, rel=0.05)
    assert not torch.allclose(twice, once * (1 + alpha))


# A code of the slice (cDDPM)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_context_keeps_the_grey_of_a_slice_that_noise_has_hidden(seed: int) -> None:
    networks = trained(RECIPES["cddpm"].training, seed, 120)
    clean = healthy(16, 500 + seed)
    inside = clean > -3.5
    noisy = slices(clean, networks, seed)
    x_t = Noised(White()).corrupt(clean, 0.75, noisy)
    level = torch.full((len(clean),), 0.75)
    other = clean.roll(1, 0)

    with torch.no_grad():
        own, wrong = (networks["restorer"](torch.cat([x_t, context], 1), level) for context in (clean, other))

    errors = [float((found - clean).abs()[inside].mean()) for found in (own, wrong)]
    assert errors[0] < 0.95 * errors[1]


# Healthy low frequencies (FDP)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("then", [Untouched(), Noised(), CoarseNoise(cells=6, sigma=1.0)], ids=lambda one: type(one).__name__)
def test_a_healthy_context_takes_a_lesion_down_and_leaves_a_healthy_slice_nearly_alone(seed: int, then: object) -> None:
    networks = trained_contexts(seed)
    clean = healthy(8, 300 + seed)
    sick, lesion = with_lesion(clean)
    front, own = HealthyContext(then, radius=0.15), slices(sick, networks, seed)  # type: ignore[arg-type]

    with torch.no_grad():
        plain, behind = then.corrupt(sick, 0.2, own), front.corrupt(sick, 0.2, own)  # type: ignore[attr-defined]
        left_alone = HealthyContext(radius=0.15).corrupt(clean, 0.2, slices(clean, networks, seed))

    assert float((plain - behind)[lesion].mean()) > 2.5 * float((left_alone - clean).abs()[clean > -3.5].mean())


def trained_contexts(seed: int) -> dict[str, nn.Module]:
    """A bank of contexts learned from healthy heads for a second."""
    torch.manual_seed(seed)
    bank = build("context_bank", {"entries": 64, "rows": 16, "columns": 14, "width": 32})
    loss = LearnContexts(HealthyContext(radius=0.15)).begin(GRID, seed)
    optimiser = torch.optim.Adam(bank.parameters(), lr=1e-2)
    for step in range(250):
        optimiser.zero_grad()
        loss({"contexts": bank}, examples(healthy(16, 5000 * seed + step)), torch.Generator()).backward()
        optimiser.step()
    return {"contexts": bank}


def test_low_and_high_frequencies_add_up_and_the_low_ones_stay_low() -> None:
    front, image = HealthyContext(), healthy(2, 8)

    low = front.low(image)

    assert torch.allclose(front.low(low), low, atol=1e-5)
    assert torch.allclose(front.low(image - low), torch.zeros_like(image), atol=1e-5)


# Two rounds (AutoDDPM)

TWO = Repainted(Chain(even_pairs(0.2, 0.0, 4), ddpm()), Doubtful(above=0.75), even_pairs(0.06, 0.0, 3), ddpm(), rounds=3)


def noise_knowing(clean: Tensor) -> Callable[..., Tensor]:
    """A network that answers with the noise between what it is shown and the clean image."""

    def noise(x_t: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = LINEAR.mixing(level, x_t)
        return (x_t - alpha * clean) / sigma

    return noise


@pytest.mark.parametrize("seed", SEEDS)
def test_the_second_round_paints_the_lesion_and_gives_healthy_tissue_back_as_it_was(seed: int) -> None:
    clean = healthy(4, 60 + seed)
    image, lesion = with_lesion(clean)

    found = list(TWO.stream(slices(image, {"noise": noise_knowing(clean)}, seed), Noised(), PredictedNoise()))

    away = nn.functional.max_pool2d(lesion.float(), 21, 1, 10) == 0
    assert len(TWO.levels) == 4 + 9
    assert [round(one.level, 3) for one in found] == [0.2, 0.15, 0.1, 0.05, 0.06, 0.04, 0.02]
    assert torch.allclose(found[-1].value[lesion], clean[lesion], atol=1e-3)
    assert torch.equal(found[-1].value[away], image[away])


@pytest.mark.parametrize("seed", SEEDS)
def test_two_rounds_keep_healthy_tissue_closer_than_one_where_the_network_is_poor(seed: int) -> None:
    clean = healthy(8, 70 + seed)
    image, lesion = with_lesion(clean)
    away = (nn.functional.max_pool2d(lesion.float(), 21, 1, 10) == 0) & (clean > -3.5)

    def poor(x_t: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = LINEAR.mixing(level, x_t)
        return (x_t - alpha * nn.functional.avg_pool2d(clean, 3, 1, 1)) / sigma

    found = list(TWO.stream(slices(image, {"noise": poor}, seed), Noised(), PredictedNoise()))
    first, second = found[3].value, found[-1].value

    assert float((second - clean).abs()[away].mean()) < 0.8 * float((first - clean).abs()[away].mean())


def test_a_step_back_up_has_the_signal_and_noise_of_its_level() -> None:
    clean = torch.ones(400, 1, 8, 8)
    work = slices(clean, {}, 1)
    x_s = Noised().corrupt(clean, 0.2, work)

    x_t = TWO._back(x_s, 0.2, 0.5, work.after(1))

    assert float(x_t.mean()) == pytest.approx(LINEAR.alpha(0.5), abs=0.02)
    assert float(x_t.std()) == pytest.approx(LINEAR.sigma(0.5), rel=0.02)


# From noise beside the slice (image-conditioned), and over a bridge


@pytest.mark.parametrize("name", ["image_conditioned", "bridge"])
def test_where_the_network_knows_the_healthy_slice_the_chain_ends_there(name: str) -> None:
    clean = healthy(3, 11)
    image, _ = with_lesion(clean)
    recipe = RECIPES[name]
    knows: dict[str, Callable[..., Tensor]] = {
        "noise": lambda given, level: noise_knowing(clean)(given[:, :1], level),
        "restorer": knowing(clean),
    }

    found = list(recipe.sampler.stream(slices(image, knows), recipe.corruptor, recipe.denoiser))

    assert torch.allclose(found[-1].value, clean, atol=1e-3)


@pytest.mark.parametrize("s", [0.75, 0.4, 0.05])
def test_every_step_of_a_bridge_has_the_mean_and_the_spread_of_the_level_that_is_told_next(s: float) -> None:
    bridge = Bridge(spread=0.8)
    clean, image = torch.zeros(600, 1, 8, 8), torch.full((600, 1, 8, 8), 2.0)
    work = slices(image, {}, 2)

    at_t = bridge.between(clean, image, 0.9, work)
    at_s = bridge.move(at_t, clean, 0.9, s, work.after(1))

    assert float(at_s.mean()) == pytest.approx(2.0 * s, abs=0.02)
    assert float(at_s.std()) == pytest.approx(0.8 * (s * (1 - s)) ** 0.5, rel=0.03)
    assert torch.equal(bridge.move(at_t, clean, 0.9, 0.0, work), clean)
    with pytest.raises(ValueError, match="walked down"):
        bridge.move(at_t, clean, 0.3, 0.5, work)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["bridge"])
def test_a_bridge_trained_for_seconds_takes_a_lesion_down_and_leaves_a_healthy_slice_alone(name: str, seed: int) -> None:
    recipe = RECIPES[name]
    networks = trained(recipe.training, seed, 80)
    clean = healthy(6, 40 + seed)
    sick, lesion = with_lesion(clean)

    with torch.no_grad():
        raw = {
            what: Residual()
            .score(
                slices(image, networks, seed),
                recipe.sampler.stream(slices(image, networks, seed), recipe.corruptor, recipe.denoiser),
            )
            .raw
            for what, image in (("sick", sick), ("well", clean))
        }

    inside = clean > -3.5
    assert float(raw["sick"][lesion].mean()) > 2 * float(raw["well"].abs()[inside].mean())


def test_random_numbers_of_a_training_step_come_from_its_generator_alone() -> None:
    draws = [from_generator(torch.Generator().manual_seed(4), 3).uniform(2) for _ in range(2)]

    assert torch.equal(*draws)
