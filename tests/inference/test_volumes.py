"""Volumes: a network sees all slices together, a crop knows where it lies, and slices without brain are no gap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.cost import Meter
from inference.denoisers import CleanImage, PredictedNoise
from inference.material import draw_study
from inference.networks import build
from inference.objectives import Examples
from inference.phantom.banks import Bank, join_banks, part_of
from inference.recipes import RECIPES
from inference.recipes.patchddm import VOLUME_UNET
from inference.recipes.recipe import GridPlan, Unit
from inference.restoration import Setting, restore
from inference.volumes import AsVolume, PredictNoiseInCrops, the_image_and_place
from tests.inference.heads import shown

CPU = torch.device("cpu")


def numbered(depth: int = 5) -> Tensor:
    """Slices that hold their own number everywhere."""
    return torch.arange(float(depth))[:, None, None, None].expand(depth, 1, 6, 4).contiguous()


def test_a_network_sees_the_slices_of_a_volume_together_and_in_order() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(given: Tensor, level: Tensor) -> Tensor:
        seen.append((given, level))
        return given

    slices = shown(numbered(), restorer=network)
    answer = AsVolume(CleanImage()).estimate(slices.image, 0.5, slices)

    given, level = seen[0]
    assert given.shape == (1, 1, 5, 6, 4)
    assert given[0, 0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert level.tolist() == [0.5]
    assert torch.equal(answer, slices.image)


def test_draws_of_a_volume_are_volumes_each() -> None:
    shapes: list[torch.Size] = []

    def network(given: Tensor, level: Tensor) -> Tensor:
        shapes.append(given.shape)
        return given + level[:, None, None, None, None]

    slices = shown(numbered(), restorer=network).of_draws((0, 1, 2))
    level = torch.tensor([0.1, 0.2, 0.3]).repeat_interleave(5)
    answer = AsVolume(CleanImage()).estimate(slices.image, level, slices)

    assert shapes == [(3, 1, 5, 6, 4)]
    assert torch.allclose(answer, slices.image + level[:, None, None, None])


def test_a_place_runs_from_rim_to_rim_of_the_brain_on_any_grid() -> None:
    image = torch.full((7, 1, 20, 16), -4.0)
    image[1:6, :, 4:15, 3:8] = 0.0

    place = the_image_and_place(shown(image))
    wider = the_image_and_place(shown(nn.functional.pad(image, (4, 4, 0, 6), value=-4.0)))

    assert torch.equal(place[:, :1], image)
    assert place[:, 1, 0, 0].tolist() == pytest.approx([-1.5, -1, -0.5, 0, 0.5, 1, 1.5])
    assert place[0, 2, 4:15, 0].tolist() == pytest.approx(np.linspace(-1, 1, 11).tolist())
    assert place[0, 3, 0, 3:8].tolist() == pytest.approx(np.linspace(-1, 1, 5).tolist())
    assert torch.equal(wider[:, :, :20, 4:20], place)


class Deep(nn.Module):
    """Adds to each voxel the sum of its column through the slices."""

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        """Of the first channel."""
        return given[:, :1].sum(2, keepdim=True).expand_as(given[:, :1])


def test_a_recipe_of_volumes_is_given_every_slice_between_the_first_and_the_last_with_brain() -> None:
    images = np.ones((9, 16, 16), dtype=np.float32) * np.arange(9, dtype=np.float32)[:, None, None]
    brain = np.zeros(images.shape, dtype=bool)
    brain[[2, 3, 6]] = True
    recipe = replace(RECIPES["dae"], unit=Unit.VOLUME, denoiser=AsVolume(CleanImage()))
    network, known = Deep(), dict[object, int]()

    with Meter({"restorer": network}, CPU, known) as meter:  # type: ignore[arg-type]
        maps = restore(images, brain, recipe, {"restorer": network}, Setting(CPU, batch=2, multiple=8))

    assert maps.healthy is not None
    assert (maps.healthy[2:7] == 2 + 3 + 4 + 5 + 6).all()
    assert np.array_equal(maps.healthy[[0, 1, 7, 8]], images[[0, 1, 7, 8]])
    assert meter.cost().network_evaluations == 5  # one pass, counted by its slices


def test_a_volume_without_brain_is_not_shown() -> None:
    recipe = replace(RECIPES["dae"], unit=Unit.VOLUME, denoiser=AsVolume(CleanImage()))

    maps = restore(np.zeros((3, 8, 8), np.float32), np.zeros((3, 8, 8), bool), recipe, {}, Setting(CPU))

    assert not maps.raw.any()


def studies() -> Bank:
    """Two studies of 4 and 6 slices, whose images hold 1 and 2 and the brain is everywhere."""
    banks = []
    for value, count in ((1, 4), (2, 6)):
        ones = np.full((count, 16, 16), 255, dtype=np.uint8)
        banks.append(Bank(np.full((count, 16, 16), value, np.float16), ones, ones, ones, (count,)))
    joined = join_banks(banks)
    assert joined is not None
    return joined


def test_a_study_is_drawn_whole_and_alone() -> None:
    drawn = [draw_study(studies(), torch.Generator().manual_seed(n)).image for n in range(12)]

    assert {len(one) for one in drawn} == {4, 6}
    assert all(float(one.max() - one.min()) == 0.0 for one in drawn)  # one study, one look
    assert len({float(one[0, 0, 0, 0]) for one in drawn}) > 2  # looks differ from draw to draw


def test_slices_without_neighbours_are_no_volume() -> None:
    with pytest.raises(ValueError, match="no neighbours"):
        draw_study(part_of(studies(), np.array([0, 5])), torch.Generator())


class Remembers(nn.Module):
    """Answers 0 and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, given: Tensor, level: Tensor) -> Tensor:
        """Nothing."""
        self.given.append(given)
        return torch.zeros_like(given[:, :1])


def test_crops_know_where_in_the_brain_they_lie() -> None:
    number = torch.arange(12.0)[:, None, None, None].expand(12, 1, 32, 24)
    image = number + 0.01 * torch.arange(32.0)[:, None]
    examples = Examples(image, torch.ones_like(image), image, torch.zeros_like(image))
    network = Remembers()
    loss = PredictNoiseInCrops((6, 16, 12), the_image_and_place, crops=5).begin(GridPlan(), 0)

    value = loss({"noise": network}, examples, torch.Generator().manual_seed(2))

    (given,) = network.given
    assert given.shape == (5, 5, 6, 16, 12)
    slice_number = (given[:, 2] + 1) * 11 / 2
    row = (given[:, 3] + 1) * 31 / 2
    assert torch.allclose(given[:, 1], slice_number + 0.01 * row, atol=1e-4)
    assert len({tuple(one[2:5, 0, 0, 0].tolist()) for one in given}) > 1
    assert float(value) == pytest.approx(1.0, abs=0.1)  # the mean square of the noise itself


@pytest.mark.parametrize("shape", [(5, 16, 24), (12, 32, 16), (1, 16, 16)])
def test_the_volume_network_takes_any_number_of_slices(shape: tuple[int, int, int]) -> None:
    network = build("volume_unet", VOLUME_UNET)

    answer = network(torch.zeros(2, 5, *shape), torch.tensor([0.1, 0.9]))

    assert answer.shape == (2, 1, *shape)


@pytest.mark.slow
def test_the_volume_network_learns_in_half_precision_too() -> None:
    """A bfloat16 convolution of 2 x 4 x 4 voxels has no finite gradient in torch 2.13 on a CPU that multiplies them."""
    torch.manual_seed(0)
    network = build("volume_unet", VOLUME_UNET)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(8):
        given = torch.randn(2, 5, 7, 32, 32, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (network(given, torch.tensor([0.3, 0.6])) - given[:, :1]).square().mean()
        loss.backward()
        optimiser.step()

    assert all(torch.isfinite(one).all() for one in network.parameters())


def test_the_recipe_of_volumes_wraps_one_of_slices() -> None:
    recipe = RECIPES["patchddm"]

    assert recipe.unit is Unit.VOLUME
    assert isinstance(recipe.denoiser, AsVolume)
    assert isinstance(recipe.denoiser.denoiser, PredictedNoise)
