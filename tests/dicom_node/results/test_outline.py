"""Outlines of masks: closed, along pixel edges, around exactly the foreground."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dicom_node.results.outline import outlines

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def _filled(loops: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels with an odd number of edges to their left: the even-odd rule, by ray casting at pixel centres."""
    crossings = np.zeros(shape, dtype=int)
    for loop in loops:
        for (x0, y0), (x1, y1) in itertools.pairwise(loop):
            if x0 == x1:
                low, high = sorted((int(y0), int(y1)))
                crossings[low:high, int(x0) :] += 1
    return crossings % 2 == 1


@given(masks)
def test_filling_the_outlines_gives_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(_filled(outlines(mask), mask.shape), mask)


@given(masks)
def test_outlines_are_closed_and_have_no_needless_points(mask: np.ndarray) -> None:
    for loop in outlines(mask):
        assert np.array_equal(loop[0], loop[-1])
        steps = np.diff(loop, axis=0)
        assert np.all((steps == 0).sum(axis=1) == 1)
        horizontal = steps[:, 1] == 0
        assert np.all(horizontal[:-1] != horizontal[1:])


def test_a_pixel_has_its_four_corners() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True

    (loop,) = outlines(mask)

    assert loop.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]


def test_the_largest_outline_comes_first_and_holes_last() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[0, 0] = True
    mask[2:9, 2:9] = True
    mask[4:6, 4:6] = False

    loops = outlines(mask)

    assert [loop[:, 0].max() - loop[:, 0].min() for loop in loops] == [7, 1, 2]
