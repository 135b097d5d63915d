"""Networks that make a mask beside an image: the filter weighs frequencies, and both encoders learn from the start."""

from __future__ import annotations

import pytest
import torch

from inference.conditioned import DynamicUnet, FrequencyFilter
from inference.networks import build
from inference.recipes.medsegdiff import DYNAMIC_UNET


def network() -> DynamicUnet:
    torch.manual_seed(1)
    built = build("dynamic_unet", DYNAMIC_UNET)
    assert isinstance(built, DynamicUnet)
    return built


@pytest.mark.parametrize("size", [(24, 20), (33, 31)])
def test_a_new_filter_changes_nothing(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))

    assert torch.allclose(FrequencyFilter(3)(x), x, atol=1e-5)


def test_a_filter_without_gain_at_high_frequencies_keeps_the_mean_and_loses_the_stripes() -> None:
    stripes = torch.ones(1, 1, 32, 32)
    stripes[..., ::2] = 3.0
    low = FrequencyFilter(1)
    with torch.no_grad():
        low.gain[..., low.gain.shape[3] // 2 :] = 0

    assert torch.allclose(low(stripes), torch.full_like(stripes, 2.0), atol=1e-4)


def test_the_answer_has_the_shape_of_the_mask_and_depends_on_the_image() -> None:
    unet, given = network(), torch.randn(2, 2, 32, 24, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(unet.unet.out[-1].conv.weight, std=0.1)  # MONAI's last layer starts at zero
    other = torch.cat([given[:, :1], given[:, 1:] + 1], dim=1)

    answer, changed = (unet(one, torch.tensor([0.2, 0.7])) for one in (given, other))

    assert answer.shape == (2, 1, 32, 24)
    assert not torch.allclose(answer, changed)


def test_every_part_learns_by_the_fourth_step() -> None:
    unet, given = network(), torch.randn(2, 2, 32, 24, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(unet.parameters(), lr=0.1)
    for _ in range(4):  # layers that MONAI starts at zero wake one after another
        optimiser.zero_grad()
        (unet(given, torch.tensor([0.2, 0.7])) - given[:, :1]).square().mean().backward()
        optimiser.step()

    silent = {name for name, one in unet.named_parameters() if one.grad is None or not one.grad.any()}
    assert not silent
