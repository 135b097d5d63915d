"""Blends let the image back where it agrees with the estimate, by a fixed measure, and keep the estimate elsewhere."""

from __future__ import annotations

import torch

from inference.blends import Harmonised, closed, smoothed
from tests.inference.heads import shown

BLEND = Harmonised(at=(0.3,), full=3.0, sigma=1.0, closing=3)


def with_lesion(height: float) -> torch.Tensor:
    image = torch.zeros(1, 1, 40, 40)
    image[..., 15:25, 15:25] = height
    return image


def test_healthy_tissue_comes_back_and_a_lesion_does_not() -> None:
    slightly_off = torch.full((1, 1, 40, 40), 0.2)

    blended = BLEND(slightly_off, shown(with_lesion(6.0)), 0.3)

    assert float(blended[..., :8, :8].abs().max()) < 0.05  # nearer to the image's 0 than the estimate's 0.2
    assert torch.allclose(blended[..., 18:22, 18:22], slightly_off[..., 18:22, 18:22])


def test_at_other_levels_the_estimate_stays() -> None:
    estimate = torch.full((1, 1, 40, 40), 0.2)

    assert BLEND(estimate, shown(with_lesion(6.0)), 0.29) is estimate


def test_a_faint_departure_is_not_stretched_to_a_full_one() -> None:
    """The map is never divided by its own maximum: a slice with half the departure keeps half of the estimate."""
    estimate = torch.zeros(1, 1, 40, 40)

    faint, strong = (float(BLEND.share(estimate, shown(with_lesion(height))).max()) for height in (0.75, 1.5))

    assert strong == 2 * faint
    assert strong < 0.6


def test_closing_fills_gaps_narrower_than_its_square_and_no_wider() -> None:
    values = torch.ones(1, 1, 20, 20)
    values[..., 5, :] = 0
    values[..., 10:16, :] = 0

    filled = closed(values, 5)

    assert float(filled[..., 5, 10]) == 1.0
    assert float(filled[..., 12, 10]) == 0.0


def test_smoothing_keeps_what_is_even() -> None:
    assert torch.allclose(smoothed(torch.full((2, 1, 9, 9), 3.0), 2.0), torch.full((2, 1, 9, 9), 3.0))
