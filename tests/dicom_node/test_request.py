"""Honest association requests pass the look at their shape, also the largest; swollen and broken ones do not."""

from __future__ import annotations

import struct
import time

import pytest
from pynetdicom import AE, build_role
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import AllStoragePresentationContexts

from dicom_node.ae import transfer_syntaxes
from dicom_node.request import MalformedRequest, check_request
from tests.network import EXPLICIT, MR, associate_rq

pytestmark = pytest.mark.feature("R4")

HONEST = associate_rq([(MR, (EXPLICIT,))], calling="MODALITY", called="FOVEA")[6:]


def test_the_largest_request_of_a_real_sender_passes() -> None:
    entity = AE(ae_title="ARCHIVE")
    for context in AllStoragePresentationContexts[:128]:
        entity.add_requested_context(context.abstract_syntax, list(transfer_syntaxes()))
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "ARCHIVE", "FOVEA"
    for number, context in enumerate(entity.requested_contexts):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = entity.requested_contexts
    roles = [build_role(context.abstract_syntax, True, True) for context in entity.requested_contexts]
    request.user_information = [*_general(), *roles]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(request)

    check_request(pdu.encode()[6:])


def _general() -> list[object]:
    from pynetdicom.pdu_primitives import ImplementationClassUIDNotification, MaximumLengthNotification

    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16384
    implementation.implementation_class_uid = "1.2.3"
    return [length, implementation]


@pytest.mark.parametrize("size", range(len(HONEST)))
def test_a_request_that_is_cut_off_anywhere_is_malformed(size: int) -> None:
    with pytest.raises(MalformedRequest):
        check_request(HONEST[:size])


@pytest.mark.parametrize(
    "swollen",
    [
        HONEST + struct.pack(">BxHI", 0x20, 4, 1),
        HONEST + struct.pack(">BxH", 0x20, 0),
        HONEST + struct.pack(">BxH", 0x50, 0),
        HONEST + b"\x20",
        HONEST[:68],
        b"",
    ],
    ids=["context without syntax", "empty context", "second user information", "left over", "no items", "nothing"],
)
def test_broken_requests_are_malformed(swollen: bytes) -> None:
    with pytest.raises(MalformedRequest):
        check_request(swollen)


def test_items_of_a_later_edition_are_passed_over() -> None:
    check_request(HONEST + struct.pack(">BxH", 0x99, 6) + b"future")


def test_a_megabyte_of_items_is_refused_in_milliseconds() -> None:
    swollen = HONEST + struct.pack(">BxH", 0x99, 0) * 250_000
    user = HONEST[:68] + struct.pack(">BxH", 0x50, 60_000) + struct.pack(">BxH", 0x54, 0) * 15_000
    started = time.thread_time()

    for request in (swollen, user):
        with pytest.raises(MalformedRequest):
            check_request(request)

    assert time.thread_time() - started < 5.0
