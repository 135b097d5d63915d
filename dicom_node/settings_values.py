"""What a value of the settings may be, and what each of their sections is."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ae_title(value: str) -> str:
    """PS3.5 6.2: 1 to 16 characters of the default repertoire, no backslash, no control character, not only spaces."""
    stripped = value.strip(" ")
    if not 1 <= len(stripped) <= 16 or not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]+", stripped):
        raise ValueError(f"an AE title has 1 to 16 printable ASCII characters and no backslash, not {value!r}")
    return stripped


def _network(value: str) -> str:
    ip_network(value, strict=False)
    return value


def _http_url(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("a DICOMweb address looks like https://pacs.example/dicom-web, without user, query or fragment")
    return value.rstrip("/")


def _ae_title_or_none(value: str) -> str:
    return _ae_title(value) if value else value


OptionalAeTitle = Annotated[str, AfterValidator(_ae_title_or_none)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
AeTitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Range = tuple[float, float]
ReceivePath = Literal["stream", "plain"]
ResultWord = Literal["seg", "sr", "parametric-map", "uncertainty", "pseudo-healthy", "capture", "presentation-state", "pdf"]
ALWAYS_SENT = frozenset({"seg", "sr"})
"""Where nothing was found there is no segmentation, and only the report says so; neither can be left out."""


def _result_words(words: tuple[ResultWord, ...]) -> tuple[ResultWord, ...]:
    if missing := ALWAYS_SENT - set(words):
        raise ValueError(f"{', '.join(sorted(missing))} is missing: segmentation and report are always made and sent")
    if len(set(words)) < len(words):
        raise ValueError("an object is named twice")
    return words


ResultWords = Annotated[tuple[ResultWord, ...], AfterValidator(_result_words)]


class Section(BaseModel):
    """One table of the file: nothing unknown in it, and nothing changes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
