"""A real series, GE sagittal IR-SPGR of 196 slices: read, encoded, checked by independent programs."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import read_series
from tests.dicom_node.results.builders import account_of, ball, localization_of
from tests.dicom_node.results.tools import complaints, contradictions, segments_read_by_dcmqi

DEMOGRAPHIC_WARNINGS = ("needed to build DICOMDIR", "Retired Person Name form")
"""What the de-identified source has too: no Study ID, a name without a caret."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    archive = Path(os.environ.get("FOVEA_DATA", "")) / "dicom_ge_sag_spgr" / "series.tar.xz"
    if not archive.is_file():
        message = "the real GE series is not there: set FOVEA_DATA"
        if os.environ.get("FOVEA_REQUIRE_PEERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("ge")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.feature("E8")
@pytest.mark.peer
def test_the_results_of_a_real_series_are_valid_and_read_back_the_same(files: list[Path], tmp_path: Path) -> None:
    series = read_series(files)
    localization = localization_of(series.volume, [ball(series.volume.spatial_shape, (60, 100, 120), (9, 12, 8))])
    account = account_of(series, localization)
    paths = []

    for one in encode(account, identity_of(account)):
        paths.append(tmp_path / f"{one.kind}.dcm")
        paths[-1].write_bytes(one.data)

    assert series.volume.spatial_shape == (196, 256, 256)
    for path in paths:
        assert [line for line in complaints(path) if not any(known in line for known in DEMOGRAPHIC_WARNINGS)] == []
    said = contradictions([*files, paths[0]])
    # not repeated: the source's de-identification codes, which are no valid codes (20 characters in 16);
    # added empty: the referring physician, type 2, whom the source forgot
    remarks = (
        "Element=<DeidentificationMethodCodeSequence>",
        "OK only If Type 2 attribute in that IOD - Element=<ReferringPhysicianName>",
    )
    assert [line for line in said if not any(remark in line for remark in remarks)] == []
    ((mask, affine),) = segments_read_by_dcmqi(paths[0], tmp_path / "dcmqi")
    marked = np.argwhere(localization.labels.array) @ series.volume.affine[:3, :3].T + series.volume.affine[:3, 3]
    read = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    assert len(read) == len(marked)
    assert np.allclose(np.sort(read.round(1), axis=0), np.sort(marked.round(1), axis=0), atol=0.11)
