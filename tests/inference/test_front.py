"""A front: the sampler behind it sees the changed slice, the scorer the one that came; the bank and the context vector."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.contexts import ContextBank
from inference.corruptors import InTurn, Noised, Untouched
from inference.film import ContextRestorer
from inference.front import InFront, RecallContexts, Recalled
from inference.objectives import PredictNoise, RestoreImage
from inference.recipes import RECIPES
from inference.recipes.frequency_context import BANK, behind_contexts
from inference.samplers import OneShot
from inference.scorers import Residual
from tests.inference.heads import Knows, restless, shown

SMALL = {**BANK, "rows": 32, "columns": 24, "entries": 6}


def waves(shape: tuple[int, int], cycles_per_pixel: float) -> Tensor:
    """A wave along the rows."""
    return torch.sin(2 * torch.pi * cycles_per_pixel * torch.arange(shape[0]))[None, None, :, None].expand(1, 1, *shape)


def test_the_sampler_sees_what_the_front_leaves_and_the_scorer_what_came() -> None:
    image = torch.ones(2, 1, 8, 8)
    slices = shown(image, contexts=lambda x, level: x - 3)
    sampler = InFront(Recalled(), OneShot(at=(0.5,)))

    scored = Residual().score(slices, sampler.stream(slices, Untouched(), Knows()))

    assert scored.healthy is not None
    assert torch.equal(scored.healthy, image - 3)
    assert torch.equal(scored.raw, torch.full_like(image, 3.0))
    assert sampler.levels == (0.5,)


def test_low_frequencies_are_told_from_high_ones_whatever_the_size_of_the_slice() -> None:
    bank = ContextBank(SMALL)
    for shape in ((40, 40), (80, 64)):
        slow, fast = waves(shape, 0.05), waves(shape, 0.2)

        low = bank.low(slow + fast)

        assert torch.allclose(low, slow, atol=0.02)


def test_high_frequencies_pass_the_bank_untouched_and_low_ones_are_those_of_a_context() -> None:
    torch.manual_seed(0)
    bank = ContextBank(SMALL)
    with torch.no_grad():
        bank.contexts.fill_(2.0)
        flat, wavy = torch.zeros(1, 1, 32, 24), waves((32, 24), 0.25)

        recalled = bank(flat + wavy, torch.zeros(1))

    assert torch.allclose(recalled, 2.0 + wavy, atol=0.02)


def test_beyond_the_grid_of_the_bank_nothing_changes_but_for_the_soft_rim() -> None:
    torch.manual_seed(0)
    bank = restless(ContextBank(SMALL), 1)
    image = torch.randn(2, 1, 96, 96)

    with torch.no_grad():
        change = (bank(image, torch.zeros(2)) - image).abs()

    assert float(change[..., :32, 36:60].max()) == 0.0
    assert float(change[..., 32:64, 36:60].mean()) > 0.1


def test_a_bank_fills_with_the_first_slices_and_recalls_each_of_them_rather_than_their_mean() -> None:
    random = torch.Generator().manual_seed(0)
    images = 4 * torch.randn(6, 1, 1, 1, generator=random) + waves((32, 24), 0.04) * torch.randn(6, 1, 1, 1, generator=random)
    bank = ContextBank(SMALL)

    bank.fill(images[:4])
    half_empty = int(bank.empty().sum())
    bank.fill(images)
    with torch.no_grad():
        recalled = bank(images[:4], torch.zeros(4))

    assert half_empty == 2
    assert not bank.empty().any()
    assert float((recalled - images[:4]).abs().mean()) < 0.2 * float((images[:4] - images[:4].mean(0)).abs().mean())


def test_any_recipe_can_be_had_behind_the_bank() -> None:
    dae, noise = behind_contexts(RECIPES["dae"]), behind_contexts(RECIPES["thor"])

    assert (dae.name, noise.name) == ("fdp_dae", "fdp_thor")
    assert noise.networks == ("contexts", "noise")
    assert isinstance(dae.training.stages[0].objective, RecallContexts)
    restores, predicts = dae.training.stages[1].objective, noise.training.stages[1].objective
    assert isinstance(restores, RestoreImage)
    assert isinstance(restores.corruptor, InTurn)
    assert isinstance(predicts, PredictNoise)
    assert predicts.corruptor == Noised()


def test_a_context_vector_scales_and_shifts_what_the_restorer_answers() -> None:
    torch.manual_seed(0)
    arguments = {"stem": 2, "multiple": 8, "channels": [8, 8, 8], "context": 4, "res_blocks": 1, "norm_groups": 4}
    network = restless(ContextRestorer(arguments), 1)
    noised, dark, bright = torch.randn(1, 1, 16, 16), torch.full((1, 1, 16, 16), -2.0), torch.full((1, 1, 16, 16), 2.0)

    with torch.no_grad():
        one, other = (network(torch.cat([noised, clean], 1), torch.tensor([0.5])) for clean in (dark, bright))
        again = network(torch.cat([noised, bright], 1), torch.tensor([0.5]))

    assert one.shape == noised.shape
    assert torch.equal(other, again)
    assert float((one - other).abs().mean()) > 1e-5
