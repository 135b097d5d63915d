"""Warnings written into the pixels, for viewers that show neither descriptions nor image types."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

NOT_ACQUIRED = "AI estimate, not acquired"
OUTLINED_BY_AI = "AI outline, research use, not acquired"
SMALLEST_FONT = 6


def lettering(text: str, rows: int, columns: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels of the text and of the box behind it, as masks[row, column]; the text is about as wide as the image."""
    size = _font_size(text, columns)
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(value) for value in font.getbbox(text))
    mask = Image.new("L", (columns, rows))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), text, 255, font)
    box = np.zeros((rows, columns), dtype=bool)
    box[: bottom - top + 2, : right - left + 2] = True
    return np.asarray(mask) > 110, box


def _font_size(text: str, columns: int) -> int:
    width = ImageFont.load_default(20).getlength(text)
    return max(SMALLEST_FONT, min(24, int(20 * 0.9 * columns / width)))
