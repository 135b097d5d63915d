"""The report is one file that fetches nothing, says what the figures say, and escapes what others wrote."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from inference.data import Study
from inference.evaluation.case import Rules
from inference.evaluation.charts import Axis, Interval, Line, interval_chart, line_chart, share_grid, standalone
from inference.evaluation.pictures import FOUND, MARKED, worst_slice
from inference.evaluation.report import chart_files, html, sentences
from inference.evaluation.run import Plan, measure_sets
from inference.evaluation.summary import Evaluation, summarise
from tests.inference.evaluation.studies import Plain, Studies, cohort_of_studies, study

pytestmark = pytest.mark.feature("L5")


def evaluated(items: list[Study], name: str = "made by code", **plan: object) -> Evaluation:
    """An evaluation with pictures under two localizers."""
    wanted = Plan([Studies(items, name)], rules=Rules(), draws=40, **plan)  # type: ignore[arg-type]  # a test's
    localizers = {"plain": Plain(), "eager": Plain(threshold=0.5, doubt=True)}
    return summarise(measure_sets(localizers, wanted), "fovea evaluate --data x", ["plain 1 (abc)"], wanted.rules)


@pytest.fixture(scope="module")
def page() -> tuple[Evaluation, str]:
    """Sixteen patients, thresholds fixed on the development ones."""
    found = evaluated(cohort_of_studies(16), fixed_on_development=True)
    return found, html(found)


class Tags(HTMLParser):
    """Counts tags and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.mark.slow
def test_the_page_fetches_nothing_and_runs_nothing(page: tuple[Evaluation, str]) -> None:
    tags = Tags()
    tags.feed(page[1])

    assert "script" not in tags.open
    assert "link" not in tags.open
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert "url(" not in page[1]


def test_the_page_shows_every_chart_and_the_worst_cases(page: tuple[Evaluation, str]) -> None:
    for title in ("Average precision", "free-response curve", "Reliability", "Risk by coverage", "by their volume", "did worst"):
        assert title in page[1], title
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page[1])
    worst = page[0].sets[0].localizers[0].worst
    assert len(pictures) == 2 * len(worst)
    assert Image.open(BytesIO(base64.b64decode(pictures[0]))).format == "PNG"


def test_the_figures_on_the_page_are_those_of_the_evaluation(page: tuple[Evaluation, str]) -> None:
    one = page[0].sets[0].localizers[0].delivered["dice_mean"]

    assert f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" in page[1]
    assert "average precision of guessing" in page[1]
    assert "brain mask" in page[1].lower()


def test_the_sentences_agree_with_the_figures(page: tuple[Evaluation, str]) -> None:
    [one] = page[0].sets
    told = " ".join(sentences(one))

    share = one.localizers[0].delivered["lesion_sens"].value
    assert f"Of {one.lesions} marked lesions {100 * share:.0f} %" in told
    gap = next(c.difference.estimate for c in one.comparisons if (c.second, c.metric) == ("plain: intensity", "ap_pooled"))
    verdict = {True: "more than chance explains", False: "chance can explain"}[gap.low > 0 or gap.high < 0]
    assert verdict in told


def test_a_small_set_is_called_an_anecdote_and_an_unmarked_one_has_no_sensitivity() -> None:
    few = evaluated([study(f"h{n}", seed=n, lesions=0, false=1, marked=False) for n in range(4)])

    told = " ".join(sentences(few.sets[0]))

    assert "read every figure as an anecdote" in told
    assert "Nothing is marked in these studies" in told
    assert "<svg" in html(few)


def test_what_others_wrote_is_escaped() -> None:
    found = evaluated([study('<script>alert("x")</script>')], name="<b>set</b>")

    text = html(found)

    assert "<script>" not in text
    assert "<b>set</b>" not in text
    assert "&lt;b&gt;set" in text


def test_charts_are_well_formed_files_of_their_own(page: tuple[Evaluation, str]) -> None:
    files = chart_files(page[0])

    assert {"made-by-code-precision.svg", "made-by-code-response.svg"} <= set(files)
    for text in files.values():
        root = ElementTree.fromstring(text.encode())
        assert root.tag.endswith("svg")


def test_a_point_lies_where_its_values_say() -> None:
    axis = Axis("x", 0.0, 1.0, (0, 1))
    chart = line_chart("t", [Line("one", [(0.0, 0.0), (1.0, 1.0), (float("nan"), 1.0)])], axis, axis)

    [points] = re.findall(r'polyline points="([^"]+)"', chart)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())

    assert x0 < x1
    assert y0 > y1  # up is more
    assert Axis("", 1e-4, 1.0, (), log=True).place(1e-2) == pytest.approx(0.5)
    assert Axis("", 0, 1, ()).place(7.0) == 1.0


def test_what_is_no_number_is_said_in_words() -> None:
    chart = interval_chart("t", [Interval("a < b", float("nan"), 0.0, 1.0)], Axis("x", 0, 1, (0, 1)))
    grid = share_grid("t", ["-50 %"], ["3 mm"], [[float("nan")]], "axes")

    assert "not measurable here" in chart
    assert "a &lt; b" in chart
    assert "0 %</text>" not in grid.replace("-50 %</text>", "")
    ElementTree.fromstring(standalone(grid).encode())


def test_the_picture_outlines_what_is_marked_and_found() -> None:
    image = np.zeros((5, 40, 40), dtype=np.float32)
    found, truth = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
    found[3, 10:20, 10:20] = truth[3, 22:34, 22:34] = True

    picture = np.asarray(Image.open(BytesIO(worst_slice(image, found, truth, (5.0, 1.0, 1.0)))))

    height, width = picture.shape[:2]
    assert width == 2 * height
    colours = {tuple(colour) for colour in picture[:, height:].reshape(-1, 3)}
    assert {MARKED, FOUND} <= colours
    assert not {MARKED, FOUND} & {tuple(colour) for colour in picture[:, :height].reshape(-1, 3)}
    blue = np.argwhere((picture[:, height:] == MARKED).all(axis=2)).mean(axis=0) / height * 40
    assert blue == pytest.approx([27.5, 27.5], abs=1.0)
