"""What counts as the same content, and what an archive may change without it being another."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread

from dicom_node.content import differences
from tests import studies
from tests.parcels import results

pytestmark = pytest.mark.feature("V2")


@pytest.fixture(params=[0, 1], ids=["report", "segmentation"])
def ours(request: pytest.FixtureRequest) -> Dataset:
    return dcmread(BytesIO(studies.part10(results()[request.param])))


def test_an_object_is_like_itself_in_another_transfer_syntax(ours: Dataset) -> None:
    theirs = dcmread(BytesIO(studies.part10(studies.recoded(deepcopy(ours), "1.2.840.10008.1.2"))))

    assert differences(ours, theirs) == []


def test_what_an_archive_may_coerce_makes_no_difference(ours: Dataset) -> None:
    theirs = deepcopy(ours)
    theirs.PatientName, theirs.PatientID, theirs.AccessionNumber = "Other^Name", "X", "Y"
    theirs.RetrieveAETitle, theirs.InstanceAvailability = "ARCHIVE", "ONLINE"

    assert differences(ours, theirs) == []


@pytest.mark.parametrize("keyword", ["SeriesDescription", "ContentDate", "SOPInstanceUID", "Manufacturer"])
def test_any_other_element_makes_one(ours: Dataset, keyword: str) -> None:
    theirs = deepcopy(ours)
    setattr(theirs, keyword, {"ContentDate": "19000101", "SOPInstanceUID": "1.2.3"}.get(keyword, "changed"))

    assert differences(ours, theirs) == [keyword]


def test_one_bit_of_a_mask_makes_one() -> None:
    ours = results()[1]
    theirs = deepcopy(ours)
    theirs.PixelData = bytes([theirs.PixelData[0] ^ 1]) + theirs.PixelData[1:]

    assert differences(ours, theirs) == ["PixelData"]


def test_one_word_deep_in_a_report_makes_one() -> None:
    ours = results()[0]
    theirs = deepcopy(ours)
    theirs.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = "Other"

    assert differences(ours, theirs) == ["ContentSequence"]
