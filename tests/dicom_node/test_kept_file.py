"""The digest of pixel data in a kept file: of the value alone, in every encoding of a data set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.intake import Command
from dicom_node.kept_file import data_set_of, file_meta, pixel_digest
from storage.spool import Area, Spool, SpoolError
from tests import studies
from tests.network import EXPLICIT, MR
from tests.studies import Plan

pytestmark = pytest.mark.feature("R6")

SYNTAXES = (EXPLICIT, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PLAN = Plan(slices=1, rows=16, columns=16)


def kept(spool: Spool, syntax: str) -> tuple[str, bytes, bytes]:
    """A received object's path, its data set, and the value of its pixel data element."""
    image = studies.series(PLAN)[0]
    image.file_meta.TransferSyntaxUID = syntax
    data = studies.encoded(image)
    command = Command(str(image.SOPClassUID), str(image.SOPInstanceUID), syntax)
    return spool.write(Area.INSTANCES, "1.2", file_meta(command, "PACS") + data), data, image.PixelData


@pytest.mark.parametrize("syntax", [str(one) for one in SYNTAXES])
def test_digest_is_of_the_value_alone_in_any_encoding(spool: Spool, syntax: str) -> None:
    path, data, pixels = kept(spool, syntax)

    assert pixel_digest(spool, path, syntax) == hashlib.sha256(pixels).hexdigest()
    assert data_set_of(spool.path(path)) == data


@pytest.mark.parametrize("syntax", studies.COMPRESSED_SYNTAXES, ids=lambda uid: uid.keyword)
def test_digest_of_encapsulated_pixels_reaches_to_their_delimiter(spool: Spool, syntax: str) -> None:
    image = studies.compressed(studies.series(replace(PLAN, rows=64, columns=64))[0], syntax)
    command = Command(str(image.SOPClassUID), str(image.SOPInstanceUID), syntax)
    path = spool.write(Area.INSTANCES, "1.2", file_meta(command, "PACS") + studies.encoded(image))

    assert pixel_digest(spool, path, syntax) == hashlib.sha256(image.PixelData).hexdigest()


def test_without_pixels_there_is_no_digest(spool: Spool) -> None:
    image = studies.series(PLAN)[0]
    del image.PixelData
    command = Command(MR, str(image.SOPInstanceUID), EXPLICIT)
    path = spool.write(Area.INSTANCES, "1.2", file_meta(command, "PACS") + studies.encoded(image))

    assert pixel_digest(spool, path, EXPLICIT) is None


def test_a_file_that_is_gone_is_an_error(spool: Spool) -> None:
    path, _, _ = kept(spool, EXPLICIT)
    spool.delete(path)

    with pytest.raises(SpoolError, match="cannot be read"):
        pixel_digest(spool, path, EXPLICIT)
