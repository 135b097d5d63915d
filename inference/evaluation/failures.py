"""What a model misses and what it reports wrongly, as one sheet of pictures for its card.

Heads made from label maps that no training saw, and one patient whose images may be shown (open_ms, CC BY, Lesjak et al. 2017);
no picture of anybody else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from highdicom import Volume
from numpy.typing import NDArray

from inference.calibrate import head_volume, healthy_heads, spotted_heads
from inference.data import open_ms
from inference.evaluation.charts import standalone
from inference.evaluation.pictures import worst_slice
from inference.localizer import Context, Localizer
from inference.phantom.tissues import read_label_map
from inference.preprocess import brain_median, standardise

SPOTS = ((12.0, -0.5), (20.0, -0.3), (5.0, 0.5), (12.0, 0.3), (12.0, 0.5))
"""Diameter in mm and contrast of the painted lesions that are shown."""
_EACH = 6
_WIDE, _HIGH = 600, 330
_COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the sheet."""

    title: str
    png: bytes


def failure_sheet(localizer: Localizer, label_maps: Sequence[Path], ms: Path | None) -> str:
    """SVG text of all pictures, marked lesions outlined blue, findings orange; the left half of each is plain."""
    pictures = list(_pictures(localizer, label_maps, ms))
    rows = -(-len(pictures) // _COLUMNS)
    parts = []
    for number, one in enumerate(pictures):
        x, y = _WIDE * (number % _COLUMNS) + 4, _HIGH * (number // _COLUMNS) + 20
        data = base64.b64encode(one.png).decode()
        parts.append(f'<text x="{x}" y="{y - 5}" font-size="13" font-family="sans-serif">{escape(one.title)}</text>')
        parts.append(f'<image x="{x}" y="{y}" height="{_HIGH - 30}" href="data:image/png;base64,{data}"/>')
    size = f"0 0 {_WIDE * _COLUMNS} {_HIGH * rows}"
    return standalone(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="{size}">'
        f"<title>Missed and wrongly reported</title>{''.join(parts)}</svg>"
    )


def _pictures(localizer: Localizer, label_maps: Sequence[Path], ms: Path | None) -> Iterator[Shown]:
    atlases = [read_label_map(path) for path in label_maps]
    for diameter, contrast in SPOTS:
        head = next(spotted_heads(atlases[:1], diameter / 2, contrast, _EACH, seed=7000))
        sign = "brighter" if contrast > 0 else "darker"
        yield _shown(localizer, head_volume(head), head.lesion, f"painted: {diameter:g} mm, {abs(contrast):.0%} {sign}")
    most = None
    for head in healthy_heads(atlases, 2, seed=9900):
        volume = head_volume(head)
        found = localizer.localize(volume, Context()).findings
        if most is None or len(found) > most[0]:
            most = len(found), volume
    if most is not None:
        none = np.zeros(most[1].spatial_shape, dtype=np.bool_)
        yield _shown(localizer, most[1], none, f"no lesion: the worst of {2 * len(atlases)} heads, {most[0]} findings")
    if ms is not None:
        for study in open_ms(ms).studies():
            assert study.lesion is not None
            yield _shown(localizer, study.volume, study.lesion, "multiple sclerosis (Lesjak et al. 2017, CC BY)")


def _shown(localizer: Localizer, volume: Volume, marked: NDArray[np.bool_], title: str) -> Shown:
    result = localizer.localize(volume, Context())
    brain = np.asarray(result.brain.array) > 0
    image = np.asarray(volume.array, dtype=np.float32)
    found = np.asarray(result.labels.array) > 0
    spacing = (volume.spacing[0], volume.spacing[1], volume.spacing[2])
    return Shown(title, worst_slice(standardise(image, brain, brain_median(image, brain)), found, marked, spacing))
