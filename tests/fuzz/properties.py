"""What must hold of every input: only the declared refusal, work and memory in proportion, and agreement with pydicom."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node import dimse, header, intake, request, scan, text
from dicom_node.dimse import UnreadableCommand, command_elements, store_request
from dicom_node.header import InstanceHeader
from dicom_node.intake import ALWAYS_INFLATED_BYTES, MAXIMUM_INFLATE_RATIO, Examined, Refused, Status, examine
from dicom_node.request import MalformedRequest, check_request
from dicom_node.scan import UNDEFINED
from tests.fuzz.corpus import Sample, as_pydicom_reads, with_data
from tests.fuzz.guided import Guided

REFUSALS = (Status.CANNOT_UNDERSTAND, Status.DOES_NOT_MATCH, Status.OUT_OF_RESOURCES)
LINES_PER_BYTE = 8
"""An empty element has eight bytes and costs about fifty lines."""
LINES_AT_LEAST = 4000
"""What the facts of an object cost whatever its size."""
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def judged(one: Sample) -> Examined | Status:
    """The facts or the refusal's status; any other exception passes through."""
    try:
        return examine(one.data, one.command)
    except Refused as refusal:
        if refusal.status not in REFUSALS:
            raise AssertionError(f"a status that intake does not give: 0x{refusal.status:04X}") from refusal
        return refusal.status


def plain_size(one: Sample) -> int:
    """The largest number of bytes that may have to be looked at."""
    if one.command.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return max(ALWAYS_INFLATED_BYTES, MAXIMUM_INFLATE_RATIO * len(one.data))
    return len(one.data)


def agrees_with_pydicom(one: Sample, found: Examined) -> None:
    """What was accepted pydicom reads to its end, and it finds the same identity.

    Not where it loses its way: at a VR that it does not know it says NotImplementedError or reads a length of 16 bits (PS3.5
    7.1.2: every VR to come has 32), and it ends an unknown sequence of undefined length at the first delimiter inside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = as_pydicom_reads(one)
        with suppress(NotImplementedError, LostItsWay):
            _walk(read)
            for keyword in IDENTITY:
                assert str(read.get(keyword, "")).strip(" \0") == identity_of(found)[keyword], keyword


def identity_of(found: Examined) -> dict[str, str]:
    """The UIDs as intake read them."""
    values = (
        found.study_instance_uid,
        found.series_instance_uid,
        found.command.sop_instance_uid,
        found.command.sop_class_uid,
    )
    return dict(zip(IDENTITY, values, strict=True))


class LostItsWay(Exception):
    """Raised where pydicom took the end of an inner sequence for that of the outer one, and what follows for elements."""


def _walk(dataset: Dataset) -> None:
    """Look at every element's place in every item; values stay raw."""
    for tag in list(dataset.keys()):
        element: Any = dataset.get_item(tag)
        if element.VR in (None, "UN") and getattr(element, "length", 0) == UNDEFINED:
            raise LostItsWay
        if element.VR == "SQ":
            for item in dataset[tag].value:
                _walk(item)


def fuzz_intake(seeds: Sequence[Sample], *, count: int, seconds: float, seed: int) -> Guided[Sample]:
    """Mutate the samples under guidance; each input is held to every property. The fuzzer with its figures."""
    guided = Guided([(one, one.data) for one in seeds], (scan, intake, text, header), seed)
    traced = guided.tracer()
    for label, data in guided.inputs(count=count, seconds=seconds):
        one = with_data(label, data)
        verdict = traced.run(lambda one=one: judged(one))
        limit = LINES_AT_LEAST + LINES_PER_BYTE * plain_size(one)
        assert traced.work <= limit, f"{traced.work} lines for {len(data)} bytes"
        guided.learn(label, data, traced)
        if isinstance(verdict, Examined):
            stored = verdict.header.as_json()
            assert InstanceHeader.from_json(stored).as_json() == stored
    return guided


def memory_of(one: Sample) -> int:
    """Peak of the memory allocated while the object is examined, in bytes."""
    tracemalloc.start()
    try:
        judged(one)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def fuzz_requests(seeds: Sequence[bytes], *, count: int, seconds: float, seed: int) -> Guided[None]:
    """Association requests: MalformedRequest or nothing, in proportion."""
    guided = Guided([(None, data) for data in seeds], (request,), seed)
    traced = guided.tracer()
    for label, data in guided.inputs(count=count, seconds=seconds):
        with suppress(MalformedRequest):
            traced.run(lambda data=data: check_request(data))
        assert traced.work <= 100 + 8 * len(data)
        guided.learn(label, data, traced)
    return guided


def fuzz_commands(seeds: Sequence[bytes], *, count: int, seconds: float, seed: int) -> Guided[None]:
    """Command sets: UnreadableCommand or a request."""
    guided = Guided([(None, data) for data in seeds], (dimse,), seed)
    traced = guided.tracer()
    for label, data in guided.inputs(count=count, seconds=seconds):
        with suppress(UnreadableCommand):
            traced.run(lambda data=data: store_request(1, command_elements(data)))
        assert traced.work <= 100 + 4 * len(data)
        guided.learn(label, data, traced)
    return guided
