"""Why a series cannot be made a volume: stable codes, and the exception that carries one with its numbers."""

from __future__ import annotations

from enum import StrEnum


class Unsuitable(StrEnum):
    """The reason codes of series that cannot be made a volume. They are part of reports and audit: never rename one."""

    NO_FILES = "no-files"
    UNREADABLE = "unreadable"
    MIXED_SERIES = "mixed-series"
    NO_PIXEL_DATA = "no-pixel-data"
    NOT_MONOCHROME = "not-monochrome"
    TOO_LARGE = "too-large"
    MISSING_GEOMETRY = "missing-geometry"
    BAD_GEOMETRY = "bad-geometry"
    NO_FRAME_OF_REFERENCE = "no-frame-of-reference"
    MIXED_FRAME_OF_REFERENCE = "mixed-frame-of-reference"
    MIXED_ORIENTATION = "mixed-orientation"
    MIXED_SIZE = "mixed-size"
    MIXED_PIXEL_SPACING = "mixed-pixel-spacing"
    TOO_FEW_SLICES = "too-few-slices"
    DUPLICATE_POSITION = "duplicate-position"
    GAP = "gap"
    IRREGULAR_SPACING = "irregular-spacing"
    SHEARED = "sheared"
    SEVERAL_ECHOES = "several-echoes"
    SEVERAL_B_VALUES = "several-b-values"
    SEVERAL_STACKS = "several-stacks"
    SEVERAL_MULTIFRAME = "several-multiframe"
    UNDECODABLE = "undecodable"
    BAD_RESCALE = "bad-rescale"


class UnsuitableSeries(Exception):
    """Raised when a series cannot be made a volume; the text holds the numbers that decided, and no patient's name."""

    def __init__(self, code: Unsuitable, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
