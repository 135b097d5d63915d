"""A change in what a model sees shows in the weeks after it, and weeks like the reference raise no alarm."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.drift import Drift, TooFewStudies, default_reference, drift_of
from storage.drift import ScoredStudy

pytestmark = pytest.mark.feature("L6")
START = datetime(2026, 1, 5, 9, tzinfo=UTC)
"""A Monday."""


def weeks(count: int, per_week: int = 20, change_after: int | None = None, seed: int = 0) -> list[ScoredStudy]:
    """Studies whose score and distance rise by half after that many weeks."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count * per_week):
        later = change_after is not None and number >= change_after * per_week
        factor = 1.5 if later else 1.0
        moment = START + timedelta(days=7 * (number // per_week), hours=number % per_week)
        found.append(ScoredStudy(moment, rng.gamma(9, 0.4) * factor, rng.gamma(9, 0.35) * factor, int(rng.poisson(2)), later))
    return found


def drift(studies: list[ScoredStudy], reference_weeks: int = 4) -> Drift:
    """Compared with the first weeks."""
    return drift_of("m", studies, (START + timedelta(days=7 * reference_weeks - 1)).date())


@pytest.mark.parametrize("seed", range(3))
def test_weeks_like_the_reference_are_in_control(seed: int) -> None:
    # 1 % on either side of 24 medians: one alarm in two runs is expected, three are not
    assert len(drift(weeks(12, seed=seed)).out_of_control) <= 2


def test_a_change_shows_in_every_week_after_it_and_in_none_before() -> None:
    found = drift(weeks(10, change_after=6))

    for chart in found.charts[:2]:
        assert [week.out_of_control for week in chart.weeks][:4] == [False] * 4
        assert all(week.out_of_control for week in chart.weeks[6:])
    assert found.charts[2].figure == "findings"
    assert not any(week.out_of_control for week in found.charts[2].weeks[6:])
    assert (found.refused_reference, found.refused_later) == pytest.approx((0.0, 4 / 6))


def test_a_week_of_few_studies_is_shown_and_not_judged() -> None:
    studies = [*weeks(5), *(one for one in weeks(7, change_after=6) if one.ended_at > START + timedelta(weeks=6))][:103]

    last = drift(studies).charts[0].weeks[-1]

    assert last.studies < 5
    assert math.isnan(last.p)
    assert not last.out_of_control


def test_figures_that_were_never_stored_have_no_chart() -> None:
    old = [ScoredStudy(one.ended_at, one.study_score, None, one.findings, False) for one in weeks(8)]

    assert [chart.figure for chart in drift(old).charts] == ["study score", "findings"]


def test_too_short_a_reference_is_refused() -> None:
    with pytest.raises(TooFewStudies, match="5 studies up to"):
        drift_of("m", weeks(3, per_week=5), date(2026, 1, 11))
    with pytest.raises(TooFewStudies, match="no finished analysis"):
        default_reference([])


def stored(path: Path, studies: list[ScoredStudy]) -> Path:
    rows = [
        {
            "ended_at": s.ended_at.isoformat(),
            "study_score": s.study_score,
            "domain_distance": s.domain_distance,
            "findings": s.findings,
        }
        for s in studies
    ]
    path.write_text(json.dumps(rows))
    return path


def test_the_command_prints_the_charts_and_its_status_says_drift(tmp_path: Path) -> None:
    steady = stored(tmp_path / "steady.json", weeks(6, per_week=60, seed=5))
    changed = stored(tmp_path / "changed.json", weeks(9, change_after=5))

    calm = CliRunner().invoke(app, ["drift", "--scores", str(steady), "--reference-until", "2026-02-15"])
    alarm = CliRunner().invoke(app, ["drift", "--scores", str(changed), "--json"])

    assert calm.exit_code == 0
    assert "every week is as the reference" in calm.stdout
    assert alarm.exit_code == 3
    [content] = json.loads(alarm.stdout)
    assert content["out_of_control"]
    assert content["charts"][0]["weeks"][0]["p"] is None
