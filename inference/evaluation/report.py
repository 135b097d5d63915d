"""The report a clinician reads: one HTML file with figures, charts and pictures inside, nothing fetched from anywhere.

Words are plain, every figure has its interval and its definition, and the intensity baselines stand beside the model. Pictures
of patients are part of the file: it stays where the user put it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from inference.evaluation.charts import COLOURS, Axis, Interval, Line, interval_chart, line_chart, standalone
from inference.evaluation.lesions import FALSE_PER_SCAN
from inference.evaluation.maps import BASELINES, RESIDUAL, SCORE, WORDS
from inference.evaluation.resampling import Estimate
from inference.evaluation.summary import Comparison, Evaluation, LocalizerSummary, SetSummary
from inference.evaluation.uncertainty import COVERAGES
from inference.evaluation.words import DELIVERED, MAP_FIGURES, figure

SHOWN_MAPS = (SCORE, RESIDUAL, *BASELINES)
SHARE = Axis("", 0.0, 1.0, (0, 0.2, 0.4, 0.6, 0.8, 1.0))


def html(evaluation: Evaluation) -> str:
    """The whole page."""
    text = files("inference.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    environment.filters["picture"] = _picture
    return environment.from_string(text).render(
        run=evaluation,
        charts={one.name: _charts(one) for one in evaluation.sets},
        maps=SHOWN_MAPS,
        map_words=WORDS,
        map_figures=MAP_FIGURES,
        delivered=DELIVERED,
        findings={one.name: sentences(one) for one in evaluation.sets},
    )


def chart_files(evaluation: Evaluation) -> dict[str, str]:
    """Every chart as an SVG file of its own, by file name."""
    found = {}
    for one in evaluation.sets:
        for name, chart in _charts(one).items():
            found[f"{_file_word(one.name)}-{name.replace('_', '-')}.svg"] = standalone(chart)
    return found


def _file_word(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def sentences(found: SetSummary) -> list[str]:
    """What the figures say, in a few sentences that anyone can check against the tables below."""
    told = []
    for one in found.localizers:
        done = one.delivered
        name = f"{one.label}: " if len(found.localizers) > 1 else ""
        if found.lesions:
            told.append(
                f"{name}Of {found.lesions} marked lesions {_percent(done['lesion_sens'])} were found, with "
                f"{figure(done['fp_per_scan'], 1)} false findings in each study."
            )
            told.append(f"{name}Findings and marks overlap with a Dice of {figure(done['dice_mean'])} (mean of patients).")
        else:
            told.append(f"{name}Nothing is marked in these studies: {figure(done['fp_per_scan'], 1)} findings in each are false.")
        told += [name + one for one in _against_intensity(found, one)]
    if found.patients < 10:
        told.append(f"These are {found.patients} patients: read every figure as an anecdote.")
    return told


def _against_intensity(found: SetSummary, one: LocalizerSummary) -> list[str]:
    told = []
    for compared in found.comparisons:
        wanted = (f"{one.label}: {SCORE}", f"{one.label}: intensity", "ap_pooled")
        if (compared.first, compared.second, compared.metric) != wanted:
            continue
        gap = compared.difference.estimate
        if math.isnan(gap.low):
            verdict = "too few patients to say whether by chance"
        elif gap.low > 0:
            verdict = "more than chance explains"
        elif gap.high < 0:
            verdict = "worse than plain intensity, more than chance explains"
        else:
            verdict = "which chance can explain"
        told.append(
            "Against plain image intensity in the same brain mask the score's average precision differs by "
            f"{figure(gap)}: {verdict}."
        )
    return told


def _percent(value: Estimate) -> str:
    if not math.isfinite(value.value):
        return "–"
    if not math.isfinite(value.low):
        return f"{100 * value.value:.0f} %"
    return f"{100 * value.value:.0f} % ({100 * value.low:.0f} to {100 * value.high:.0f})"


def _charts(found: SetSummary) -> dict[str, str]:
    charts = {
        "precision": _precision(found),
        "response": _response(found),
    }
    if found.comparisons:
        charts["gain"] = _gain(found)
    first = found.localizers[0]
    if first.reliability is not None and first.reliability.bins:
        charts["reliability"] = _reliability(found.localizers)
    if first.claims:
        charts["claims"] = _claims(found.localizers)
    if any(one.risk for one in found.localizers):
        charts["risk"] = _risk(found.localizers)
    for kind in ("lesion volume", "lesion contrast"):
        rows = [
            Interval(f"{part.group} (n {part.count})", value.value, value.low, value.high)
            for part in first.strata
            if part.kind == kind
            for value in [part.figures["lesion_sens"]]
        ]
        if rows:
            axis = Axis("share of lesions found", 0.0, 1.0, SHARE.ticks)
            charts[kind.replace(" ", "_")] = interval_chart(f"Sensitivity by {kind}", rows, axis)
    return charts


def _precision(found: SetSummary) -> str:
    rows = []
    for number, one in enumerate(found.localizers):
        for name in SHOWN_MAPS:
            value = one.maps[name].figures["ap_pooled"]
            label = f"{one.label}: {name}" if len(found.localizers) > 1 else name
            colour = COLOURS[5] if name in BASELINES else COLOURS[number % 5]
            rows.append(Interval(label, value.value, value.low, value.high, colour))
    axis = Axis("average precision, pooled over voxels", 0.0, 1.0, SHARE.ticks)
    return interval_chart("Average precision", rows, axis, zero=found.prevalence)


def _gain(found: SetSummary) -> str:
    several = len(found.localizers) > 1
    rows = [
        Interval(_gap_name(one, several), gap.value, gap.low, gap.high)
        for one in found.comparisons
        if one.metric == "ap_pooled"
        for gap in [one.difference.estimate]
    ]
    axis = Axis("difference in average precision, same patients", -0.5, 0.5, (-0.4, -0.2, 0, 0.2, 0.4))
    return interval_chart("Difference to the baselines", rows, axis, zero=0.0)


def _gap_name(one: Comparison, several: bool) -> str:
    first, second = ((name if several else name.rpartition(": ")[2]) for name in (one.first, one.second))
    return f"{first} − {second.rpartition(': ')[2] if one.first.split(': ')[0] == one.second.split(': ')[0] else second}"


def _response(found: SetSummary) -> str:
    lines = []
    for one in found.localizers:
        for name in (SCORE, RESIDUAL, "intensity", "smoothed"):
            false, share = one.maps[name].response
            label = f"{one.label}: {name}" if len(found.localizers) > 1 else name
            points = list(zip((float(x) for x in false), (float(y) for y in share), strict=True))
            lines.append(Line(label, points, dashed=name in BASELINES))
    x = Axis("false findings in each study", 0.0, 16.0, (0, *FALSE_PER_SCAN[2:], 16))
    return line_chart("Free-response curve", lines, x, Axis("share of lesions found", 0, 1, SHARE.ticks))


def _reliability(parts: Sequence[LocalizerSummary]) -> str:
    lines = [Line("as it should be", [(0, 0), (1, 1)], dashed=True)]
    known = [(one.label, one.reliability.bins) for one in parts if one.reliability is not None]
    lines += [Line(label, [(b.predicted, b.observed) for b in bins if b.voxels >= 50], dots=True) for label, bins in known]
    x, y = (Axis(title, 0, 1, SHARE.ticks) for title in ("chance of a lesion said by the score", "share marked"))
    return line_chart("Reliability", lines, x, y)


def _claims(parts: Sequence[LocalizerSummary]) -> str:
    ticks = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1)
    axis = [Axis(title, 1e-5, 1.0, ticks, log=True) for title in ("share the score claims", "share counted")]
    lines = [Line("as claimed", [(1e-5, 1e-5), (1, 1)], dashed=True)]
    lines += [Line(one.label, [(c.said, c.counted) for c in one.claims if c.counted > 0], dots=True) for one in parts]
    return line_chart("What the score claims of ordinary tissue", lines, *axis)


def _risk(parts: Sequence[LocalizerSummary]) -> str:
    lines = [Line(one.label, list(zip(COVERAGES, one.risk, strict=True))) for one in parts if one.risk]
    top = max(max(one.risk) for one in parts if one.risk)
    y = Axis("share of wrong voxels", 0, top or 1.0, [round(top * part, 4) for part in (0, 0.25, 0.5, 0.75, 1)])
    return line_chart("Risk by coverage", lines, Axis("share of voxels kept, most certain first", 0, 1, SHARE.ticks), y)


def _picture(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
