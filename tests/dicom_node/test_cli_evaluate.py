"""`fovea evaluate` and `fovea phantom-grid` from the command line: a folder in, a table, JSON and a report out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.catalog import shipped_models
from dicom_node.cli import app
from inference.bundle import open_card
from inference.data import axial_volume
from inference.phantom import synthetic_head

pytestmark = pytest.mark.feature("L5")
PATIENTS = 6
INTENSITY = ("--recipe", "intensity")
"""The recipe without a restorer: the commands are tested here, not the model."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, and six heads made by code with a bright lesion each, marked."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(shipped_models() / "brain-flair", folder / "bundle")
    (folder / "studies").mkdir()
    for number in range(PATIENTS):
        one = synthetic_head(seed=40 + number, shape=(20, 112, 104), spacing_mm=(7.0, 2.0, 2.0), lesions=1)
        for name, array in (("FLAIR", one.image), ("mask", one.lesion)):
            volume = axial_volume(array.astype(np.float32), one.spacing_mm)
            nibabel.save(volume.to_nibabel(), folder / "studies" / f"p{number}_{name}.nii.gz")
    table = "".join(f"p{number},{40 + number},F\n" for number in range(PATIENTS))
    (folder / "studies" / "participants.csv").write_text("patient,age,sex\n" + table)
    return folder


def run(*words: str | Path) -> tuple[int, str, str]:
    """Exit status, answer, and what was said beside it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, str(result.exception or "")


@pytest.mark.slow
def test_a_folder_of_studies_gives_a_table_json_charts_and_a_report(place: Path) -> None:
    out = place / "report"

    status, told, said = run("evaluate", place / "bundle", *INTENSITY, "--data", place / "studies", "--out", out, "--draws", "50")

    assert status == 0, said
    assert "6 patients, 120 slices" in told
    assert "report.html" in told
    content = json.loads((out / "evaluation.json").read_text())
    [one] = content["sets"]
    assert (one["patients"], one["refused"]) == (PATIENTS, [])
    [localizer] = one["localizers"]
    assert localizer["maps"]["score"]["figures"]["ap_pooled"]["value"] > one["prevalence"]
    assert {part["kind"] for part in localizer["strata"]} >= {"sex", "age", "lesion volume"}
    assert "did worst" in (out / "report.html").read_text()
    assert list(out.glob("*-precision.svg"))


@pytest.mark.slow
def test_thresholds_fixed_on_another_folder_are_named(place: Path) -> None:
    status, told, said = run(
        "evaluate",
        place / "bundle",
        *INTENSITY,
        "--data",
        place / "studies",
        "--fixed-on",
        "development",
        "--draws",
        "20",
        "--json",
    )

    assert status == 0, said
    [one] = json.loads(told)["sets"]
    assert "other patients of studies" in one["fixed_on"]
    assert 0 < one["patients"] < PATIENTS


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("evaluate",), "--data"),
        (("evaluate", "--data", "nowhere"), "no such folder"),
        (("evaluate", "--data", ".", "--set", "moon"), "there are lgg, wmh, ms"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(words: tuple[str, ...], reason: str, place: Path) -> None:
    given = [words[0], str(place / "bundle"), *words[1:]]

    status, _, said = run(*given)

    assert status != 0
    assert reason in said


@pytest.mark.slow
def test_the_same_patients_may_not_fix_and_be_measured(place: Path) -> None:
    status, _, said = run(
        "evaluate", place / "bundle", *INTENSITY, "--data", place / "studies", "--fixed-on", place / "studies", "--draws", "5"
    )

    assert status != 0
    assert "both fixed the thresholds" in said


@pytest.mark.slow
@pytest.mark.feature("L6")
def test_the_phantom_grid_is_written_and_put_onto_the_card(place: Path) -> None:
    healthy = place / "healthy"
    healthy.mkdir()
    head = synthetic_head(seed=50, shape=(20, 112, 104), spacing_mm=(7.0, 2.0, 2.0), lesions=0)
    nibabel.save(axial_volume(head.image, head.spacing_mm).to_nibabel(), healthy / "one.nii.gz")
    before = open_card(place / "bundle")

    status, told, said = run(
        "phantom-grid",
        place / "bundle",
        *INTENSITY,
        "--healthy",
        healthy,
        "--heads",
        "1",
        "--each",
        "2",
        "--out",
        place / "grid",
        "--attach",
    )

    assert status == 0, said
    assert "20 mm" in told
    assert "Bright lesions are found" in told
    content = json.loads((place / "grid" / "phantom-grid.json").read_text())
    assert len(content["intensity"]["cells"]) == 30
    after = open_card(place / "bundle")
    assert "detection-bias-intensity.svg" in after.files
    assert after.blind_spots[0].startswith("Painted lesions 50 % darker")
    assert "(detection-bias-intensity.svg)" in (place / "bundle" / "MODEL_CARD.md").read_text()
    assert {name: after.files[name] for name in before.files if name.endswith(".safetensors")} == {
        name: digest for name, digest in before.files.items() if name.endswith(".safetensors")
    }
