"""What a recipe is, for a reader: its five parts as a picture, its networks and trainings, and what one slice costs.

The picture is drawn from the recipe itself, so that it cannot tell of numbers that are not used. The page is one file that
fetches nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape

import numpy as np
import torch

from inference.cost import Meter
from inference.networks import build
from inference.recipes.recipe import Recipe, Stage, Unit
from inference.restoration import Setting, restore

PARTS = ("corruptor", "denoiser", "sampler", "scorer", "postprocessor")
DOES = {
    "corruptor": "what is destroyed",
    "denoiser": "what a network makes of it",
    "sampler": "which levels, in which order",
    "scorer": "what is compared",
    "postprocessor": "what becomes a finding",
}
_WIDE, _GAP, _LINE, _CHARACTERS = 208, 26, 15, 32
_MULTIPLE = 16
_FEW = 4  # slices of a volume: as many as its network halves
_MOST_SHOWN = 6  # numbers of a tuple; a longer one is told by its ends


@dataclass(frozen=True, slots=True)
class Price:
    """What one slice of the recipe's own grid costs, the brain mask left out."""

    evaluations: int
    gflop: float
    parameters: int
    """Of all its networks."""


def price(recipe: Recipe) -> Price:
    """Counted with networks of the right shape, whose weights do not matter, on one slice or on a volume of a few."""
    grid = recipe.training.grid
    networks = {spec.name: build(spec.kind, spec.arguments).eval() for spec in recipe.training.networks}
    device = torch.device("cpu")
    count = _FEW if recipe.unit is Unit.VOLUME else 1
    image = np.random.default_rng(0).standard_normal((count, grid.rows, grid.columns)).astype(np.float32)
    with Meter(networks, device, {}) as meter:
        restore(image, np.ones(image.shape, dtype=np.bool_), recipe, networks, Setting(device, multiple=_MULTIPLE))
    cost = meter.cost()
    parameters = sum(weight.numel() for network in networks.values() for weight in network.parameters())
    return Price(cost.network_evaluations // count, cost.gflop / count, parameters)


def page(recipe: Recipe) -> str:
    """One self-contained HTML page: the picture, what is needed, what it costs, where it comes from."""
    cost = price(recipe)
    facts = {
        "supervision": recipe.scheme,
        "labels needed": recipe.labels,
        "paper": recipe.paper,
        "cost of one slice": f"{cost.evaluations} network evaluations, {cost.gflop:.2f} GFLOP "
        f"({recipe.training.grid.rows} x {recipe.training.grid.columns} pixels of {recipe.training.grid.spacing_mm} mm)",
        "networks": f"{cost.parameters / 1e6:.2f} million parameters" if cost.parameters else "none",
        "train it": f"fovea train {recipe.name} --data STUDIES --out BUNDLE" if recipe.training.stages else "nothing to learn",
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(recipe.name)}</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1b2733;background:#fff}"
        "table{border-collapse:collapse;margin:1.5rem 0}th{text-align:left;padding:.3rem 1.5rem .3rem 0;font-weight:600}"
        f"svg{{width:100%;height:auto}}</style><h1>{escape(recipe.name)}</h1>{picture(recipe)}<table>{rows}</table></html>"
    )


def picture(recipe: Recipe) -> str:
    """The five parts with their numbers, left to right, and the trainings behind them, as SVG text."""
    texts = {name: part_lines(getattr(recipe, name)) for name in PARTS}
    height = 62 + _LINE * max(len(lines) for lines in texts.values())
    step = _WIDE + _GAP
    drawn = [
        _box(10 + number * step, 10, (_WIDE, height), (name, DOES[name]), texts[name], "#2463a8")
        for number, name in enumerate(PARTS)
    ]
    drawn += [_arrow(number, 10 + height / 2) for number in range(len(PARTS) - 1)]
    room = max(2, len(recipe.training.stages))
    wide = (len(PARTS) * step - _GAP - (room - 1) * _GAP) / room
    learned = [stage_lines(recipe, stage, int(_CHARACTERS * wide / _WIDE)) for stage in recipe.training.stages]
    below = height + 44
    under = 62 + _LINE * max((len(lines) for lines in learned), default=0)
    for number, (stage, lines) in enumerate(zip(recipe.training.stages, learned, strict=True)):
        title = f"training {number + 1}", ", ".join(stage.trains)
        drawn.append(_box(10 + number * (wide + _GAP), below, (wide, under), title, lines, "#3a8f57"))
    total = below + under + 10 if learned else height + 20
    width = len(PARTS) * _WIDE + (len(PARTS) - 1) * _GAP + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {total}" font-family="system-ui,sans-serif">'
        f"<title>The five parts of {escape(recipe.name)}</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="#5b6b7b"/></marker></defs>{"".join(drawn)}</svg>'
    )


def part_lines(part: object) -> list[str]:
    """The name of a part and its numbers, one a line; parts within it are indented."""
    return _wrapped(_told(part, 0), _CHARACTERS)


def stage_lines(recipe: Recipe, stage: Stage, characters: int) -> list[str]:
    """What a training learns, from what, how and for what part of the time, in lines of so many characters."""
    specs = {spec.name: spec for spec in recipe.training.networks}
    lines = [f"{name}: {specs[name].kind}, {_word(specs[name].arguments)}" for name in stage.trains]
    share = stage.share / sum(one.share for one in recipe.training.stages)
    lines += [f"slices: {stage.material}", f"batch {stage.batch}, rate {stage.learning_rate:g}, {share:.0%} of the time"]
    return _wrapped([*lines, *_told(stage.objective, 0)], characters)


def _told(value: object, depth: int) -> list[str]:
    lines = ["  " * depth + type(value).__name__]
    for one in fields(value) if is_dataclass(value) else ():
        given = getattr(value, one.name)
        name = "  " * (depth + 1) + one.name.replace("_", " ")
        if is_dataclass(given) and not isinstance(given, type):
            lines += [name + ":", *_told(given, depth + 2)]
        elif isinstance(given, tuple) and given and is_dataclass(given[0]):
            lines += [name + ":", *(line for item in given for line in _told(item, depth + 2))]
        elif given is not None and given != ():
            lines.append(f"{name}: {_word(given)}")
    return lines


def _word(value: object) -> str:
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], tuple):
            return f"{len(value)} steps, {_word(value[0][0])} to {_word(value[-1][-1])}"
        if len(value) > _MOST_SHOWN:
            return f"{len(value)} from {_word(value[0])} to {_word(value[-1])}"
        return ", ".join(_word(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_word(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return str(getattr(value, "__name__", value)).replace("_", " ")


def _wrapped(lines: Sequence[str], characters: int) -> list[str]:
    found: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        found += textwrap.wrap(line, characters, subsequent_indent=indent, drop_whitespace=True, replace_whitespace=False) or [""]
    return found


def _box(left: float, top: float, size: tuple[float, float], title: tuple[str, str], lines: Sequence[str], colour: str) -> str:
    (wide, height), (name, under) = size, title
    body = "".join(
        f'<text x="{left + 10 + 5 * (len(line) - len(line.lstrip()))}" y="{top + 58 + _LINE * row}" font-size="11.5" '
        f'fill="#1b2733">{escape(line.strip())}</text>'
        for row, line in enumerate(lines)
    )
    return (
        f'<rect x="{left}" y="{top}" width="{wide}" height="{height}" rx="9" fill="#f5f8fb" stroke="{colour}"/>'
        f'<text x="{left + 10}" y="{top + 21}" font-size="14" font-weight="600" fill="{colour}">{escape(name)}</text>'
        f'<text x="{left + 10}" y="{top + 37}" font-size="11" fill="#5b6b7b">{escape(under)}</text>{body}'
    )


def _arrow(number: int, middle: float) -> str:
    start = 10 + (number + 1) * _WIDE + number * _GAP
    return (
        f'<path d="M{start + 3} {middle}H{start + _GAP - 3}" stroke="#5b6b7b" stroke-width="1.6" fill="none" '
        'marker-end="url(#tip)"/>'
    )
