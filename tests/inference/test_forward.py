"""The forward process alone: it stops where guidance pulls hardest, and marks as much as the pull says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from inference.corruptors import Untouched
from inference.denoisers import ClassifierFree, GuidedAndNot, PredictedNoise
from inference.forward import ForwardResidual, unguided
from inference.samplers import Chain, Ddim, Estimate, even_pairs
from tests.inference.heads import shown
from tests.inference.test_denoisers import by_class


def with_lesion(height: float = 4.0) -> Tensor:
    """A slice of 20 x 20 whose 4 x 4 middle departs."""
    image = torch.zeros(1, 1, 20, 20)
    image[..., 8:12, 8:12] = height
    return image


def stream(image: Tensor, removed: tuple[float, ...], blur: tuple[float, ...] = ()) -> Iterator[Estimate]:
    """Estimates that without guidance keep the image and with it lose this share of the lesion; `blur` is added to both."""
    for place, share in enumerate(removed):
        off = blur[place] if blur else 0.0
        yield Estimate(0.1 * (place + 1), torch.cat([(1 - share) * image + off, image + off], dim=1))


def test_the_climb_goes_by_the_estimate_without_guidance() -> None:
    value = torch.cat([torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)], dim=1)

    assert torch.equal(unguided(value, shown(value[:, :1]), 0.3), torch.ones(2, 1, 4, 4))


def test_both_estimates_are_those_of_their_own_questions() -> None:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    slices = shown(x, noise=by_class)
    guidance = ClassifierFree(towards=0, null=2, weight=3.0)

    both = GuidedAndNot(guidance).estimate(x, 0.3, slices)

    assert torch.equal(both[:, :1], guidance.estimate(x, 0.3, slices))
    assert torch.equal(both[:, 1:], PredictedNoise(label=2).estimate(x, 0.3, slices))


def test_the_map_is_the_mean_up_to_the_level_where_the_estimates_part_most() -> None:
    image = with_lesion()

    scored = ForwardResidual(full=1.0).score(shown(image), stream(image, (0.0, 0.5, 1.0, 0.25)))

    # squared residuals of the lesion: 0, 4, 16 up to the third level, the fourth is left out
    assert float(scored.raw[0, 0, 10, 10]) == pytest.approx(20 / 3)
    assert float(scored.raw[0, 0, 2, 2]) == 0.0
    assert scored.healthy is not None
    assert not scored.healthy.any()


def test_slices_stop_each_at_a_level_of_its_own() -> None:
    image = torch.cat([with_lesion(), with_lesion(-3.0)])
    early, late = (list(stream(image[k : k + 1], shares)) for k, shares in enumerate([(1.0, 0.1, 0.1), (0.1, 0.1, 1.0)]))
    together = [Estimate(a.level, torch.cat([a.value, b.value])) for a, b in zip(early, late, strict=True)]

    raw = ForwardResidual(full=1.0).score(shown(image), together).raw

    assert float(raw[0, 0, 10, 10]) == pytest.approx(16.0)
    assert float(raw[1, 0, 10, 10]) == pytest.approx(-(0.09 + 0.09 + 9) / 3)


def test_the_further_the_estimates_part_the_more_of_the_brain_may_be_marked() -> None:
    ramp = torch.linspace(0.01, 1, 400).reshape(1, 1, 20, 20)  # a residual for every rank
    scorer = ForwardResidual(full=0.5, fewest=0.02, most=0.10)

    marked = [int((scorer.score(shown(image), stream(image, (1.0,))).raw != 0).sum()) for image in (0.05 * ramp, 2.0 * ramp)]

    assert marked[0] == pytest.approx(0.02 * 400, abs=1)
    assert marked[1] == pytest.approx(0.10 * 400, abs=1)


def test_a_slice_whose_error_curves_are_alike_has_no_map() -> None:
    image = with_lesion()
    scorer = ForwardResidual(full=1.0, alike=0.95)

    same = scorer.score(shown(image), stream(image, (0.01, 0.01, 0.01), blur=(1.0, 2.0, 3.0)))
    other = scorer.score(shown(image), stream(image, (1.0, 0.5, 0.0), blur=(0.1, 0.5, 1.0)))

    assert not same.raw.any()
    assert other.raw.any()


def test_a_climb_with_guidance_asks_each_level_once_and_ends_below_its_top() -> None:
    levels: list[float] = []

    def network(image: Tensor, level: Tensor, label: Tensor) -> Tensor:
        levels.append(float(level[0]))
        return 0.1 * image

    image = with_lesion()
    chain = Chain(even_pairs(0.001, 0.6, 4), Ddim(), blend=unguided)
    ends = list(chain.stream(shown(image, noise=network), Untouched(), GuidedAndNot(ClassifierFree(0, 2, 3.0))))

    assert levels == pytest.approx([0.001, 0.15075, 0.3005, 0.45025])
    assert all(one.value.shape == (1, 2, 20, 20) for one in ends)
