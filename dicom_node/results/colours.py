"""The colours of findings, the same in the segmentation and in the pictures.

Strong hues that differ from grey and from their neighbours in the list; they repeat after the last.
"""

from __future__ import annotations

Rgb = tuple[int, int, int]

PALETTE: tuple[Rgb, ...] = (
    (230, 60, 50),
    (40, 180, 70),
    (60, 120, 255),
    (245, 170, 30),
    (190, 70, 220),
    (30, 190, 200),
    (240, 100, 170),
    (160, 200, 40),
)


def colour_of(number: int) -> Rgb:
    """The RGB colour of the finding with that number, from 1."""
    return PALETTE[(number - 1) % len(PALETTE)]
