"""`fovea train` on a folder of DICOM as an archive exports it: the suited series are taken, the others said and left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.cli_train import suitable
from inference.data import DicomFolder, SeriesLeftOut
from tests import studies
from tests.studies import T1, Patient, Plan, save, series

pytestmark = pytest.mark.feature("L4")
SMALL = Plan(slices=20, rows=48, columns=48, pixel_spacing_mm=(4.0, 4.0))
CHILD = Plan(slices=20, rows=48, columns=48, study="child", patient=Patient("CHILD-1", age="009Y"))


def test_of_one_folder_with_many_series_the_flair_alone_is_taken(tmp_path: Path) -> None:
    t1 = series(Plan(slices=20, rows=48, columns=48, kind=T1, series="t1", series_number=4))
    save([*series(SMALL), *t1, *studies.localizer(SMALL)], tmp_path)

    [study] = DicomFolder(tmp_path, suitable).studies()

    assert study.volume.spatial_shape == (20, 48, 48)
    assert study.lesion is None


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (series(Plan(slices=20, rows=48, columns=48, kind=T1)), "the model is for FLAIR"),
        (series(CHILD), "patient age 9 years"),
        (series(SMALL)[:9] + series(SMALL)[10:], "slice gap"),
    ],
    ids=["T1", "child", "gap"],
)
def test_a_series_that_the_node_would_refuse_is_no_training_material(images: list[object], told: str, tmp_path: Path) -> None:
    files = save(images, tmp_path)  # type: ignore[arg-type]  # datasets

    with pytest.raises(SeriesLeftOut, match=told):
        suitable(files)


def test_a_folder_without_a_usable_study_is_an_error_that_names_it(tmp_path: Path) -> None:
    save(series(Plan(slices=20, rows=48, columns=48, kind=T1)), tmp_path / "scans")

    done = CliRunner().invoke(
        app, ["train", "dae", "--data", str(tmp_path / "scans"), "--out", str(tmp_path / "b"), "--steps", "1"]
    )

    assert done.exit_code != 0
    assert "scans: no study that can be used" in str(done.exception)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_trained_bundle_carries_its_phantom_grid(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "dae", "--out", str(tmp_path / "bundle"), "--steps", "2", "--threads", "1"])

    assert done.exit_code == 0, done.output
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Painted lesions 50 % darker" in card
    assert "(detection-bias-dae.svg)" in card
    assert (tmp_path / "bundle" / "detection-bias-dae.svg").exists()
