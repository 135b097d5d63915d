"""Our metrics equal others' on random volumes: scikit-learn's, MONAI's, scipy's, and a count from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import (
    DiceMetric,
    HausdorffDistanceMetric,
    PSNRMetric,
    SurfaceDiceMetric,
    SurfaceDistanceMetric,
    compute_froc_curve_data,
    compute_froc_score,
)
from monai.metrics.calibration import CalibrationErrorMetric
from monai.metrics.regression import compute_ssim_and_cs
from scipy.spatial.distance import cdist
from scipy.stats import bootstrap
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from inference.evaluation.curves import STATISTICS, Curves, Thresholds, case_curve
from inference.evaluation.fidelity import psnr_db, ssim_map
from inference.evaluation.lesions import free_response_score
from inference.evaluation.reliability import ChanceOfLesion, reliability
from inference.evaluation.resampling import interval
from inference.evaluation.surfaces import surface_distances
from inference.evaluation.uncertainty import uncertainty_quality

EXACT = 1e-6
LOW, HIGH = 0.0, 8.0
SPACING = (3.0, 0.9, 1.1)
NOBODY = Thresholds()


def volume(seed: int, marked: float = 0.05, shape: tuple[int, ...] = (6, 30, 28)) -> tuple[np.ndarray, np.ndarray]:
    """Scores on the bins' own lattice, so that binning loses nothing, and lesion numbers of a random truth."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < marked
    score = np.clip(rng.gamma(1.0, 0.6, shape) + truth * rng.gamma(2.0, 0.8, shape), 0, 7.9)
    lattice = np.floor(score * 8192) / 8192
    return lattice.astype(np.float32), np.where(truth, rng.integers(1, 5, shape), 0).astype(np.int32)


def pooled(cases: list[tuple[np.ndarray, np.ndarray]], fixed: Thresholds = NOBODY) -> dict[str, float]:
    """Every statistic of the cases, each counted once."""
    curves = Curves.of([case_curve(*one, LOW, HIGH) for one in cases], LOW, HIGH)
    return dict(zip(STATISTICS, curves.statistics(np.ones((1, len(cases))), fixed)[0], strict=True))


def blobs(seed: int, shape: tuple[int, int, int] = (14, 30, 26)) -> np.ndarray:
    """A mask of a few smooth regions."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (1.0, 2.5, 2.5))
    return np.asarray(noise > np.quantile(noise, 0.9))


def one_hot(mask: np.ndarray) -> torch.Tensor:
    """As MONAI wants it: batch, background and foreground, space."""
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


@pytest.mark.feature("L5")
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_and_auroc_equal_scikit_learns(seed: int) -> None:
    cases = [volume(10 * seed + n, marked) for n, marked in enumerate((0.01, 0.1, 0.4))]
    scores = np.concatenate([score.ravel() for score, _ in cases])
    truth = np.concatenate([labels.ravel() > 0 for _, labels in cases])

    found = pooled(cases)

    assert found["ap_pooled"] == pytest.approx(average_precision_score(truth, scores), abs=EXACT)
    assert found["auroc_pooled"] == pytest.approx(roc_auc_score(truth, scores), abs=EXACT)


def test_both_equal_a_count_straight_from_the_definition() -> None:
    score, labels = volume(77, shape=(2, 20, 20))
    values, truth = score.ravel(), labels.ravel() > 0
    thresholds = np.unique(values)[::-1]
    recall = [np.mean(values[truth] >= t) for t in thresholds]
    precision = [np.mean(truth[values >= t]) for t in thresholds]
    area = sum(p * (r - before) for p, r, before in zip(precision, recall, [0.0, *recall[:-1]], strict=True))
    wins = values[truth][:, None] - values[~truth][None]

    found = pooled([(score, labels)])

    assert found["ap_pooled"] == pytest.approx(area, abs=EXACT)
    assert found["auroc_pooled"] == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)), abs=EXACT)


def test_streaming_loses_less_than_a_ten_thousandth_of_any_score() -> None:
    rng = np.random.default_rng(5)
    truth = rng.random(200_000) < 0.03
    score = np.clip(rng.gamma(1.0, 0.6, truth.size) + truth * rng.gamma(2.0, 0.8, truth.size), 0, 8).astype(np.float32)

    found = pooled([(score[None, None], truth[None, None].astype(np.int32))])

    assert found["ap_pooled"] == pytest.approx(average_precision_score(truth, score), abs=1e-4)
    assert found["auroc_pooled"] == pytest.approx(roc_auc_score(truth, score), abs=1e-4)


@pytest.mark.parametrize("threshold", [0.5, 1.25, 3.0])
def test_dice_at_a_threshold_equals_f1_and_monais(threshold: float) -> None:
    score, labels = volume(3)
    predicted, truth = score >= threshold, labels > 0

    found = pooled([(score, labels)], Thresholds(dice=threshold))["dice_fixed_pooled"]
    monai = DiceMetric(include_background=False)(one_hot(predicted), one_hot(truth))

    assert found == pytest.approx(f1_score(truth.ravel(), predicted.ravel()), abs=EXACT)
    assert found == pytest.approx(float(monai[0, 0]), abs=EXACT)


def test_the_highest_dice_is_that_of_every_threshold_tried_in_turn() -> None:
    cases = [volume(21, 0.02), volume(22, 0.3)]
    thresholds = np.unique(np.concatenate([score.ravel() for score, _ in cases]))[::7]
    each = np.array([[f1_score(labels.ravel() > 0, score.ravel() >= t) for score, labels in cases] for t in thresholds[::20]])

    found = pooled(cases)

    assert found["dice_max_mean"] >= each.mean(axis=1).max() - EXACT
    assert found["dice_max_mean"] == pytest.approx(each.mean(axis=1).max(), abs=0.01)


@pytest.mark.parametrize("limit", [("aupro_30", 0.3), ("aupro_05", 0.05)], ids=["30 %", "5 %"])
def test_aupro_equals_a_count_straight_from_the_definition(limit: tuple[str, float]) -> None:
    name, highest = limit
    score, labels = volume(8, shape=(3, 20, 20))
    x, y, saturated = [0.0], [0.0], [0.0]
    for threshold in np.unique(score)[::-1]:
        x.append(float(np.mean(score[labels == 0] >= threshold)))
        shares = [np.sum(score[labels == n] >= threshold) / np.sum(labels == n) for n in range(1, 5)]
        halves = [min(1.0, np.sum(score[labels == n] >= threshold) / math.ceil(np.sum(labels == n) / 2)) for n in range(1, 5)]
        y.append(float(np.mean(shares)))
        saturated.append(float(np.mean(halves)))
    grid = np.unique(np.concatenate([[highest], [value for value in x if value <= highest]]))
    last = [max(k for k, value in enumerate(x) if value <= point) for point in grid]

    found = pooled([(score, labels)])

    assert found[name] == pytest.approx(_area(x, y, highest), abs=EXACT)
    assert found[name.replace("au", "s")] == pytest.approx(_area(x, saturated, highest), abs=EXACT)
    assert len(last) == len(grid)


def _area(x: list[float], y: list[float], highest: float) -> float:
    """Trapezium by trapezium up to the limit, over the limit."""
    area = 0.0
    for a, b, c, d in zip(x, x[1:], y, y[1:], strict=False):
        if a >= highest:
            break
        end = min(b, highest)
        top = c + (d - c) * (end - a) / (b - a) if b > a else d
        area += (end - a) * (c + top) / 2
    return area / highest


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6.1 warns of itself
@pytest.mark.parametrize("seed", range(3))
def test_surface_distances_equal_monais(seed: int) -> None:
    predicted, truth = blobs(seed), blobs(seed + 50)
    given = one_hot(predicted), one_hot(truth)

    found = surface_distances(predicted, truth, SPACING)

    hd95 = HausdorffDistanceMetric(percentile=95)(*given, spacing=SPACING)
    assd = SurfaceDistanceMetric(symmetric=True)(*given, spacing=SPACING)
    nsd = SurfaceDiceMetric(class_thresholds=[2.0])(*given, spacing=SPACING)
    assert found.hd95_mm == pytest.approx(float(hd95[0, 0]), rel=1e-6)
    assert found.assd_mm == pytest.approx(float(assd[0, 0]), rel=1e-6)
    assert found.nsd == pytest.approx(float(nsd[0, 0]), rel=1e-6)


def test_surface_distances_equal_every_pair_of_surface_voxels_measured() -> None:
    predicted, truth = blobs(7, (5, 12, 12)), blobs(9, (5, 12, 12))
    places = [_surface_places(mask) * SPACING for mask in (predicted, truth)]
    pairs = cdist(*places)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    both = np.concatenate([there, back])

    found = surface_distances(predicted, truth, SPACING)

    assert found.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert found.assd_mm == pytest.approx(both.mean())
    assert found.nsd == pytest.approx(np.mean(both <= 2.0))


def _surface_places(mask: np.ndarray) -> np.ndarray:
    """Marked voxels with an unmarked one, or the end of the array, on one of six sides."""
    padded = np.pad(mask, 1)
    places = []
    for place in np.argwhere(padded):
        steps = [place + sign * axis for axis in np.eye(3, dtype=int) for sign in (-1, 1)]
        if not all(padded[tuple(step)] for step in steps):
            places.append(place - 1)
    return np.array(places, dtype=float)


def test_free_response_score_equals_monais() -> None:
    rng = np.random.default_rng(3)
    false, true = rng.random(40), np.sort(rng.random(12) ** 0.5)
    x, y = compute_froc_curve_data(false, true, num_targets=15, num_images=5)
    thresholds = sorted({*false, *true})[1:]
    counts = [np.array([(part >= t).sum() for t in thresholds], dtype=float) for part in (true, false)]

    found = free_response_score(counts[0], counts[1], lesions=15, scans=5).mean()

    assert found == pytest.approx(compute_froc_score(x, y), abs=EXACT)


def test_similarity_equals_monais_and_a_window_summed_pixel_by_pixel() -> None:
    rng = np.random.default_rng(2)
    image = rng.random((2, 40, 36)).astype(np.float32) * 8
    other = (image + rng.normal(0, 0.5, image.shape)).astype(np.float32)
    along = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(along, along) / along.sum() ** 2

    found = ssim_map(image, other, 8.0)

    for place in ((0, 5, 5), (0, 17, 30), (1, 34, 12)):
        part = (place[0], slice(place[1] - 5, place[1] + 6), slice(place[2] - 5, place[2] + 6))
        x, y = image[part].astype(float), other[part].astype(float)
        mx, my = np.sum(window * x), np.sum(window * y)
        vx, vy, xy = np.sum(window * x * x) - mx**2, np.sum(window * y * y) - my**2, np.sum(window * x * y) - mx * my
        c1, c2 = (0.01 * 8) ** 2, (0.03 * 8) ** 2
        by_hand = (2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        assert found[place] == pytest.approx(by_hand, abs=EXACT)
    tensors = [torch.from_numpy(part[:, None]) for part in (image, other)]
    monai, _ = compute_ssim_and_cs(*tensors, spatial_dims=2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5), data_range=8.0)
    assert found[:, 5:-5, 5:-5] == pytest.approx(monai[:, 0].numpy(), abs=2e-5)  # MONAI computes in single precision


def test_signal_to_noise_equals_monais() -> None:
    rng = np.random.default_rng(4)
    image, other = rng.random((2, 9, 20, 20)).astype(np.float32)

    found = psnr_db(float(np.mean((image.astype(float) - other) ** 2)), 2.0)

    theirs = PSNRMetric(max_val=2.0)(torch.from_numpy(image[None]), torch.from_numpy(other[None]))
    assert found == pytest.approx(float(theirs[0, 0]), abs=1e-5)  # MONAI computes in single precision


def test_calibration_error_equals_monais_and_brier_scikit_learns() -> None:
    rng = np.random.default_rng(6)
    chance = (rng.integers(0, 1000, 5000) + 0.5) / 1000
    truth = rng.random(5000) < chance**1.5
    metric = CalibrationErrorMetric(num_bins=20, include_background=True, calibration_reduction="expected")
    metric(torch.from_numpy(chance[None, None].astype(np.float32)), torch.from_numpy(truth[None, None].astype(np.float32)))

    found = reliability(chance, truth.astype(float), (~truth).astype(float))

    assert found.ece == pytest.approx(float(metric.aggregate()), abs=EXACT)
    assert found.brier == pytest.approx(brier_score_loss(truth, chance), abs=EXACT)


def test_the_chance_of_a_lesion_is_scikit_learns_isotonic_regression() -> None:
    rng = np.random.default_rng(8)
    scores = np.arange(60) / 8
    marked, unmarked = rng.integers(0, 40, 60) * np.linspace(0, 1, 60), rng.integers(1, 200, 60).astype(float)
    share, weight = marked / (marked + unmarked), marked + unmarked

    learned = ChanceOfLesion.learned(scores, marked, unmarked)

    assert learned(scores) == pytest.approx(IsotonicRegression().fit_transform(scores, share, sample_weight=weight), abs=EXACT)


def test_the_uncertainty_s_ranking_of_errors_is_an_auroc() -> None:
    rng = np.random.default_rng(9)
    wrong = rng.random(3000) < 0.1
    uncertainty = (rng.integers(0, 30, 3000) + 8 * wrong).astype(np.float32)
    order = np.argsort(uncertainty, kind="stable")

    found = uncertainty_quality(uncertainty, wrong)

    assert found.error_auroc == pytest.approx(roc_auc_score(wrong, uncertainty), abs=EXACT)
    assert found.risk[-1] == pytest.approx(wrong.mean())
    assert found.risk_area == pytest.approx(np.mean(np.cumsum(wrong[order]) / np.arange(1, 3001)), abs=0.005)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_intervals_equal_scipys_on_the_same_draws(method: str) -> None:
    values = np.random.default_rng(1).gamma(2.0, 1.0, 23)
    theirs = bootstrap((values,), np.mean, n_resamples=999, method=method, rng=np.random.default_rng(2))
    left_out = np.array([np.delete(values, n).mean() for n in range(values.size)])

    found = interval(values.mean(), theirs.bootstrap_distribution, left_out if method == "BCa" else None)

    assert found == pytest.approx(tuple(theirs.confidence_interval), abs=EXACT)
