"""How opinions on the same pixels become one: of classifiers that see one level each, and of sampled masks.

Opinions are taken one at a time; what is kept does not grow with their number but for one bit for each pixel and mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.samplers import Estimate
from inference.scorers import Running, Scored
from inference.slices import Slices

MOST_VOTERS = 31
"""Masks whose bits fit one int32."""


@dataclass(frozen=True, slots=True)
class LevelVote:
    """For estimates that are features: the same pixel classifiers judge each level, their mean counts (arXiv 2311.07421)."""

    network: str = "heads"

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The mean probability over levels and classifiers, no healthy estimate, and the deviation over the levels."""
        opinions = Running()
        for _, features, _ in stream:
            opinions.add(torch.sigmoid(slices.networks[self.network](features)).mean(1, keepdim=True))
        return Scored(opinions.mean() * slices.brain, None, opinions.deviation())


@dataclass(frozen=True, slots=True)
class Staple:
    """For estimates that are masks, -1 outside and 1 inside: the truth that best explains them all (STAPLE).

    Each mask is a vote with an unknown sensitivity and specificity, which are found for each slice together with the odds of
    every pixel (Warfield, Zou and Wells 2004, IEEE TMI 23(7), eq. 9 to 18; prior: the mean vote of the slice).
    """

    rounds: int = 15

    def score(self, slices: Slices, stream: Iterable[Estimate]) -> Scored:
        """The probability of being lesion, no healthy estimate, and the deviation of the masks."""
        packed, shares, count = torch.zeros_like(slices.image, dtype=torch.int32), Running(), 0
        for _, value, _ in stream:
            packed |= (value > 0).int() << count
            shares.add(((value + 1) / 2).clamp(0, 1))
            count += 1
        if not 1 <= count <= MOST_VOTERS:
            raise ValueError(f"{count} masks to fuse, expected 1 to {MOST_VOTERS}")
        return Scored(staple(packed, count, slices.brain, self.rounds) * slices.brain, None, shares.deviation())


def staple(packed: Tensor, count: int, brain: Tensor, rounds: int) -> Tensor:
    """The probability of each pixel being marked in truth, given bit k of packed[batch, 1, row, column] as the vote of mask k."""
    size = brain.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)

    def share(values: Tensor) -> Tensor:
        return (values * brain).sum(dim=(1, 2, 3), keepdim=True)

    votes = [((packed >> voter) & 1).to(brain) for voter in range(count)]
    truth = torch.stack(votes).mean(0)
    prior = share(truth) / size
    for _ in range(rounds):
        odds = torch.logit(prior, eps=1e-6).expand_as(brain)
        inside, outside = share(truth).clamp_min(1e-6), share(1 - truth).clamp_min(1e-6)
        for vote in votes:
            sensitivity = (share(vote * truth) / inside).clamp(_LEAST, 1 - _LEAST)
            specificity = (share((1 - vote) * (1 - truth)) / outside).clamp(_LEAST, 1 - _LEAST)
            yes, no = (sensitivity / (1 - specificity)).log(), ((1 - sensitivity) / specificity).log()
            odds = odds + torch.where(vote > 0, yes, no)
        truth = torch.sigmoid(odds) * (prior > 0)
    return truth


_LEAST = 1e-4  # no vote is taken for certain
