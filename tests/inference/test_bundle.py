"""A bundle is loaded as its card describes it, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.bundle import choose_device, load_bundle, open_card, weights_file, write_bundle
from inference.card import CARD_NAME, BundleError, card_digest, read_card
from tests.inference.heads import TINY, card, tiny_bundle

RESTORER_FILE, BRAIN_FILE = weights_file("restorer"), weights_file("brain")


def resign(folder: Path) -> None:
    """Make the card vouch for the files as they now are, as one who replaces a weight on purpose would."""
    content = json.loads((folder / CARD_NAME).read_text())
    content["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
    (folder / CARD_NAME).write_text(json.dumps(content))


def test_a_written_bundle_is_loaded_with_its_weights_in_single_precision(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")

    bundle = load_bundle(tmp_path / "model", device="cpu")

    stored = load_file(tmp_path / "model" / RESTORER_FILE)
    loaded = bundle.networks["restorer"].state_dict()
    assert stored.keys() == loaded.keys()
    assert all(value.dtype == torch.float16 for value in stored.values())
    assert all(torch.equal(stored[key].float(), loaded[key]) for key in stored)
    assert not bundle.networks["restorer"].training
    assert not bundle.brain.training


def test_the_one_table_of_an_older_card_is_read_as_two_networks() -> None:
    given = card()

    assert given.schema_version == 2
    assert given.networks["brain"].arguments["spacing_mm"] == TINY["brain_spacing_mm"]
    assert not any(key.startswith("brain_") for key in given.networks["restorer"].arguments)
    assert sum(len(one.arguments) for one in given.networks.values()) == len(TINY)


def test_the_identity_carries_the_digest_of_the_card(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")

    bundle = load_bundle(tmp_path / "model", expected_digest=card_digest(tmp_path / "model"), device="cpu")

    assert bundle.identity.digest == hashlib.sha256((tmp_path / "model" / CARD_NAME).read_bytes()).hexdigest()
    assert (bundle.identity.name, bundle.identity.version) == ("Test model", "1")


@pytest.mark.feature("C4")
@pytest.mark.parametrize("name", [RESTORER_FILE, BRAIN_FILE, "MODEL_CARD.md"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    tiny_bundle(tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(BundleError, match=f"{name}: SHA-256 is"):
        load_bundle(tmp_path / "model")


@pytest.mark.parametrize("name", [RESTORER_FILE, BRAIN_FILE])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    tiny_bundle(tmp_path / "model")
    (tmp_path / "model" / name).unlink()

    with pytest.raises(BundleError, match=name):
        load_bundle(tmp_path / "model")


def test_a_weight_file_that_the_card_does_not_vouch_for_is_not_loaded(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    path = tmp_path / "model" / CARD_NAME
    content = json.loads(path.read_text())
    del content["files"][RESTORER_FILE]
    path.write_text(json.dumps(content))

    with pytest.raises(BundleError, match=f"files: {RESTORER_FILE} is missing"):
        load_bundle(tmp_path / "model")


def test_a_pickle_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model" / RESTORER_FILE)
    resign(tmp_path / "model")

    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(tmp_path / "model")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    path = tmp_path / "model" / RESTORER_FILE
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)
    resign(tmp_path / "model")

    with pytest.raises(BundleError, match="is not finite"):
        load_bundle(tmp_path / "model")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    (tmp_path / "model" / BRAIN_FILE).write_bytes((tmp_path / "model" / RESTORER_FILE).read_bytes())
    resign(tmp_path / "model")

    with pytest.raises(BundleError, match="does not fit the network"):
        load_bundle(tmp_path / "model")


def test_a_network_table_that_builds_nothing_is_refused_with_its_key(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    path = tmp_path / "model" / CARD_NAME
    content = json.loads(path.read_text())
    del content["networks"]["restorer"]["arguments"]["channels"]
    path.write_text(json.dumps(content))

    with pytest.raises(BundleError, match=r"networks.restorer: .*channels"):
        load_bundle(tmp_path / "model")


def test_a_broken_calibration_table_is_refused_with_its_recipe(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    path = tmp_path / "model" / CARD_NAME
    content = json.loads(path.read_text())
    content["calibration"]["cold_mean"]["exceedance"].reverse()
    path.write_text(json.dumps(content))

    with pytest.raises(BundleError, match=r"calibration\.cold_mean: exceedance must be falling"):
        open_card(tmp_path / "model")


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model card"):
        load_bundle(tmp_path / "nothing")


def test_writing_over_a_bundle_replaces_it_whole(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model", seed=1)
    (tmp_path / "model" / "left-over.txt").write_text("of the former version")
    before = card_digest(tmp_path / "model")

    tiny_bundle(tmp_path / "model", seed=2)

    assert card_digest(tmp_path / "model") != before
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        [CARD_NAME, RESTORER_FILE, BRAIN_FILE, "MODEL_CARD.md"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_bundle_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "model")
    before = card_digest(tmp_path / "model")
    too_large = {RESTORER_FILE: {"weight": torch.tensor([1e6])}}  # beyond half precision's 65,504

    with pytest.raises(ValueError, match=r"weight is not finite as torch\.float16"):
        write_bundle(tmp_path / "model", card(), too_large, {})

    assert card_digest(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_card_with_a_broken_table_is_not_written(tmp_path: Path) -> None:
    good = card()
    table = good.calibration["cold_mean"].model_copy(update={"voxels": 0})
    broken = good.model_copy(update={"calibration": {"cold_mean": table}})

    with pytest.raises(BundleError, match="reference of 0 voxels"):
        write_bundle(tmp_path / "model", broken, {}, {})

    assert list(tmp_path.iterdir()) == []


def test_the_same_weights_give_the_same_bundle_byte_for_byte(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "one", seed=3)
    tiny_bundle(tmp_path / "two", seed=3)

    assert card_digest(tmp_path / "one") == card_digest(tmp_path / "two")
    assert read_card(tmp_path / "one") == read_card(tmp_path / "two")


@pytest.mark.parametrize("name", ["abacus", "cuda:99x"])
def test_a_device_that_does_not_exist_is_an_error(name: str) -> None:
    with pytest.raises(BundleError, match="device"):
        choose_device(name)
