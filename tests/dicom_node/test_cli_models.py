"""`fovea localize` and its neighbours with input that is none: one clear line and an exit status, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def fovea(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_node.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


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
