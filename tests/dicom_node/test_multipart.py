"""multipart/related in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.multipart import (
    MAXIMUM_HEAD_BYTES,
    Event,
    NotMultipart,
    PartBegins,
    PartData,
    PartEnds,
    Splitter,
    boundary_of,
)

pytestmark = pytest.mark.feature("R9")


def encoded(contents: list[bytes], boundary: str = "b", head: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    parts = b"".join(b"--" + boundary.encode() + b"\r\n" + head + b"\r\n" + one + b"\r\n" for one in contents)
    return parts + b"--" + boundary.encode() + b"--\r\n"


def fed(body: bytes, size: int, boundary: str = "b") -> tuple[list[tuple[str, bytes]], Splitter]:
    """Content type and content of each finished part."""
    splitter = Splitter(boundary)
    parts: list[tuple[str, bytes]] = []
    content_type, content = "", b""
    for start in range(0, len(body), size):
        for event in splitter.feed(body[start : start + size]):
            match event:
                case PartBegins(told):
                    content_type, content = told, b""
                case PartData(more):
                    content += more
                case PartEnds():
                    parts.append((content_type, content))
    return parts, splitter


LOOK_ALIKES = [b"\r\n", b"\r\n--", b"\r\n--b", b"--b--", b"\r\n--bb\r\nx", b"\r\n--b x"]


@given(st.lists(st.binary(max_size=200) | st.sampled_from(LOOK_ALIKES)), st.integers(1, 300))
def test_every_part_comes_back_whatever_the_pieces(contents: list[bytes], size: int) -> None:
    """A delimiter's look-alike inside a part stays part of it."""
    genuine = [one for one in contents if b"\r\n--b--" not in b"\r\n" + one and b"\r\n--b\r\n" not in b"\r\n" + one + b"\r\n"]

    parts, splitter = fed(encoded(genuine), size)

    assert [content for _, content in parts] == genuine
    assert splitter.is_complete


def test_preamble_epilogue_padding_and_other_header_fields() -> None:
    head = b"ignored\r\n--b  \r\nContent-Length: 3\r\ncontent-type: Application/DICOM; transfer-syntax=1.2\r\n\r\n"
    body = head + b"abc\r\n--b--\r\nignored"

    assert fed(body, 7)[0] == [("application/dicom", b"abc")]


def test_a_part_without_header_fields() -> None:
    assert fed(b"--b\r\n\r\nabc\r\n--b--", 4)[0] == [("", b"abc")]


def test_a_body_that_breaks_off_is_not_complete() -> None:
    whole = encoded([b"abc", b"def"])

    parts, splitter = fed(whole[:-12], 5)

    assert parts == [("application/dicom", b"abc")]
    assert not splitter.is_complete


def test_endless_header_fields_are_not_collected() -> None:
    splitter = Splitter("b")
    list(splitter.feed(b"--b\r\n" + b"X: y\r\n" * 1000))

    with pytest.raises(NotMultipart, match="8192"):
        list(splitter.feed(b"X: y\r\n" * 1000))


def test_no_more_than_a_delimiter_is_held_back() -> None:
    splitter = Splitter("b")
    list(splitter.feed(b"--b\r\n\r\n"))

    data: list[Event] = list(splitter.feed(b"x" * 100_000))

    assert sum(len(one.content) for one in data if isinstance(one, PartData)) >= 100_000 - len("\r\n--b")
    assert len(splitter._held) < MAXIMUM_HEAD_BYTES


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("", "not multipart"),
        ("application/dicom", "not multipart"),
        ("multipart/form-data; boundary=b", "not multipart"),
        ('multipart/related; type="application/dicom+json"; boundary=b', "not of type"),
        ('multipart/related; type="application/dicom"', "no boundary"),
        (f'multipart/related; type="application/dicom"; boundary={"b" * 129}', "no boundary"),
        ('multipart/related; type="application/dicom"; boundary="b\u00e9"', "no boundary"),
    ],
)
def test_other_content_types(content_type: str, reason: str) -> None:
    with pytest.raises(NotMultipart, match=reason):
        boundary_of(content_type, "application/dicom")


@pytest.mark.parametrize(
    "content_type", ['multipart/related; type="application/dicom"; boundary="a b=c"', "Multipart/Related; boundary=a1"]
)
def test_boundaries_quoted_or_not(content_type: str) -> None:
    assert boundary_of(content_type, "application/dicom") in ("a b=c", "a1")
