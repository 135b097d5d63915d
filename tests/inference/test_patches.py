"""Boxes: one at a time is corrupted, every pixel is asked for once, and what surrounds a box is the image itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.corruptors import NoiseAlone, Noised
from inference.patches import Boxed, Stitched
from tests.inference.heads import Knows, shown

IMAGE = torch.randn(3, 1, 21, 30, generator=torch.Generator().manual_seed(0))


def test_every_pixel_lies_in_exactly_one_box_of_the_grid() -> None:
    boxes = Stitched(0.5, rows=3, columns=2).boxes(IMAGE)

    assert boxes.shape == (6, 1, 21, 30)
    assert torch.equal(boxes.sum(0), torch.ones(1, 21, 30, dtype=torch.long))
    assert boxes.flatten(1).sum(1).tolist() == [7 * 15] * 6


def test_an_oracle_gets_the_clean_image_back_and_sees_noise_in_one_box_only() -> None:
    oracle, slices, sampler = Knows(), shown(IMAGE), Stitched(0.5)

    class Remembers(Knows):
        def estimate(self, x_t: Tensor, level: float | Tensor, slices: object) -> Tensor:
            oracle.asked += [(float(level), one) for one in x_t]
            return IMAGE.repeat(len(x_t) // len(IMAGE), 1, 1, 1)

    (only,) = sampler.stream(slices, NoiseAlone(), Remembers())

    assert torch.equal(only.value, IMAGE)
    assert [level for level, _ in oracle.asked] == [0.5] * 12
    boxes = sampler.boxes(IMAGE)
    for number, (_, seen) in enumerate(oracle.asked):
        box, clean = boxes[number // 3], IMAGE[number % 3]
        assert torch.equal(seen[~box], clean[~box])
        assert (seen[box] != clean[box]).all()


@pytest.mark.parametrize("most", [1, 3, 7, 32])
def test_how_many_boxes_are_asked_together_changes_nothing(most: int) -> None:
    (one,) = Stitched(0.5).stream(shown(IMAGE, most=most), Noised(), Knows())
    (other,) = Stitched(0.5).stream(shown(IMAGE), Noised(), Knows())

    assert torch.equal(one.value, other.value)


def test_a_box_of_training_has_its_size_and_lies_anywhere_in_the_slice() -> None:
    image = torch.zeros(1500, 1, 20, 16)
    slices = shown(image)

    box = Boxed(NoiseAlone()).box(image, slices)
    corrupted = Boxed(NoiseAlone()).corrupt(image, 0.5, slices)

    assert torch.equal(corrupted != 0, box)
    assert (box.flatten(1).sum(1) == 10 * 8).all()
    assert box.any(0).all()  # a corner is reached from 1 of 99 places
    assert len({tuple(one.flatten().tolist()) for one in box}) == 11 * 9
