"""Training resumes to the same weights after a kill, learns what it is shown, and ends in a bundle that localizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inference.bundle import load_bundle
from inference.data import Arrays, is_validation
from inference.fit import FitPlan, fit, mean_weights, rate_at
from inference.networks import RESTORER, Restorer
from inference.objectives import outline_loss
from inference.phantom import synthetic_head
from inference.phantom.banks import Bank
from inference.phantom.lesions import Corruption
from inference.train import healthy_studies, train
from inference.training import RECIPES, BrainLoss, RestoreLoss, part, take_over

pytestmark = pytest.mark.feature("R6")


class Killed(Exception):
    """Stands for the end of the process."""


def noisy_line(network: nn.Module, g: torch.Generator) -> Tensor:
    """Fits y = 3 x - 1 on points drawn by the step's own generator."""
    x = torch.randn(16, 1, generator=g)
    return torch.mean((network(x) - (3 * x - 1)) ** 2)


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    plan = FitPlan(steps=40, learning_rate=0.1, seed=3, warm_up=5, checkpoint_every_s=0.0)
    calls = 0

    def until_killed(network: nn.Module, g: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 18:
            raise Killed
        return noisy_line(network, g)

    whole, broken = line(), line()
    fit(whole, noisy_line, plan, tmp_path / "whole.ckpt")
    with pytest.raises(Killed):
        fit(broken, until_killed, plan, tmp_path / "broken.ckpt")
    resumed = line()
    fit(resumed, noisy_line, plan, tmp_path / "broken.ckpt")

    assert mean_weights(tmp_path / "broken.ckpt")[0] == 40
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_fitting_finds_the_line(tmp_path: Path) -> None:
    network = line()

    fit(network, noisy_line, FitPlan(steps=300, learning_rate=0.05, seed=1, warm_up=5, averaging=0.9), tmp_path / "c.ckpt")

    assert [p.item() for p in network.parameters()] == pytest.approx([3.0, -1.0], abs=0.05)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    plan = FitPlan(steps=1000, learning_rate=1.0, seed=0, warm_up=100, cool_down=0.3)

    assert rate_at(plan, 0) == pytest.approx(0.01)
    assert rate_at(plan, 400) == 1.0
    assert rate_at(plan, 850) == pytest.approx(0.5)
    assert rate_at(plan, 999) < 0.01


def tiny_bank(shape: tuple[int, int], low: float) -> Bank:
    rng = np.random.default_rng(0)
    brain = np.zeros((6, *shape), dtype=np.uint8)
    brain[:, 8:-8, 12:-12] = 255
    image = np.where(brain > 0, rng.normal(0, 0.2, brain.shape), low).astype(np.float16)
    return Bank(image, brain, brain)


def test_the_same_step_has_the_same_loss() -> None:
    recipe = RECIPES["smoke"]
    restore = RestoreLoss(tiny_bank(recipe.restore_shape, -4.0), tiny_bank(recipe.restore_shape, -4.0), recipe)
    brain = BrainLoss(tiny_bank(recipe.brain_shape, 0.0), recipe)
    identity = Identity()

    losses = [restore(identity, torch.Generator().manual_seed(5)).item() for _ in range(2)]
    others = [brain(Brightness(), torch.Generator().manual_seed(5)).item() for _ in range(2)]

    assert losses[0] == losses[1] > 0
    assert others[0] == others[1] > 0


class Identity(nn.Module):
    """Restores nothing."""

    def forward(self, image: Tensor, severity: Tensor) -> Tensor:
        del severity
        return image


class Brightness(nn.Module):
    """Takes what is bright for brain."""

    def forward(self, image: Tensor) -> Tensor:
        return image - 0.5


def outlined(departure: float) -> Corruption:
    """A slice of which the left half departs by so much from its healthy self."""
    target, opacity = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    opacity[..., :4] = 1
    return Corruption(target + departure * opacity, target, opacity, opacity)


def test_the_outline_loss_falls_as_the_outline_is_found() -> None:
    shown, brain = outlined(2.0), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    right = 20 * (shown.opacity - 0.5)

    assert outline_loss(right, shown, brain) < 1e-3
    assert outline_loss(torch.zeros_like(right), shown, brain) > 0.5
    assert outline_loss(-right, shown, brain) > 5


def test_an_anomaly_too_faint_to_see_teaches_no_outline() -> None:
    shown, brain = outlined(0.1), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    nothing = torch.full((1, 1, 8, 8), -20.0)

    assert outline_loss(nothing, shown, brain) < 1e-3
    assert outline_loss(nothing, outlined(2.0), brain) > 1


def test_the_second_phase_starts_where_the_first_ended() -> None:
    torch.manual_seed(0)
    alone, both = Restorer({**RESTORER, "evidence": 0}).eval(), Restorer(RESTORER).eval()
    image, severity = torch.randn(1, 1, 32, 32), torch.full((1,), 0.5)
    with torch.no_grad():
        alone.unet.out[-1].conv.weight.normal_(std=0.1)  # it begins at nothing, which any network agrees with

    take_over(both, alone.state_dict())

    with torch.no_grad():
        answer = both(image, severity)
        assert answer.shape == (1, 2, 32, 32)
        assert torch.allclose(answer[:, :1], alone(image, severity), atol=1e-5)


def test_a_fifth_of_the_real_slices_is_kept_out_of_training() -> None:
    bank = Bank(np.arange(10, dtype=np.float16)[:, None, None], *(np.zeros((10, 1, 1), np.uint8),) * 2)

    assert part(bank, training=True).image.ravel().tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert part(bank, training=False).image.ravel().tolist() == [4, 9]


def studies(count: int) -> Arrays:
    heads = [synthetic_head(seed=50 + n, shape=(18, 72, 64), spacing_mm=(8.0, 3.2, 3.2), lesions=0) for n in range(count)]
    return Arrays("own heads", (8.0, 3.2, 3.2), [(f"patient {n}", head.image, None) for n, head in enumerate(heads)])


class EverythingBright(nn.Module):
    """A brain network for heads that are all brain."""

    spacing_mm, grid_spacing_mm, multiple = 4.0, 2.5, 32

    def forward(self, image: Tensor) -> Tensor:
        return 40 * (image - 0.3)


def test_patients_are_split_and_their_slices_standardised() -> None:
    recipe = RECIPES["smoke"]
    source = studies(3)

    healthy = healthy_studies(recipe, [source], EverythingBright())

    names = [f"patient {n}" for n in range(3)]
    assert healthy.patients == {"own heads": 3}
    assert (healthy.validation is not None) == any(map(is_validation, names))
    assert healthy.training is not None
    assert healthy.training.image.shape[1:] == recipe.restore_shape
    inside = healthy.training.image[healthy.training.brain > 127].astype(np.float32)
    assert abs(np.median(inside)) < 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_training_ends_in_a_bundle_and_a_second_call_in_the_same_one(tmp_path: Path) -> None:
    recipe = RECIPES["smoke"]

    first = train(recipe, [studies(2)], tmp_path / "bundle", tmp_path / "work")
    again = train(recipe, [studies(2)], tmp_path / "again", tmp_path / "work2")

    bundle = load_bundle(tmp_path / "bundle", device="cpu")
    assert bundle.card.training["restore_steps"] == recipe.restore_steps
    assert [source.name for source in first.sources][-1] == "own heads"
    assert {name: first.files[name] for name in first.files if name.endswith(".safetensors")} == {
        name: again.files[name] for name in again.files if name.endswith(".safetensors")
    }
    assert set(first.calibration) == set(first.recipes)
