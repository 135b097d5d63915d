"""MODEL_CARD.md, written from the card, so that what people read and what the node enforces cannot differ."""

from __future__ import annotations

from collections.abc import Sequence

from inference.card import ModelCard, OperatingPointCard

_LIMITS = """
## Limits

- No truly healthy people were scanned for this model: the reference is synthetic heads and real slices from which strokes and
  hyperintensities were painted out. A score of 3 means "one reference voxel in a thousand", not "one healthy voxel".
- The restorer sees one slice at a time. Lesions that show only between slices are missed.
- Bright findings are what it is for. Dark ones (cysts, old infarcts) are found less.
- A finding must be striking or large: small faint lesions, above all those of multiple sclerosis, are left out by the operating
  point. The white-matter patients and the one with multiple sclerosis were looked at while the score, its support by neighbours
  and the stretch of flat images were chosen; glioma patients kept back were not.
- Old strokes, surgery, haemorrhage, contrast agent, children and motion were not measured.
- Neck and scalp are removed by a mask network and two plain rules (`inference.brain`); both can fail.
"""


FAILURES = "failures.svg"
FAILURES_ALT = "missed and wrongly reported: marked lesions blue, findings orange, in heads made by code and a CC BY patient"
BIAS_ALT = "share of painted lesions found, by size and contrast"


def model_card_text(card: ModelCard, charts: Sequence[str] = ()) -> str:
    """The page for people, in Markdown; `charts` are the names of SVG files beside it."""
    parts = [
        f"# {card.name} {card.version}",
        card.summary,
        f"**Intended use.** {card.intended_use}",
        "## What it may be shown",
        _table(("what", "range"), _validity(card)),
        "## Measured",
        _table(("figure", "value"), [(name, _value(value)) for name, value in card.measured.items()]),
        "## Blind spots",
        "\n".join(f"- {sentence}" for sentence in card.blind_spots),
        *(f"![{FAILURES_ALT if name == FAILURES else BIAS_ALT}]({name})" for name in charts),
        *_domain(card),
        "## Operating point and calibration",
        *(_operating_point(name, point) for name, point in card.operating_point.items()),
        *(f"Reference of `{name}`: {table.voxels:,} {table.reference}." for name, table in card.calibration.items()),
        _LIMITS.strip(),
        "## Made of",
        _table(("source", "licence", "items", "use"), [(s.name, s.licence, str(s.count), s.use) for s in card.sources]),
        "## Training",
        _table(("what", "value"), [(name.replace("_", " "), _value(value)) for name, value in card.training.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _domain(card: ModelCard) -> list[str]:
    """What is said to the reader, and refused, of studies that look like none the model was calibrated on."""
    if not card.domain:
        return ["No reference of ordinary studies is on the card: studies unlike those it was calibrated on are not told apart."]
    parts = ["## Studies unlike the reference"]
    for name, one in card.domain.items():
        refused = "never" if one.refuse_above is None else f"above {one.refuse_above:.1f}"
        parts.append(
            f"`{name}`: {len(one.figures)} figures of each study (intensities, rim against depth, noise, sharpness, shading, "
            f"residual) are compared with {len(one.distances)} reference studies: {one.reference}. The reader is told above a "
            f"distance of {one.remark_above:.1f}; refused: {refused}; the farthest reference study: {one.distances[-1]:.1f}."
        )
    return parts


def _validity(card: ModelCard) -> list[tuple[str, str]]:
    rows = []
    for name, value in card.validity.model_dump().items():
        words = f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else str(value)
        rows.append((name.replace("_", " "), words))
    return rows


def _operating_point(name: str, point: OperatingPointCard) -> str:
    thresholds = ", ".join(f"{sign} at a score of {value:g}" for sign, value in point.threshold.items())
    return (
        f"`{name}`: {thresholds}; findings of at least {point.minimum_volume_mm3:g} mm³, the largest {point.maximum_findings}. "
        f"Chosen by: {point.rule}."
    )


def _value(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
