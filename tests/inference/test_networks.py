"""The two networks keep the shapes they promise, start as the identity, and refuse a broken configuration by name."""

from __future__ import annotations

import pytest
import torch

from inference.networks import BRAIN_NET, RESTORER, BrainNet, Restorer
from tests.inference.heads import TINY

pytestmark = pytest.mark.feature("R6")

TINY_BRAIN = {key.removeprefix("brain_"): value for key, value in TINY.items() if key.startswith("brain_")}


@pytest.mark.parametrize("shape", [(32, 48), (64, 32)], ids=str)
def test_an_untrained_restorer_is_the_identity(shape: tuple[int, int]) -> None:
    network = Restorer(TINY).eval()
    image = torch.randn(2, 1, *shape)

    with torch.no_grad():
        healthy = network(image, torch.tensor([0.1, 0.9]))

    assert torch.allclose(healthy, image, atol=1e-5)


def test_severity_changes_what_a_trained_restorer_says() -> None:
    torch.manual_seed(0)
    network = Restorer(TINY).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 1, 32, 32)

    with torch.no_grad():
        low, high = network(image, torch.tensor([0.1])), network(image, torch.tensor([0.9]))

    assert not torch.allclose(low, high, atol=1e-3)


def test_a_second_channel_is_seen_but_not_returned() -> None:
    network = Restorer({**TINY, "in_channels": 2}).eval()
    image = torch.randn(1, 2, 32, 32)

    with torch.no_grad():
        healthy = network(image, torch.tensor([0.5]))

    assert healthy.shape == (1, 1, 32, 32)
    assert torch.allclose(healthy, image[:, :1], atol=1e-5)


def test_the_brain_network_gives_one_logit_per_pixel_and_knows_its_grids() -> None:
    network = BrainNet(TINY_BRAIN).eval()

    with torch.no_grad():
        logits = network(torch.rand(3, 1, 64, 32))

    assert logits.shape == (3, 1, 64, 32)
    assert [getattr(network, name) for name in ("spacing_mm", "grid_spacing_mm", "multiple")] == [4.0, 2.0, 32]


def test_the_shipped_sizes_are_those_of_the_design() -> None:
    restorer, brain = Restorer(RESTORER), BrainNet(BRAIN_NET)

    assert sum(p.numel() for p in restorer.parameters()) == 3_683_816  # 3.7 M in the design's trials, and the outline
    assert sum(p.numel() for p in brain.parameters()) < 600_000


@pytest.mark.parametrize(
    ("change", "words"),
    [({"channels": 32}, "channels"), ({"stem": "two"}, "stem"), ({"channels": [8, "8"]}, "channels")],
    ids=str,
)
def test_a_broken_configuration_is_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Restorer({**TINY, **change})


def test_a_brain_network_without_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="grid_spacing_mm"):
        BrainNet({key: value for key, value in TINY_BRAIN.items() if key != "grid_spacing_mm"})
