"""UIDs of results: the same request gives the same bytes, a request that differs gives another object."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from dicom_node.outcome import OutputOptions, PassedOver, Predecessor, Reason
from dicom_node.results.account import Account, Analysis
from dicom_node.results.encode import encode
from dicom_node.results.identity import identity_of
from dicom_node.series import read_series
from tests.dicom_node.results.builders import MODEL, SeriesPlan, account_of, localization_of, two_masks, write


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write(SeriesPlan(), tmp_path / "source")


def told(files: list[Path]) -> Account:
    series = read_series(files)
    return account_of(series, localization_of(series.volume, two_masks(series.volume.spatial_shape)))


def fewer(account: Account) -> Account:
    assert account.analysis is not None
    series = account.analysis.series
    masks = two_masks(series.volume.spatial_shape)[:1]
    return replace(account, analysis=Analysis(series, localization_of(series.volume, masks)))


@pytest.mark.feature("E7")
def test_the_same_request_gives_the_same_bytes(files: list[Path]) -> None:
    once, again = told(files), told(files[::-1])

    assert encode(once, identity_of(once)) == encode(again, identity_of(again))


@pytest.mark.slow
@pytest.mark.feature("E7")
@pytest.mark.parametrize(
    "change",
    [
        lambda account: replace(account, input_digest="99" * 32),
        lambda account: replace(account, model=replace(MODEL, digest="98" * 32)),
        lambda account: replace(account, recipe_digest="97" * 32),
        lambda account: replace(account, output=OutputOptions(station_name="OTHER")),
        lambda account: replace(account, predecessors=(Predecessor("1.2", "1.3", "1.4", "1.5"),)),
        lambda account: replace(account, passed_over=(PassedOver("1.2", 1, "", "MR", Reason("a", "b")),)),
        lambda account: replace(account, taken_series_numbers=(9000,)),
        lambda account: replace(account, quality=("Something else.",)),
        fewer,
    ],
    ids=["input", "model", "recipe", "options", "predecessor", "passed over", "series number", "quality", "findings"],
)
def test_whatever_changes_the_content_changes_every_uid(change, files: list[Path]) -> None:  # type: ignore[no-untyped-def]
    account = told(files)
    before = {one.sop_instance_uid for one in encode(account, identity_of(account))}

    changed = change(account)

    after = {one.sop_instance_uid for one in encode(changed, identity_of(changed))}
    assert len(before) == len(after) == 2
    assert not before & after


@pytest.mark.feature("E7")
def test_a_corrected_patient_gives_new_objects(tmp_path: Path) -> None:
    before = told(write(SeriesPlan(), tmp_path / "before"))
    after = told(write(SeriesPlan(attributes={"PatientName": "Yamada^Hanako"}), tmp_path / "after"))

    assert identity_of(before) != identity_of(after)


def test_every_uid_of_an_object_is_valid_and_its_own(files: list[Path]) -> None:
    account = told(files)
    uids = []
    for one in encode(account, identity_of(account)):
        made = dcmread(BytesIO(one.data))
        assert (made.SOPInstanceUID, made.SeriesInstanceUID) == (one.sop_instance_uid, one.series_instance_uid)
        assert made.file_meta.MediaStorageSOPInstanceUID == one.sop_instance_uid
        uids += [one.sop_instance_uid, one.series_instance_uid]
        uids += [segment.TrackingUID for segment in made.get("SegmentSequence", [])]
        uids += [item.DimensionOrganizationUID for item in made.get("DimensionOrganizationSequence", [])]

    assert len(set(uids)) == len(uids) == 7  # two objects of two UIDs, two findings, one dimension organization
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)
