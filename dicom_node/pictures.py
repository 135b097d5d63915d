"""Pictures of a run for the web page: one PNG for each finding, and one sheet that shows them all.

Each picture is the slice on which the finding is largest, turned so that the patient faces as a radiologist expects
(right of the patient on the left of an axial picture), with outline, orientation letters and a scale. No patient name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicom_node.outcome import Picture
from dicom_node.results.colours import Rgb, colour_of
from dicom_node.results.outline import outlines
from dicom_node.series import SeriesVolume
from inference.types import Finding, Localization

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

LONGER_SIDE = 512
"""Pixels of a picture's longer side."""
SHEET_SIDE = 256
SHEET_COLUMNS = 4
SHEET_SLICES = 12
"""Slices shown on the sheet where nothing was found."""
SHEET_FINDINGS = 12
MAXIMUM_PICTURES = 20
"""Findings that get a picture of their own; the sheet and the report tell of the rest."""
SCALE_MM = 50.0
MARGIN = 6
LETTERS = (("L", "R"), ("P", "A"), ("H", "F"))
"""For each LPS axis the letter of its positive and of its negative end."""
UPRIGHT = {0: "PF", 1: "LF", 2: "LP"}
"""By the LPS axis nearest to the slice normal: where columns and rows of a picture must run to be read as usual."""
TEXT: Rgb = (235, 235, 235)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One slice turned for reading: grey[row, column] from 0 to 1, labels alike, spacing and what lies at each edge."""

    index: int
    grey: FloatArray
    labels: NDArray[np.uint16]
    spacing_mm: tuple[float, float]
    edges: tuple[str, str, str, str]
    """Letters left, right, top, bottom."""


def draw(series: SeriesVolume, localization: Localization) -> tuple[Picture, ...]:
    """One picture for each finding, largest first, and before them the sheet of the run."""
    volume = series.volume
    window = window_of(volume.array, localization.brain.array > 0)
    findings = localization.findings[:MAXIMUM_PICTURES]
    pictures = [_sheet(series, localization, window)]
    for finding in findings:
        shown = turned(volume, localization.labels, _largest_slice(localization, finding), window)
        picture = render(shown, LONGER_SIDE, {finding.number})
        caption = f"Finding {finding.number}, {_image_name(series, shown.index)}"
        pictures.append(Picture(f"finding-{finding.number:02}.png", caption, _png(picture)))
    return tuple(pictures)


def window_of(array: FloatArray, brain: BoolArray) -> tuple[float, float]:
    """Lowest and highest grey: the 1st and 99.5th percentile inside the brain, with room above for bright lesions."""
    inside = array[brain] if brain.any() else array.ravel()
    low, high = np.percentile(inside, [1.0, 99.5])
    low = min(float(low), float(np.percentile(array, 1.0)))
    return low, max(float(high) + 0.25 * (float(high) - low), low + 1e-6)


def turned(volume: Volume, labels: Volume, index: int, window: tuple[float, float]) -> Slice:
    """The slice of that index on the volume's grid, flipped and transposed for reading."""
    low, high = window
    grey = np.clip((volume.array[index] - low) / (high - low), 0, 1)
    mask = labels.array[index]
    down, right = volume.affine[:3, 1], volume.affine[:3, 2]
    down_axis, right_axis = int(np.argmax(np.abs(down))), int(np.argmax(np.abs(right)))
    normal_axis = 3 - down_axis - right_axis if down_axis != right_axis else 2
    wanted_right = {"P": 1, "L": 0}[UPRIGHT[normal_axis][0]]
    if right_axis != wanted_right and down_axis == wanted_right:
        grey, mask, down, right = grey.T, mask.T, right, down
    if right[wanted_right] < 0:
        grey, mask, right = grey[:, ::-1], mask[:, ::-1], -right
    wanted_down, sign = {"F": (2, -1), "P": (1, 1)}[UPRIGHT[normal_axis][1]]
    if sign * down[wanted_down] < 0:
        grey, mask, down = grey[::-1], mask[::-1], -down
    edges = (_letters(-right), _letters(right), _letters(-down), _letters(down))
    spacing_mm = (float(np.linalg.norm(down)), float(np.linalg.norm(right)))
    return Slice(index, np.ascontiguousarray(grey), np.ascontiguousarray(mask), spacing_mm, edges)


def render(shown: Slice, longer_side: int, numbers: set[int]) -> Image.Image:
    """The slice as an RGB picture with square pixels, the findings of these numbers outlined and lettered."""
    rows, columns = shown.grey.shape
    size_mm = (columns * shown.spacing_mm[1], rows * shown.spacing_mm[0])
    pixels_per_mm = longer_side / max(size_mm)
    size = (round(size_mm[0] * pixels_per_mm), round(size_mm[1] * pixels_per_mm))
    grey = Image.fromarray((shown.grey * 255).round().astype(np.uint8))
    picture = grey.resize(size, Image.Resampling.BICUBIC).convert("RGB")
    pen = ImageDraw.Draw(picture)
    scale = np.array([size[0] / columns, size[1] / rows])
    for number in sorted(numbers):
        for place, loop in enumerate(outlines(shown.labels == number)):
            points = [(float(x), float(y)) for x, y in loop * scale]
            pen.line(points, fill=colour_of(number), width=2 if longer_side > SHEET_SIDE else 1)
            if place == 0:
                _number_beside(pen, number, points)
    _letter_edges(pen, shown, size)
    _draw_scale(pen, pixels_per_mm, size)
    return picture


def _image_name(series: SeriesVolume, index: int) -> str:
    """What a viewer calls the slice: its Instance Number, or the frame of a multi-frame image."""
    if not series.source:
        return f"slice {index + 1}"
    instance, frame = series.source_of(index)
    if frame is not None:
        return f"frame {frame}"
    number = instance.get("InstanceNumber")
    return f"slice {index + 1}" if number is None else f"image {number}"


def _sheet(series: SeriesVolume, localization: Localization, window: tuple[float, float]) -> Picture:
    volume = series.volume
    findings = localization.findings[:SHEET_FINDINGS]
    if findings:
        indices = sorted({_largest_slice(localization, finding) for finding in findings})
        caption = f"{len(indices)} slices with the largest findings outlined"
    else:
        indices = _spread_over_brain(localization)
        caption = f"{len(indices)} slices through the brain; nothing was marked"
    numbers = {finding.number for finding in localization.findings}
    tiles = [render(turned(volume, localization.labels, index, window), SHEET_SIDE, numbers) for index in indices]
    for tile, index in zip(tiles, indices, strict=True):
        pen = ImageDraw.Draw(tile)
        font = ImageFont.load_default(12)
        text = _image_name(series, index)
        pen.text((tile.width - MARGIN, tile.height - MARGIN), text, TEXT, font, anchor="rs", stroke_width=1, stroke_fill=0)
    return Picture("sheet.png", caption, _png(_tiled(tiles)))


def _tiled(tiles: Sequence[Image.Image]) -> Image.Image:
    width = max(tile.width for tile in tiles)
    height = max(tile.height for tile in tiles)
    columns = min(SHEET_COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    return sheet


def _spread_over_brain(localization: Localization) -> list[int]:
    with_brain = np.flatnonzero(localization.brain.array.any(axis=(1, 2)))
    if not len(with_brain):
        with_brain = np.arange(len(localization.brain.array))
    chosen = np.linspace(0, len(with_brain) - 1, min(SHEET_SLICES, len(with_brain))).round().astype(int)
    return [int(index) for index in with_brain[chosen]]


def _largest_slice(localization: Localization, finding: Finding) -> int:
    return int(np.argmax(np.count_nonzero(localization.labels.array == finding.number, axis=(1, 2))))


def _letters(direction: NDArray[np.float64]) -> str:
    """The patient's side in that direction: the nearest letter, a second where the slice is oblique by over 15 degrees."""
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit))
    oblique = np.sin(np.radians(15.0))
    told = [axis for place, axis in enumerate(order[:2]) if place == 0 or abs(unit[axis]) > oblique]
    return "".join(LETTERS[axis][0 if unit[axis] > 0 else 1] for axis in told)


def _number_beside(pen: ImageDraw.ImageDraw, number: int, points: Sequence[tuple[float, float]]) -> None:
    x, y = max(points, key=lambda point: point[0] - point[1])
    font = ImageFont.load_default(14)
    pen.text((x + 3, y - 1), str(number), colour_of(number), font, anchor="ls", stroke_width=1, stroke_fill=0)


def _letter_edges(pen: ImageDraw.ImageDraw, shown: Slice, size: tuple[int, int]) -> None:
    width, height = size
    font = ImageFont.load_default(max(12, width // 28))
    places = (
        ((MARGIN, height / 2), "lm"),
        ((width - MARGIN, height / 2), "rm"),
        ((width / 2, MARGIN), "mt"),
        ((width / 2, height - MARGIN), "mb"),
    )
    for letters, (at, anchor) in zip(shown.edges, places, strict=True):
        pen.text(at, letters, TEXT, font, anchor=anchor, stroke_width=1, stroke_fill=0)


def _draw_scale(pen: ImageDraw.ImageDraw, pixels_per_mm: float, size: tuple[int, int]) -> None:
    length = SCALE_MM * pixels_per_mm
    y = size[1] - MARGIN
    pen.line([(MARGIN, y), (MARGIN + length, y)], fill=TEXT, width=2)
    for x in (MARGIN, MARGIN + length):
        pen.line([(x, y - 4), (x, y)], fill=TEXT, width=2)
    font = ImageFont.load_default(12)
    pen.text((MARGIN, y - 6), f"{SCALE_MM / 10:g} cm", TEXT, font, anchor="ls", stroke_width=1, stroke_fill=0)


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
