"""`fovea localize` and its neighbours with input that is none: one clear line and an exit status, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inference.data import axial_volume
from inference.phantom import synthetic_head

pytestmark = pytest.mark.slow


def fovea(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_node.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_a_nifti_head_becomes_maps_findings_and_pictures_with_cost_and_distance(tmp_path: Path) -> None:
    head = synthetic_head(seed=8, shape=(20, 112, 104), spacing_mm=(7.0, 2.0, 2.0), lesions=1)
    nibabel.save(axial_volume(head.image.astype(np.float32), head.spacing_mm).to_nibabel(), tmp_path / "head.nii.gz")

    done = fovea("localize", tmp_path / "head.nii.gz", "--recipe", "intensity", "--out", tmp_path / "out")

    facts = json.loads((tmp_path / "out" / "findings.json").read_text())
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert done.returncode == 0, done.stderr
    assert {"score.nii.gz", "raw.nii.gz", "brain.nii.gz", "labels.nii.gz", "pseudo_healthy.nii.gz", "findings.json"} <= made
    assert any(name.endswith(".png") for name in made)
    assert facts["provenance"]["recipe"] == "intensity"
    assert facts["provenance"]["cost"]["network_evaluations"] == 20  # the brain mask's, one for each slice
    assert facts["domain"]["distance"] > 0
    assert "GFLOP" in done.stdout
    assert "distance from what the model was calibrated on" in done.stdout


@pytest.mark.parametrize("name", ["image.dcm", "image.nii.gz"])
def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text("hello", encoding="utf-8")

    done = fovea("localize", source, "--out", tmp_path / "out")

    assert done.returncode == 3
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_training_recipe_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = fovea("train", "nothing", "--out", tmp_path / "out", "--work", tmp_path / "work")

    assert done.returncode == 2
    assert "brain-flair" in done.stderr
    assert "anoddpm" in done.stderr


def test_a_method_that_nobody_installed_cannot_be_checked(tmp_path: Path) -> None:
    done = fovea("check-localizer", "nobody", "--bundle", tmp_path)

    assert done.returncode == 2
    assert "no model card" in done.stderr
    assert "Traceback" not in done.stderr
