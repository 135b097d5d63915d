"""Scores of finished analyses come back in order of time, and what an older summary lacks comes back as None."""

from __future__ import annotations

import pytest

from storage.database import Database
from storage.drift import scored_models, scored_studies
from storage.models import Job
from storage.read_models import Standing
from tests.storage.rows import at
from tests.storage.stories import tell


@pytest.mark.feature("L6")
def test_finished_analyses_are_told_with_their_figures(database: Database) -> None:
    late = tell(database, Standing.FINDINGS, "1.2.1", seconds=500)
    tell(database, Standing.REFUSED, "1.2.2", seconds=100)
    tell(database, Standing.NO_FINDING, "1.2.3", seconds=300)
    tell(database, Standing.FAILED, "1.2.4", seconds=700)
    with database.write() as session:
        job = session.get(Job, late.job_id)
        assert job is not None
        job.summary = {**(job.summary or {}), "domain_distance": 3.25}

    with database.read() as session:
        found = scored_studies(session, model="brain 1")
        recent = scored_studies(session, model="brain 1", since=at(400))
        models = scored_models(session)

    assert models == ("brain 1",)
    assert [one.ended_at for one in found] == [at(150), at(350), at(550)]
    assert [one.refused for one in found] == [True, False, False]
    assert [one.findings for one in found] == [0, 0, 1]
    assert [one.domain_distance for one in found] == [None, None, 3.25]
    assert [one.study_score for one in found] == [0.93] * 3
    assert recent == found[2:]


def test_another_model_has_no_scores(database: Database) -> None:
    tell(database, Standing.FINDINGS, "1.2.1")

    with database.read() as session:
        assert scored_studies(session, model="other 2") == ()
