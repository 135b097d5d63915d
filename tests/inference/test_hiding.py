"""Hidden patches and frequencies: how much is hidden, and that what is not stays as it is."""

from __future__ import annotations

import torch

from inference.hiding import HiddenFrequencies, HiddenPatches
from tests.inference.heads import shown

IMAGE = 2 + torch.randn(64, 1, 48, 40, generator=torch.Generator().manual_seed(0))


def test_patches_are_whole_and_hide_from_nothing_to_the_most_that_was_asked() -> None:
    hidden = (HiddenPatches(size=8, most=0.5).corrupt(IMAGE, 0.3, shown(IMAGE)) == 0).float()

    cells = hidden.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).mean(-1)
    shares = cells.flatten(1).mean(1)
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    assert float(shares.min()) < 0.05
    assert 0.35 < float(shares.max()) <= 0.75
    assert 0.2 < float(shares.mean()) < 0.3  # half of the most, on average


def test_nothing_is_hidden_outside_the_brain() -> None:
    image = IMAGE.clone()
    image[..., :20] = -5.0

    corrupted = HiddenPatches(most=1.0).corrupt(image, 0.3, shown(image))

    assert torch.equal(corrupted[..., :20], image[..., :20])
    assert not torch.equal(corrupted, image)


def test_hidden_frequencies_are_gone_and_the_brightness_of_the_slice_stays() -> None:
    corrupted = HiddenFrequencies(most=0.9).corrupt(IMAGE, 0.3, shown(IMAGE))

    before, after = torch.fft.rfft2(IMAGE), torch.fft.rfft2(corrupted)
    gone, same = after.abs() < 1e-3, (after - before).abs() < 1e-2
    assert (gone | same).all()
    assert 0.2 < float(gone.float().mean()) < 0.7
    assert torch.allclose(corrupted.mean((2, 3)), IMAGE.mean((2, 3)), atol=1e-4)


def test_what_is_hidden_depends_on_the_slice_and_not_on_the_batch() -> None:
    for corruptor in (HiddenPatches(), HiddenFrequencies()):
        together = corruptor.corrupt(IMAGE, 0.5, shown(IMAGE))
        first = corruptor.corrupt(IMAGE[:1], 0.5, shown(IMAGE[:1]))

        assert torch.allclose(together[:1], first, atol=1e-5)
        alike = corruptor.corrupt(IMAGE[:1].repeat(2, 1, 1, 1), 0.5, shown(IMAGE[:2]))
        assert not torch.allclose(alike[0], alike[1], atol=1e-2)
