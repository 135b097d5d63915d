"""A method of one's own plugs in by an entry point, and cannot hand over what breaks the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from highdicom import Volume

from inference.bundle import open_card
from inference.card import BundleError
from inference.contract import ContractError, check_localization, check_localizer
from inference.localizer import Context, load_localizer, plugged_in
from inference.types import Contrast, Localization
from tests.inference.heads import Blob, card, head, tiny_bundle
from tests.inference.test_localizer import localizer

SCAN = head(shape=(16, 60, 54), spacing_mm=(8.0, 3.0, 3.0), blobs=(Blob((30.0, 0.0, 0.0), 14.0, 1.8),))

PLUGIN = """
from dataclasses import replace
from tests.inference.test_localizer import localizer

class Own:
    def __init__(self, folder, card, device):
        self.told = (folder, card.name, device)
    def localize(self, volume, context):
        result = localizer().localize(volume, context)
        if context.seed == 13:  # a fault to be caught
            return replace(result, findings=())
        return result
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    """An installed distribution that offers the recipe `own_method`."""
    site = tmp_path / "site"
    metadata = site / "own_method-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "own_method_for_tests.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-method\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[fovea.localizers]\nown_method = own_method_for_tests:Own\n")
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))
    sys.modules.pop("own_method_for_tests", None)


@pytest.mark.feature("O8")
def test_a_method_of_ones_own_is_found_by_its_recipe_name(plugin: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")

    own = load_localizer(tmp_path / "model", "own_method", device="cpu")

    check_localization(SCAN, own.localize(SCAN, Context()))
    assert own.localizer.told == (tmp_path / "model", "Test model", "cpu")  # type: ignore[attr-defined]


@pytest.mark.feature("O8")
def test_an_author_can_hold_a_method_to_the_contract(plugin: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    own = plugged_in("own_method", open_card(tmp_path / "model"))(tmp_path / "model", card(), "cpu")

    passed = list(check_localizer(own))

    assert len(passed) == 5
    assert "the same bits" in passed[3]


class Restless:
    """Answers differently each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def localize(self, volume: Volume, context: Context) -> Localization:
        """The right answer, the uncertainty ever larger."""
        self.asked += 1
        result = localizer().localize(volume, context)
        return replace(result, uncertainty=volume.with_array(np.full(volume.shape, self.asked, np.float32)))


class Trusting:
    """Refuses nothing."""

    def localize(self, volume: Volume, context: Context) -> Localization:
        """The answer to another volume where this one is no image."""
        clean = np.nan_to_num(volume.array)
        return localizer().localize(SCAN if clean.min() == clean.max() else volume.with_array(clean), context)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "words"),
    [(Restless(), "uncertainty: differs"), (Trusting(), "not a number was localized")],
    ids=["restless", "trusting"],
)
def test_the_author_is_told_what_is_wrong(method: Restless | Trusting, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        list(check_localizer(method))


def test_the_bundle_is_verified_before_a_plug_in_sees_it(plugin: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    (tmp_path / "model" / "MODEL_CARD.md").write_text("changed")

    with pytest.raises(BundleError, match="SHA-256"):
        load_localizer(tmp_path / "model", "own_method")


def test_a_plug_in_that_breaks_the_contract_is_stopped(plugin: Path, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    own = load_localizer(tmp_path / "model", "own_method")

    with pytest.raises(ContractError, match="findings: numbered"):
        own.localize(SCAN, Context(seed=13))


@pytest.fixture(scope="module")
def good() -> Localization:
    """A localization that keeps the contract."""
    return localizer().localize(SCAN, Context())


def test_our_own_localization_keeps_the_contract(good: Localization) -> None:
    assert len(good.findings) == 1
    check_localization(SCAN, good)


def moved(result: Localization) -> Localization:
    """The labels one voxel further along."""
    affine = np.asarray(result.labels.affine).copy()
    affine[:3, 3] += affine[:3, 0]
    return replace(result, labels=type(result.labels)(result.labels.array, affine, "PATIENT", "1.2.3.4"))


def with_score(result: Localization, value: float) -> Localization:
    """The score with one voxel outside the brain changed."""
    array = result.score.array.copy()
    array[0, 0, 0] = value
    return replace(result, score=result.score.with_array(array))


def with_finding(result: Localization, **changes: object) -> Localization:
    """The only finding changed."""
    return replace(result, findings=(replace(result.findings[0], **changes),))  # type: ignore[arg-type]


FAULTS = {
    "labels: does not lie on the grid": moved,
    "score: is not 0 outside the brain": lambda result: with_score(result, 1.0),
    "score: holds values below 0": lambda result: with_score(result, -1.0),
    "score: holds numbers that are not finite": lambda result: with_score(result, np.nan),
    "raw: is float64, must be float32": lambda result: replace(result, raw=result.raw.astype(np.float64)),
    "brain: holds values above 1": lambda result: replace(
        result, brain=result.brain.with_array(result.brain.array * np.uint8(255))
    ),
    "finding 1: says": lambda result: with_finding(result, voxels=3),
    "finding 1: .* mm3 is not": lambda result: with_finding(result, volume_mm3=1.0),
    "finding 1: centroid": lambda result: with_finding(result, centroid_lps=(-30.0, 0.0, 0.0)),
    "finding 1: bounding box": lambda result: with_finding(result, bounding_box=((0, 1), (0, 1), (0, 1))),
    "finding 1: hemisphere 'dexter'": lambda result: with_finding(result, hemisphere="dexter"),
    "finding 1: holds numbers": lambda result: with_finding(result, peak_score=float("nan")),
    "findings: numbered": lambda result: with_finding(result, number=2),
    "findings_left_out: -1": lambda result: replace(result, findings_left_out=-1),
}


@pytest.mark.parametrize(("message", "fault"), FAULTS.items(), ids=FAULTS.keys())
def test_the_contract_names_what_is_wrong(good: Localization, message: str, fault: object) -> None:
    with pytest.raises(ContractError, match=message):
        check_localization(SCAN, fault(good))  # type: ignore[operator]


def test_another_frame_of_reference_is_noticed(good: Localization) -> None:
    other = type(good.raw)(good.raw.array, good.raw.affine, "PATIENT", frame_of_reference_uid="1.2.9")

    with pytest.raises(ContractError, match="raw: is in another frame of reference"):
        check_localization(SCAN, replace(good, raw=other))


def test_the_contrast_of_a_finding_is_one_of_two() -> None:
    assert {str(sign) for sign in Contrast} == {"brighter", "darker"}
