"""Enhanced multi-frame MR: one instance is one volume, and results name its frames."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedMRImage
from pydicom import Dataset, dcmread

from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import SeriesVolume, read_series
from tests.dicom_node.results.builders import SeriesPlan, account_of, datasets, localization_of, save, two_masks
from tests.dicom_node.results.tools import complaints, segments_read_by_dcmqi


@pytest.fixture
def classic(tmp_path: Path) -> SeriesVolume:
    return read_series(save(datasets(SeriesPlan()), tmp_path / "classic"))


@pytest.fixture
def enhanced(tmp_path: Path) -> SeriesVolume:
    made = datasets(SeriesPlan())
    order = np.random.default_rng(3).permutation(len(made))
    image = LegacyConvertedEnhancedMRImage(
        legacy_datasets=[made[index] for index in order],
        series_instance_uid="1.2.826.0.1.3680043.8.498.1.6",
        series_number=6,
        sop_instance_uid="1.2.826.0.1.3680043.8.498.1.6.1",
        instance_number=1,
    )
    path = tmp_path / "enhanced.dcm"
    image.save_as(path)
    return read_series([path])


def test_a_multiframe_instance_is_the_same_volume(enhanced: SeriesVolume, classic: SeriesVolume) -> None:
    assert np.array_equal(enhanced.volume.array, classic.volume.array)
    assert np.allclose(enhanced.volume.affine, classic.volume.affine, atol=1e-6)
    assert sorted(enhanced.frames) == list(range(1, 13))
    assert len(enhanced.source) == 1


@pytest.mark.feature("E1")
def test_every_frame_of_the_segmentation_names_the_frame_it_lies_on(enhanced: SeriesVolume, tmp_path: Path) -> None:
    localization = localization_of(enhanced.volume, two_masks(enhanced.volume.spatial_shape))
    account = account_of(enhanced, localization)
    paths = []
    for one in encode(account, identity_of(account)):
        paths.append(tmp_path / f"{one.kind}.dcm")
        paths[-1].write_bytes(one.data)

    made = dcmread(paths[0])
    for frame in made.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        theirs = _position(enhanced.source[0], source.ReferencedFrameNumber)
        assert np.allclose(frame.PlanePositionSequence[0].ImagePositionPatient, theirs, atol=1e-4)
    assert [complaints(path) for path in paths] == [[], []]
    for number, (mask, _) in enumerate(segments_read_by_dcmqi(paths[0], tmp_path / "dcmqi"), start=1):
        assert np.count_nonzero(mask) == np.count_nonzero(localization.labels.array == number)


def _position(instance: Dataset, frame: int) -> list[float]:
    groups = instance.PerFrameFunctionalGroupsSequence[frame - 1]
    return [float(value) for value in groups.PlanePositionSequence[0].ImagePositionPatient]


def test_the_report_of_a_multiframe_series_can_be_read(enhanced: SeriesVolume) -> None:
    account = account_of(enhanced, localization_of(enhanced.volume, two_masks(enhanced.volume.spatial_shape)))

    report = dcmread(BytesIO(encode(account, identity_of(account))[-1].data))

    assert report.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID == report.StudyInstanceUID
