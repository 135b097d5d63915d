"""What the node accepts and how it names itself."""

from __future__ import annotations

import pytest
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts

from dicom_node import ae


@pytest.mark.feature("R1")
def test_accepted_syntaxes_are_those_that_installed_decoders_decode() -> None:
    decodable = {str(uid) for uid, (decoder, _) in _PIXEL_DATA_DECODERS.items() if decoder.is_available}

    assert set(ae.transfer_syntaxes()) == decodable


@pytest.mark.feature("R1")
def test_every_storage_class_is_accepted_and_no_other() -> None:
    accepted = ae.storage_classes()

    assert accepted >= {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    named = {UID(uid).name for uid in accepted if UID(uid).name != uid}
    assert [name for name in named if "Storage" not in name and "Image" not in name] == []
    assert not accepted & {"1.2.840.10008.1.1", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.31"}


def test_explicit_little_endian_comes_first_and_big_endian_last() -> None:
    assert ae.transfer_syntaxes()[0] == "1.2.840.10008.1.2.1"
    assert ae.transfer_syntaxes()[-2:] == ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2")


def test_only_proposed_classes_become_contexts() -> None:
    found = ae.Acceptance.installed().contexts(["1.2.840.10008.5.1.4.1.1.4", "1.2.3", "1.2.840.10008.5.1.4.31"])

    assert [str(one.abstract_syntax) for one in found] == ["1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.4"]


def test_implementation_is_named_as_the_standard_wants() -> None:
    assert ae.IMPLEMENTATION_CLASS_UID.is_valid
    assert 1 <= len(ae.implementation_version_name()) <= 16
