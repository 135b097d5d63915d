"""From a volume to a localization, on grids of every kind; and every way a volume can be no good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from highdicom import Volume

from inference.bundle import Bundle
from inference.card import BundleError
from inference.contract import check_localization
from inference.localizer import Context, RecipeLocalizer, load_localizer
from inference.recipes import RECIPES
from inference.types import Contrast, ModelIdentity, Refusal
from tests.inference.heads import Blob, Bright, LocalMean, card, head, tiny_bundle, volume

BLOBS = (Blob((32.0, -20.0, 4.0), 13.0, 1.8), Blob((-30.0, 25.0, -6.0), 11.0, 0.35))
"""A bright ball on the patient's left in front, a dark one on the right behind; LPS."""

GRIDS = {
    "axial 5 mm": {},
    "feet last": {"axes": "FPL"},
    "mirrored rows and columns": {"axes": "HAR"},
    "sagittal": {"shape": (72, 60, 80), "spacing_mm": (2.2, 2.2, 2.2), "axes": "LFP"},
    "coronal": {"shape": (80, 60, 72), "spacing_mm": (2.2, 2.2, 2.2), "axes": "PFL"},
    "oblique": {"shape": (34, 84, 84), "tilt_deg": (17.0, -9.0, 12.0)},
    "fine and anisotropic": {"shape": (70, 150, 130), "spacing_mm": (2.0, 1.1, 1.3)},
    "far from the isocentre": {"centre_lps": (-40.0, 55.0, 130.0)},
}


def localizer(recipe: str = "cold_restore", **changes: object) -> RecipeLocalizer:
    """A localizer whose healthy estimate is the local mean: no weights, so its answer is known beforehand."""
    identity = ModelIdentity("Test model", "1", "Nobody", "0" * 64)
    return RecipeLocalizer(
        Bundle(card(**changes), identity, {"restorer": LocalMean(), "brain": Bright()}, torch.device("cpu")),  # type: ignore[arg-type]
        RECIPES[recipe],
    )


@pytest.mark.slow
@pytest.mark.feature("L1")
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_findings_are_where_the_blobs_are_on_any_grid(grid: dict[str, object]) -> None:
    centre = np.array(grid.get("centre_lps", (0, 0, 0)))
    scan = head(blobs=BLOBS, **grid)  # type: ignore[arg-type]

    result = localizer("cold_steps").localize(scan, Context())  # a recipe that does not smooth across slices

    check_localization(scan, result)
    assert [finding.contrast for finding in result.findings] == [Contrast.BRIGHTER, Contrast.DARKER]
    assert [finding.hemisphere for finding in result.findings] == ["left", "right"]
    for finding, blob in zip(result.findings, BLOBS, strict=True):
        # a tenth of the slice of 5 mm; a ball's voxels add up to its volume, its axis is short by a voxel
        assert np.allclose(finding.centroid_lps, centre + blob.centre_lps, atol=0.5)
        assert finding.volume_mm3 == pytest.approx(4 / 3 * np.pi * blob.radius_mm**3, rel=0.1)
        assert finding.long_axis_mm == pytest.approx(2 * blob.radius_mm, abs=3.0)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_the_label_of_a_finding_covers_its_blob_in_the_source_array(grid: dict[str, object]) -> None:
    scan = head(blobs=BLOBS, **grid)  # type: ignore[arg-type]
    clean = head(**grid)  # type: ignore[arg-type]

    labels = localizer().localize(scan, Context()).labels.array

    for number, blob in enumerate(BLOBS, start=1):
        changed = scan.array > 1.2 * clean.array if blob.factor > 1 else scan.array < 0.8 * clean.array
        overlap = np.count_nonzero((labels == number) & changed)
        assert 2 * overlap / (np.count_nonzero(labels == number) + np.count_nonzero(changed)) > 0.88


def test_a_head_without_blobs_has_no_findings_and_says_so() -> None:
    scan = head()

    result = localizer().localize(scan, Context())

    assert result.findings == ()
    assert result.findings_left_out == 0
    assert not result.labels.array.any()
    assert result.study_score < 1.0


def test_pseudo_healthy_takes_the_departure_out_and_leaves_the_surroundings() -> None:
    scan = head(blobs=BLOBS[:1])

    result = localizer().localize(scan, Context())

    assert result.pseudo_healthy is not None
    inside, outside = result.labels.array == 1, result.brain.array == 0
    assert float(scan.array[inside].mean()) > 650
    assert float(result.pseudo_healthy.array[inside].mean()) < 560
    assert np.array_equal(result.pseudo_healthy.array[outside], scan.array[outside])


NEEDS_ONE_RESTORER = [
    one.name for one in RECIPES.values() if one.networks in ((), ("restorer",)) and one.name != "cold_outline"
]


@pytest.mark.slow
@pytest.mark.feature("L3")
@pytest.mark.parametrize("recipe", NEEDS_ONE_RESTORER)
def test_the_same_input_and_seed_give_the_same_bits(recipe: str) -> None:
    scan = head(blobs=BLOBS)

    first, second = (localizer(recipe).localize(scan, Context(seed=11)) for _ in range(2))

    assert np.array_equal(first.score.array, second.score.array)
    assert np.array_equal(first.raw.array, second.raw.array)
    assert np.array_equal(first.labels.array, second.labels.array)
    assert first.findings == second.findings
    assert first.provenance.recipe_digest == second.provenance.recipe_digest


def test_another_seed_changes_a_recipe_that_draws_and_no_other() -> None:
    scan = head(blobs=BLOBS)

    def raw(recipe: str, seed: int) -> np.ndarray:
        return localizer(recipe).raw_maps(scan, Context(seed=seed)).raw

    assert np.array_equal(raw("cold_restore", 1), raw("cold_restore", 2))
    assert not np.array_equal(raw("coarse_ensemble", 1), raw("coarse_ensemble", 2))


def test_slices_may_be_batched_in_any_way() -> None:
    scan = head(blobs=BLOBS)

    few, many = (localizer("coarse_ensemble").raw_maps(scan, Context(batch=batch)).raw for batch in (3, 64))

    assert np.allclose(few, many, atol=1e-5)


@pytest.mark.parametrize(("recipe", "certain"), [("cold_restore", True), ("cold_mean", False), ("cold_steps", False)])
def test_uncertainty_is_given_where_the_network_was_asked_more_than_once(recipe: str, certain: bool) -> None:
    result = localizer(recipe).localize(head(blobs=BLOBS), Context())

    assert (result.uncertainty is None) == certain


@pytest.mark.feature("L6")
def test_provenance_counts_every_evaluation_and_says_where_the_threshold_is_from() -> None:
    scan = head()

    result = localizer("cold_mean").localize(scan, Context(seed=5, remarks=("Spacing was assumed.",)))

    provenance = result.provenance
    brain_slices = int(result.brain.array.any(axis=(1, 2)).sum())
    assert provenance.levels == (0.25, 0.5, 0.75, 1.0)
    assert provenance.seed == 5
    assert provenance.cost.network_evaluations == 4 * brain_slices + scan.spatial_shape[0]
    assert provenance.cost.seconds > 0
    assert provenance.cost.peak_memory_mb > 50
    assert provenance.operating_point.rule == "a test's"
    assert "Spacing was assumed." in provenance.quality


def test_where_the_signs_have_different_thresholds_the_rule_says_both() -> None:
    point = card().operating_point["cold_restore"].model_copy(update={"threshold": {"brighter": 1.5, "darker": 2.0}})

    stated = localizer(operating_point={"cold_restore": point}).localize(head(), Context()).provenance.operating_point

    assert stated.threshold == 1.5
    assert stated.rule == "a test's Thresholds: brighter 1.5, darker 2."


def test_a_context_may_ask_for_another_recipe_of_the_bundle() -> None:
    result = localizer("cold_restore").localize(head(), Context(recipe="cold_steps"))

    assert result.provenance.recipe == "cold_steps"


def test_at_most_the_permitted_number_of_findings_is_listed_and_the_rest_counted() -> None:
    point = card().operating_point["cold_restore"].model_copy(update={"maximum_findings": 1})

    result = localizer(operating_point={"cold_restore": point}).localize(head(blobs=BLOBS), Context())

    assert len(result.findings) == 1
    assert result.findings_left_out == 1
    assert set(np.unique(result.labels.array)) == {0, 1}
    assert any("left out" in sentence for sentence in result.provenance.quality)


def changed(scan: Volume, array: np.ndarray) -> Volume:
    """The scan's grid with another array."""
    return volume(array, np.asarray(scan.affine))


def with_nan(scan: Volume) -> Volume:
    array = scan.array.copy()
    array[3, 4, 5] = np.nan
    return changed(scan, array)


def with_infinity(scan: Volume) -> Volume:
    array = scan.array.copy()
    array[0, 0, 0] = np.inf
    return changed(scan, array)


BAD = {
    "not-finite": with_nan(head()),
    "not-finite ": with_infinity(head()),
    "constant": changed(head(), np.full((30, 80, 72), 7.0, dtype=np.float32)),
    "slices": head(shape=(8, 80, 72)),
    "pixel-spacing": head(shape=(30, 40, 40), spacing_mm=(5.0, 4.0, 4.0)),
    "slice-spacing": head(shape=(20, 80, 72), spacing_mm=(9.0, 2.2, 2.2)),
    "field-of-view": head(shape=(30, 50, 50)),
    "tilt": head(shape=(40, 80, 80), spacing_mm=(3.0, 3.0, 3.0), tilt_deg=(42.0, 0.0, 0.0)),
}


@pytest.mark.feature("D4")
@pytest.mark.parametrize(("code", "scan"), BAD.items(), ids=BAD.keys())
def test_a_volume_outside_the_models_range_is_refused_with(code: str, scan: Volume) -> None:
    with pytest.raises(Refusal) as caught:
        localizer().localize(scan, Context())

    assert caught.value.code == code.strip()
    assert any(figure.isdigit() for figure in str(caught.value))


def test_a_volume_with_channels_is_refused() -> None:
    scan = head()
    array = np.stack([scan.array, scan.array], axis=-1)
    colour = Volume(array, scan.affine, "PATIENT", channels={"OpticalPathIdentifier": ["1", "2"]})

    with pytest.raises(Refusal) as caught:
        localizer().localize(colour, Context())

    assert caught.value.code == "dimensions"


class Nowhere(Bright):
    """A brain network that sees no brain."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.full_like(image, -10.0)


class InThreeSlices(Bright):
    """A brain network that sees brain in the middle three slices only."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        keep = torch.zeros(len(image), 1, 1, 1, dtype=torch.bool)
        keep[14:17] = True
        return torch.where(keep, logits, -10.0)


@pytest.mark.parametrize(
    ("network", "code"),
    [(Nowhere(), "no-brain"), (InThreeSlices(), "few-brain-slices")],
    ids=["none", "three"],
)
def test_too_little_brain_is_refused(network: Bright, code: str) -> None:
    networks = {"restorer": LocalMean(), "brain": network}
    bundle = Bundle(card(), ModelIdentity("t", "1", "n", "0"), networks, torch.device("cpu"))  # type: ignore[arg-type]

    with pytest.raises(Refusal) as caught:
        RecipeLocalizer(bundle, RECIPES["cold_restore"]).localize(head(), Context())

    assert caught.value.code == code


def test_a_brain_that_is_cut_off_is_remarked_upon() -> None:
    whole = head(shape=(40, 80, 72), spacing_mm=(3.0, 2.2, 2.2))
    top = whole[:25]

    result = localizer().localize(top, Context())

    assert any("reaches the last slice" in sentence for sentence in result.provenance.quality)


def test_a_loaded_bundle_localizes_on_the_source_grid(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    scan = head(shape=(24, 70, 64), tilt_deg=(8.0, 0.0, 5.0), axes="FPL", spacing_mm=(6.0, 2.5, 2.5))
    loaded = load_localizer(tmp_path / "model", "coarse_ensemble", device="cpu")
    assert isinstance(loaded, RecipeLocalizer)
    # an untrained network finds no brain; everything else is the bundle's own
    seeing = replace(loaded, bundle=replace(loaded.bundle, networks={**loaded.bundle.networks, "brain": Bright()}))

    result = seeing.localize(scan, Context(threads=1))

    check_localization(scan, result)
    assert result.uncertainty is not None
    assert float(np.abs(result.raw.array).max()) > 0
    assert result.provenance.cost.gflop > 0


def test_the_raw_map_is_signed() -> None:
    result = localizer().localize(head(blobs=BLOBS), Context())

    bright, dark = (result.raw.array[result.labels.array == number] for number in (1, 2))
    assert bright.min() > 0
    assert dark.max() < 0


@pytest.mark.feature("C4")
def test_a_bundle_with_another_digest_than_expected_is_not_loaded(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")

    with pytest.raises(BundleError, match="was asked for"):
        load_localizer(tmp_path / "model", expected_digest="f" * 64)


def test_a_recipe_that_the_bundle_is_not_calibrated_for_is_an_error(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model", recipes=("cold_restore",))

    with pytest.raises(BundleError, match="not calibrated for recipe 'cold_steps'; it is for: cold_restore"):
        load_localizer(tmp_path / "model", "cold_steps")


def test_an_unknown_recipe_is_an_error_that_names_the_known(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")

    with pytest.raises(BundleError, match=r"no entry points of group fovea\.localizers have that name"):
        load_localizer(tmp_path / "model", "no_such_recipe")
