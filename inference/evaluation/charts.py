"""Charts as SVG text, drawn by hand so that a report is one file that opens anywhere: lines, intervals, a grid of shares.

Colours follow the page (`currentColor`, CSS classes), so that a chart reads on light and dark ground; every chart carries its
title for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2463a8", "#d9722b", "#3a8f57", "#8a56ac", "#b5485d", "#6b7280", "#2f9aa0")
WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 44


@dataclass(frozen=True, slots=True)
class Line:
    """One series of points (x, y); those that are no numbers are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, from where to where, and where it is labelled; `log` places by the logarithm."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end, cut off beyond."""
        if self.log:
            part = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, part))


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval chart."""

    name: str
    value: float
    low: float
    high: float
    colour: str = COLOURS[0]


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Lines over two axes with a legend below the title."""
    parts = [_frame(x, y)]
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [_at(px, py, x, y) for px, py in line.points if math.isfinite(px) and math.isfinite(py)]
        if places:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            dash = ' stroke-dasharray="5 4"' if line.dashed else ""
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        if line.dots:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
    parts += _legend([line.name for line in lines])
    return _svg(title, HEIGHT + 16 * ((len(lines) + 1) // 2), parts)


def interval_chart(title: str, rows: Sequence[Interval], x: Axis, zero: float | None = None) -> str:
    """One row for each figure: a dot, its interval as a bar, the number beside it."""
    left, step = 190, 26
    inner = WIDTH + 120 - left - 90
    height = TOP + step * len(rows) + BOTTOM
    parts = []
    for tick in x.ticks:
        across = left + inner * x.place(tick)
        parts.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{height - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{across:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    if zero is not None:
        across = left + inner * x.place(zero)
        parts.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{height - BOTTOM}" class="axis"/>')
    for number, row in enumerate(rows):
        middle = TOP + step * (number + 0.5)
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(row.name)}</text>')
        if not math.isfinite(row.value):
            parts.append(f'<text x="{left + 4}" y="{middle + 4:.1f}" class="quiet">not measurable here</text>')
            continue
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = (left + inner * x.place(row.low), left + inner * x.place(row.high))
            parts.append(
                f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" '
                f'stroke="{row.colour}" stroke-width="6" stroke-opacity=".35" stroke-linecap="round"/>'
            )
        across = left + inner * x.place(row.value)
        parts.append(f'<circle cx="{across:.1f}" cy="{middle:.1f}" r="4.5" fill="{row.colour}"/>')
        parts.append(f'<text x="{left + inner + 12}" y="{middle + 4:.1f}">{row.value:.3f}</text>')
    parts.append(f'<text x="{left + inner / 2:.0f}" y="{height - 6}" text-anchor="middle" class="quiet">{escape(x.title)}</text>')
    return _svg(title, height, parts, WIDTH + 120)


def share_grid(title: str, columns: Sequence[str], rows: Sequence[str], shares: Sequence[Sequence[float]], axes: str) -> str:
    """shares[row][column] from 0 to 1 as shaded cells with their percentage; NaN is an empty cell."""
    left, top, wide, tall = 86, 34, 54, 30
    width, height = left + wide * len(columns) + 10, top + tall * len(rows) + 34
    parts = []
    for number, name in enumerate(columns):
        middle = left + wide * (number + 0.5)
        parts.append(f'<text x="{middle}" y="{top - 10}" text-anchor="middle">{escape(name)}</text>')
    for down, name in enumerate(rows):
        y = top + tall * down
        parts.append(f'<text x="{left - 8}" y="{y + tall / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for across, share in enumerate(shares[down]):
            x = left + wide * across
            known = math.isfinite(share)
            fill = _shade(share) if known else "none"
            ink = "#fff" if known and share > 0.55 else "#1c2733"
            parts.append(f'<rect x="{x}" y="{y}" width="{wide - 2}" height="{tall - 2}" rx="3" fill="{fill}" stroke="#8884"/>')
            if known:
                word = f"{100 * share:.0f} %"
                place = f'x="{x + wide / 2 - 1}" y="{y + tall / 2 + 4}"'
                parts.append(f'<text {place} text-anchor="middle" style="fill:{ink}">{word}</text>')
    parts.append(f'<text x="{left}" y="{height - 8}" class="quiet">{escape(axes)}</text>')
    return _svg(title, height, parts, width)


def standalone(svg: str) -> str:
    """The same chart as a file of its own: with fixed colours on a white ground."""
    style = (
        "<style>text{font:12px sans-serif;fill:#1c2733}.grid{stroke:#ddd}.axis{stroke:#555}.quiet{fill:#667}</style>"
        '<rect width="100%" height="100%" fill="#fff"/>'
    )
    start = svg.index(">") + 1
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg[:start]}{style}{svg[start:]}\n'


def _shade(share: float) -> str:
    """From pale to deep blue."""
    pale, deep = (232, 240, 248), (24, 78, 138)
    mixed = [round(a + (b - a) * min(1.0, max(0.0, share))) for a, b in zip(pale, deep, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for tick in x.ticks:
        across, _ = _at(tick, y.low, x, y)
        parts.append(f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks:
        _, down = _at(x.low, tick, x, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    below = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{below}" y="{HEIGHT - 8}" text-anchor="middle" class="quiet">{escape(x.title)}</text>')
    turn = f'transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="12" y="{middle}" text-anchor="middle" class="quiet" {turn}>{escape(y.title)}</text>')
    return "".join(parts)


def _at(px: float, py: float, x: Axis, y: Axis) -> tuple[float, float]:
    across = LEFT + (WIDTH - RIGHT - LEFT) * x.place(px)
    return across, HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y.place(py)


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for number, name in enumerate(names):
        x, y = LEFT + 195 * (number % 2), HEIGHT + 12 + 16 * (number // 2)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24}" y="{y}">{escape(name)}</text>')
    return parts


def _svg(title: str, height: float, parts: Sequence[str], width: float = WIDTH) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"
