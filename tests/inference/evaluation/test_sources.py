"""Folders become studies, tables of participants become traits, and what cannot be used is said by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest

from inference.evaluation.sources import SourceError, folder_source, healthy_volumes, public_set, read_participants


def nifti(path: Path, value: float = 1.0) -> None:
    """A small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((4, 5, 6), value, np.float32), np.eye(4)), path)


@pytest.mark.feature("L5")
def test_images_masks_and_participants_of_a_folder_become_studies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        nifti(tmp_path / f"{name}_FLAIR.nii.gz")
    nifti(tmp_path / "a_mask.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tsex\tsite\na\t61.5\tfemale\tNorth\n")

    studies = {one.patient: one for one in folder_source(tmp_path, "_FLAIR.nii.gz", "_mask.nii.gz", None).studies()}

    assert set(studies) == {"a", "b"}
    assert studies["a"].lesion is not None
    assert studies["a"].lesion.all()
    assert studies["b"].lesion is None
    assert (studies["a"].traits.site, studies["a"].traits.sex, studies["a"].traits.age_years) == ("North", "F", 61.5)
    assert math.isnan(studies["b"].traits.age_years)


@pytest.mark.parametrize(
    "content",
    [[{"patient": "p1", "Age": 40, "Sex": "m", "scanner": "S"}], {"p1": {"age": 40, "sex": "M", "site": "S"}}],
    ids=["list", "object"],
)
def test_participants_are_read_from_json(tmp_path: Path, content: object) -> None:
    path = tmp_path / "participants.json"
    path.write_text(json.dumps(content))

    found = read_participants(path)["p1"]

    assert (found.site, found.sex, found.age_years) == ("S", "M", 40.0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "colour,age\nred,4\n", "no column names the patient"),
        ("p.json", "{broken", "p.json"),
        ("p.json", "[1, 2]", "neither a list of objects"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(SourceError, match=said):
        read_participants(tmp_path / name)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        folder_source(tmp_path / "nowhere", "_FLAIR.nii.gz", "_mask.nii.gz", None)
    with pytest.raises(SourceError, match="no file ends with"):
        folder_source(tmp_path, "_FLAIR.nii.gz", "_mask.nii.gz", None)
    with pytest.raises(SourceError, match="no folder lgg_flair"):
        public_set("lgg", tmp_path)
    with pytest.raises(SourceError, match="no label map"):
        healthy_volumes(1, tmp_path, None)


def test_a_site_s_own_lesion_free_images_can_be_painted_into(tmp_path: Path) -> None:
    nifti(tmp_path / "one.nii.gz", 3.0)

    [volume] = healthy_volumes(2, None, tmp_path)

    assert float(volume.array.max()) == 3.0
