"""The outline of a mask along the edges of its pixels, for SR coordinates and for pictures.

Coordinates are (column, row) with the corner of the first pixel at (0, 0) and its centre at (0.5, 0.5), as PS3.3
C.18.6.1.1 counts them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Edge = tuple[int, int]


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
    """Closed outlines of mask[row, column], the one around the largest area first; points[n, (column, row)].

    Each goes clockwise as displayed around foreground, counter-clockwise around a hole; first and last point are equal.
    """
    following = _edges(np.asarray(mask, dtype=bool))
    loops = []
    while following:
        start = next(iter(following))
        loops.append(_corners(_walk(following, start)))
    return sorted(loops, key=_area, reverse=True)


def _edges(mask: NDArray[np.bool_]) -> dict[Edge, list[Edge]]:
    """For each corner the ends of the edges that leave it, foreground on the right hand as displayed."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    following: dict[Edge, list[Edge]] = {}
    sides = (
        (inner & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inner & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inner & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inner & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for border, (x0, y0), (x1, y1) in sides:
        for row, column in np.argwhere(border).tolist():
            following.setdefault((column + x0, row + y0), []).append((column + x1, row + y1))
    return following


def _walk(following: dict[Edge, list[Edge]], start: Edge) -> list[Edge]:
    """One loop, taken out of `following`; where two edges leave a corner the right-hand turn is taken."""
    loop, at, direction = [start], start, (0, 0)
    while True:
        choices = following[at]
        turn = (-direction[1], direction[0])
        target = next((end for end in choices if (end[0] - at[0], end[1] - at[1]) == turn), choices[0])
        choices.remove(target)
        if not choices:
            del following[at]
        direction = (target[0] - at[0], target[1] - at[1])
        at = target
        loop.append(at)
        if at == start:
            return loop


def _corners(loop: list[Edge]) -> NDArray[np.float32]:
    points = np.array(loop[:-1], dtype=np.int64)
    before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
    turns = np.any((points - before) != (after - points), axis=1)
    kept = points[turns]
    return np.vstack([kept, kept[:1]]).astype(np.float32)


def _area(points: NDArray[np.float32]) -> float:
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)
