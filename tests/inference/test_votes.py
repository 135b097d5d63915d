"""Votes: STAPLE finds the truth and who tells it, bit by bit; levels are judged one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.samplers import Estimate
from inference.slices import repeated
from inference.votes import LevelVote, Staple
from tests.inference.heads import shown

SENSITIVITY, SPECIFICITY = (0.95, 0.9, 0.85, 0.8, 0.7), (0.99, 0.98, 0.97, 0.75, 0.7)


def truth() -> Tensor:
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 10:30, 12:34] = 1
    mask[1, 0, 30:52, 35:50] = 1
    return mask


def votes(seed: int) -> list[Tensor]:
    """Masks of five readers who see this much of the truth and mark this much of the rest."""
    generator = torch.Generator().manual_seed(seed)
    tosses = [torch.rand(2, 1, 64, 64, generator=generator) for _ in SENSITIVITY]
    odds = [truth() * p + (1 - truth()) * (1 - q) for p, q in zip(SENSITIVITY, SPECIFICITY, strict=True)]
    return [2.0 * (toss < odd) - 1 for toss, odd in zip(tosses, odds, strict=True)]


def dice(mask: Tensor) -> float:
    return float(2 * (mask * truth()).sum() / (mask.sum() + truth().sum()))


@pytest.mark.parametrize("seed", range(4))
def test_fused_votes_beat_every_single_one_and_their_mean(seed: int) -> None:
    masks = votes(seed)

    scored = Staple().score(shown(truth()), (Estimate(0.0, mask) for mask in masks))

    single = [dice((mask > 0).float()) for mask in masks]
    mean = dice((torch.stack(masks).mean(0) > 0).float())
    assert dice((scored.raw > 0.5).float()) > max(single) + 0.03
    assert dice((scored.raw > 0.5).float()) > mean + 0.003
    assert scored.uncertainty is not None
    assert scored.healthy is None


def test_where_all_agree_they_are_believed() -> None:
    mask = 2 * truth() - 1

    raw = Staple().score(shown(truth()), [Estimate(0.0, mask)] * 3).raw

    assert torch.equal((raw > 0.99).float(), truth())
    assert float(raw[truth() == 0].max()) < 0.01


def test_a_slice_in_which_nobody_marks_anything_stays_empty() -> None:
    raw = Staple().score(shown(truth()), [Estimate(0.0, -torch.ones(2, 1, 64, 64))] * 3).raw

    assert not raw.any()


def test_a_slice_is_fused_by_itself() -> None:
    masks = votes(1)

    both = Staple().score(shown(truth()), [Estimate(0.0, mask) for mask in masks]).raw
    alone = Staple().score(shown(truth()[1:]), [Estimate(0.0, mask[1:]) for mask in masks]).raw

    assert torch.equal(both[1:], alone)


def test_outside_the_brain_nobody_is_asked() -> None:
    image = truth() - 4.0  # -4 is no brain
    masks = [torch.ones(2, 1, 64, 64)] * 2

    raw = Staple().score(shown(image), [Estimate(0.0, mask) for mask in masks]).raw

    assert not raw[truth() == 0].any()


@pytest.mark.parametrize("count", [0, 32])
def test_as_many_masks_as_there_are_bits_can_be_fused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 31"):
        Staple().score(shown(truth()), [Estimate(0.0, truth())] * count)


def test_the_levels_vote_and_their_spread_is_the_doubt() -> None:
    image = torch.zeros(1, 1, 4, 4)

    def heads(features: Tensor) -> Tensor:
        return repeated(features.movedim(1, 0), 2).movedim(0, 1)  # two classifiers that repeat the feature

    stream = [Estimate(0.1, torch.logit(torch.full((1, 1, 4, 4), odds))) for odds in (0.2, 0.6)]
    scored = LevelVote().score(shown(image, heads=heads), stream)

    assert torch.allclose(scored.raw, torch.full((1, 1, 4, 4), 0.4))
    assert scored.uncertainty is not None
    assert torch.allclose(scored.uncertainty, torch.full((1, 1, 4, 4), 0.4 / 2**0.5))
