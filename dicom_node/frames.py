"""What parent and child of a run write to each other: length-prefixed frames, an outcome as a JSON head and its bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import IO, Any

from dicom_node.outcome import Picture, ResultObject, RunOutcome, Summary

LENGTH = struct.Struct(">Q")


def encode_outcome(outcome: RunOutcome) -> tuple[bytes, list[bytes]]:
    """A JSON head that describes the outcome, and the bytes of its objects and pictures in order."""
    objects = [{k: v for k, v in asdict(one).items() if k != "data"} for one in outcome.objects]
    pictures = [{"name": one.name, "caption": one.caption} for one in outcome.pictures]
    head = {"objects": objects, "pictures": pictures, "summary": outcome.summary.as_json()}
    blobs = [one.data for one in outcome.objects] + [one.data for one in outcome.pictures]
    return json.dumps(head).encode(), blobs


def decode_outcome(head: dict[str, Any], blobs: list[bytes]) -> RunOutcome:
    """The outcome from its head and bytes."""
    count = len(head["objects"])
    return RunOutcome(
        objects=tuple(ResultObject(**one, data=data) for one, data in zip(head["objects"], blobs[:count], strict=True)),
        pictures=tuple(Picture(**one, data=data) for one, data in zip(head["pictures"], blobs[count:], strict=True)),
        summary=Summary.from_json(head["summary"]),
    )


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """One length-prefixed frame."""
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
