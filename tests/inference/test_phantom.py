"""Synthetic heads are heads: the right size, the right way round, the same every time, lesions where they say."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.phantom import SyntheticHead, synthetic_head
from inference.phantom.appearance import draw_any, draw_flair, paint
from inference.phantom.banks import BankPlan, brain_slice, healthy_slice, make_bank
from inference.phantom.fields import smooth_field
from inference.phantom.lesions import AnomalyPainter
from inference.phantom.tissues import Atlas, Tissue, atlas_from_tissue, read_label_map, tissue_from_labels

pytestmark = pytest.mark.feature("R6")


@pytest.fixture(scope="module")
def head() -> SyntheticHead:
    return synthetic_head(seed=3, shape=(24, 96, 96), spacing_mm=(7.5, 2.4, 2.4))


@pytest.fixture(scope="module")
def ball() -> Atlas:
    """A toy head: a ball of white matter with a ventricle, in a shell of fluid, bone and skin."""
    index = np.stack(np.meshgrid(*(np.arange(120),) * 3, indexing="ij"))
    radius = np.linalg.norm(index - 60.0, axis=0)
    tissue = np.full(radius.shape, Tissue.AIR, dtype=np.uint8)
    for limit, kind in (
        (56, Tissue.SKIN),
        (51, Tissue.BONE),
        (46, Tissue.CSF),
        (43, Tissue.CORTEX),
        (38, Tissue.WHITE),
    ):
        tissue[radius < limit] = kind
    tissue[radius < 8] = Tissue.VENTRICLE
    return atlas_from_tissue("ball", tissue)


def test_the_same_seed_makes_the_same_head() -> None:
    first = synthetic_head(seed=5, shape=(12, 64, 64), spacing_mm=(12.0, 3.6, 3.6))
    again = synthetic_head(seed=5, shape=(12, 64, 64), spacing_mm=(12.0, 3.6, 3.6))
    other = synthetic_head(seed=6, shape=(12, 64, 64), spacing_mm=(12.0, 3.6, 3.6))

    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.lesion, again.lesion)
    assert not np.array_equal(first.image, other.image)


def test_the_brain_has_the_volume_of_a_brain(head: SyntheticHead) -> None:
    millilitres = head.brain.sum() * np.prod(head.spacing_mm) / 1000

    assert 1000 < millilitres < 1800  # adult brains with their ventricles: 1.0 to 1.7 litres


def test_signal_lies_between_0_and_1000_and_fluid_is_dark(head: SyntheticHead) -> None:
    inside = head.image[head.brain & ~head.lesion]

    assert head.image.min() >= 0
    assert head.image.max() <= 1000
    assert 250 < np.median(inside) < 500
    assert np.quantile(inside, 0.01) < 0.6 * np.median(inside)


def test_lesions_are_bright_and_inside_the_brain(head: SyntheticHead) -> None:
    assert head.lesion.any()
    assert (head.lesion & head.brain).sum() > 0.95 * head.lesion.sum()
    assert head.image[head.lesion].mean() > 1.25 * np.median(head.image[head.brain])


def test_no_lesion_is_drawn_where_none_is_asked_for() -> None:
    made = synthetic_head(seed=4, lesions=0, shape=(12, 64, 64), spacing_mm=(12.0, 3.6, 3.6))

    assert not made.lesion.any()


def test_slices_go_from_the_neck_to_the_vertex_and_rows_from_the_face_to_the_back(
    head: SyntheticHead,
) -> None:
    areas = head.brain.sum(axis=(1, 2))
    eyes = head.image[: len(areas) // 2, : head.image.shape[1] // 3]

    assert areas[0] == 0
    assert np.argmax(areas) > len(areas) * 0.4  # the widest slice lies above the skull base
    assert eyes.max() > 100  # face at the first rows of the lower half
    assert head.origin_lps[2] == pytest.approx(-12 - 7.5 * 23 / 2)


def test_label_values_become_tissue() -> None:
    labels = np.array([[[0, 2, 42, 24, 4, 515, 506, 9999]]], dtype=np.uint16)

    tissue = tissue_from_labels(labels)

    assert tissue.ravel().tolist() == [
        Tissue.AIR,
        Tissue.WHITE,
        Tissue.CORTEX,
        Tissue.CSF,
        Tissue.VENTRICLE,
        Tissue.BONE,
        Tissue.EYE,
        Tissue.SOFT,
    ]


def test_a_label_map_is_turned_to_display_order(tmp_path: Path) -> None:
    labels = np.zeros((30, 40, 50), dtype=np.uint16)  # left to right, back to front, foot to head
    labels[5:25, 5:35, 5:45] = 2
    labels[3, 37, 48] = 506  # on the patient's left, in front, near the vertex
    with lzma.open(tmp_path / "head.npy.xz", "wb") as stream:
        np.save(stream, labels)

    atlas = read_label_map(tmp_path / "head.npy.xz")

    assert atlas.tissue.shape == (50, 40, 30)
    assert np.argwhere(atlas.tissue == Tissue.EYE).tolist() == [[48, 2, 26]]  # columns run from the patient's right to the left
    assert atlas.brain_levels == (5, 44)


def test_the_median_of_a_look_is_the_median_of_the_painted_brain(ball: Atlas) -> None:
    rng = np.random.default_rng(0)
    look = draw_flair(rng)

    signal = paint(ball.tissue[None], look, rng, (1.0, 1.0))[0]

    assert np.median(signal[ball.brain]) == pytest.approx(look.median(ball), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_healthy_slices_are_standardised(ball: Atlas, seed: int) -> None:
    drawn = healthy_slice(np.random.default_rng(seed), ball, (96, 96), 1.25)

    assert drawn.image.shape == drawn.brain.shape == (96, 96)
    assert drawn.image.min() >= -4
    assert drawn.brain.max() == 1
    assert abs(np.median(drawn.image[drawn.brain > 0.9])) < 2.0  # one slice has more of one tissue than the head


@pytest.mark.parametrize("seed", range(5))
def test_slices_for_the_mask_have_a_bounded_scale(ball: Atlas, seed: int) -> None:
    drawn = brain_slice(np.random.default_rng(seed), ball, (64, 64), 2.0)

    assert 0 <= drawn.image.min() <= drawn.image.max() <= 2.5
    assert draw_any(np.random.default_rng(seed)).levels.shape == (len(Tissue),)


@pytest.mark.slow
def test_a_bank_is_made_once_and_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    labels = np.zeros((60, 60, 60), dtype=np.uint16)
    labels[10:50, 10:50, 10:50] = 2
    with lzma.open(tmp_path / "head.npy.xz", "wb") as stream:
        np.save(stream, labels)
    plan = BankPlan("restore", (str(tmp_path / "head.npy.xz"),), (), 60, 0, (32, 32), 2.5, seed=1)

    one = make_bank(tmp_path / "one", plan, processes=1)
    two = make_bank(tmp_path / "two", plan, processes=2)
    written = (tmp_path / "one" / "image.npy").stat().st_mtime_ns
    make_bank(tmp_path / "one", plan, processes=1)

    assert one.image.shape == (60, 32, 32)
    assert np.array_equal(one.image, two.image)
    assert (tmp_path / "one" / "image.npy").stat().st_mtime_ns == written


@pytest.mark.parametrize("wavelength", [3.0, 20.0, 500.0])
def test_a_smooth_field_has_zero_mean_and_unit_variance_and_no_steps(wavelength: float) -> None:
    field: NDArray[np.float32] = smooth_field(np.random.default_rng(1), (90, 70), wavelength)

    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(field, axis=0)).max() < 6 / wavelength + 0.15


def painted(seed: int, severity: float, count: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    painter = AnomalyPainter((64, 48), 2.5, seed=1, fields=16)
    brain = torch.zeros(count, 1, 64, 48)
    brain[:, :, 8:56, 6:42] = 1
    clean = torch.where(brain > 0, 0.0, -4.0)
    shown = painter(clean, brain, brain, torch.full((count,), severity), torch.Generator().manual_seed(seed))
    return shown.image, shown.target, shown.amount, brain


def test_anomalies_stay_inside_the_brain_and_leave_the_rest_alone() -> None:
    image, target, amount, brain = painted(seed=2, severity=1.0)

    assert amount.amax() <= 1
    assert torch.all(amount[brain == 0] == 0)
    assert torch.equal(image[amount == 0], target[amount == 0])


def test_the_opacity_is_the_amount_at_full_severity() -> None:
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    brain = torch.ones(4, 1, 40, 32)
    faint, full = (
        AnomalyPainter((40, 32), 2.5, seed=1)(torch.zeros(4, 1, 40, 32), brain, brain, torch.full((4,), severity), generator)
        for severity, generator in zip((0.25, 1.0), generators, strict=True)
    )

    assert torch.allclose(faint.opacity, full.amount)
    assert torch.allclose(faint.amount, 0.25 * full.amount)


def test_without_severity_there_is_no_anomaly() -> None:
    image, target, amount, _ = painted(seed=2, severity=0.0)

    assert torch.equal(image, target)
    assert amount.max() == 0


def test_anomalies_come_in_both_signs_and_many_sizes_and_some_slices_stay_healthy() -> None:
    image, target, amount, _ = painted(seed=3, severity=1.0, count=128)
    change = ((image - target) * (amount > 0.5)).sum((1, 2, 3))
    sizes = (amount > 0.5).sum((1, 2, 3)) * 2.5**2

    assert 2 * (change > 0).sum() > 3 * (change < 0).sum() > 30
    assert 5 < (amount.amax((1, 2, 3)) == 0).sum() < 40
    assert (sizes > 700).any()  # more than 30 mm across
    assert ((sizes > 0) & (sizes < 80)).any()  # a few millimetres
