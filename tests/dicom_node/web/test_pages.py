"""The pages: what each standing looks like, a study's story, pictures, queue, and audit with its exports."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from storage import events, queue
from storage.database import Database
from storage.events import EventKind
from storage.models import Job
from storage.read_models import Standing
from storage.states import StudyEvent
from tests.dicom_node.web.site import WebSite, add_picture, png, web_site
from tests.storage.rows import at, the_study
from tests.storage.stories import receive, store, summary, tell

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def badges(html: str) -> list[str]:
    """The words of the badges in the page's table."""
    table = html[html.index("<tbody>") :]
    return re.findall(r'class="badge [a-z -]+"[^>]*><span class="sign"[^>]*>[^<]+</span>([^<]+)</span>', table)


@pytest.mark.feature("A3")
def test_the_list_tells_every_standing_apart_in_words_and_signs(tmp_path: Path, database: Database) -> None:
    site = web_site(tmp_path, database)
    for number, standing in enumerate(Standing):
        tell(database, standing, f"1.2.{number}", seconds=number * 1000)

    html = site.reader().get("/studies").text

    words = badges(html)
    assert sorted(words) == sorted(
        [
            "Never selected",
            "Canceled",
            "No finding",
            "Refused",
            "1 finding",
            "Waiting",
            "Running",
            "Failed",
            "Receiving",
            "Quarantined",
        ]
    )
    tones = set(re.findall(r'class="badge ([a-z-]+)"', html))
    assert len(tones) == len(Standing)
    signs = set(re.findall(r'aria-hidden="true">([^<]+)</span>', html))
    assert len(signs) == len(Standing)


def test_the_list_shows_patient_accession_and_deliveries(site: WebSite) -> None:
    told = tell(
        site.database,
        Standing.FINDINGS,
        "1.2.3",
        patient_name="Yamada^Tarou=山田^太郎",
        accession_number="A77",
    )
    assert told.job_id is not None
    store(site.database, told.job_id, "PACS")
    store(site.database, told.job_id, "VIEWER", seconds=80, refused=True)

    html = site.reader().get("/studies").text

    assert "Yamada, Tarou" in html
    assert "A77" in html
    assert "Stored" in html
    assert "Dead letter" in html
    assert 'http-equiv="refresh"' in html


def test_the_refresh_can_be_paused(site: WebSite) -> None:
    html = site.reader().get("/studies", params={"refresh": "off", "q": "A1"}).text

    assert 'http-equiv="refresh"' not in html
    assert "/studies?q=A1" in html


def test_the_list_is_filtered_and_paged(site: WebSite) -> None:
    for number in range(51):
        receive(site.database, f"1.2.{number}", seconds=number, accession_number=f"A{number:03d}")
    reader = site.reader()

    first = reader.get("/studies").text
    second = reader.get("/studies", params={"page": 2}).text
    found = reader.get("/studies", params={"q": "A017"}).text
    none = reader.get("/studies", params={"standing": "failed"}).text

    assert "51 studies, page 1 of 2" in first
    assert "A000" not in first
    assert "A000" in second
    assert re.findall(r"<td>(A\d{3})</td>", found) == ["A017"]
    assert "No study matches" in none


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"standing": "odd"}, "standing"),
        ({"page": "-1"}, "page"),
        ({"page": "x"}, "page"),
        ({"since": "yesterday"}, "since"),
        ({"until": "9999-12-31"}, "until"),
        ({"q": "x" * 201}, "q"),
    ],
)
def test_a_field_that_cannot_be_understood_is_named(site: WebSite, query: dict[str, str], field: str) -> None:
    answer = site.reader().get("/studies", params=query)

    assert answer.status_code == 400
    assert f"{field}: " in answer.text


@pytest.mark.feature("A3")
def test_the_story_shows_findings_pictures_reasons_deliveries_and_events(site: WebSite) -> None:
    told = tell(site.database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    store(site.database, told.job_id, "PACS")
    add_picture(site, told.job_id, png())

    html = site.reader().get(f"/studies/{told.study_id}").text

    assert "12.34" in html  # 12340 mm³
    assert "41.2" in html
    assert "0.97" in html
    assert "left" in html
    assert f'src="/pictures/{told.job_id}/0"' in html
    assert "Finding 1, slice 12" in html
    assert "chosen by rule flair" in html
    assert "passed over by rule flair: echo time 3.1 ms, the model is valid for 70 to 160 ms" in html
    assert "0x0000" in html
    assert "job ended" in html
    assert "Research use; not a medical device" in html


@pytest.mark.parametrize(
    ("standing", "sentence"),
    [
        (Standing.NO_FINDING, "Nothing above the threshold."),
        (Standing.REFUSED, "slice gap 9.0 mm, expected 6.0 mm within 0.6 mm"),
        (Standing.FAILED, "the analysis took longer than its time limit"),
        (Standing.WAITING, "Waits in the queue since 2026-03-01 12:00:30"),
        (Standing.RUNNING, "Runs on worker-1 since 2026-03-01 12:00:31"),
        (Standing.NEVER_SELECTED, "No rule chose any series of this study"),
        (Standing.QUARANTINED, "Nothing leaves until a person decides"),
        (Standing.RECEIVING, "The study settles once nothing has arrived"),
        (Standing.CANCELED, "Canceled before it ended."),
    ],
    ids=lambda value: value if isinstance(value, Standing) else "",
)
def test_the_story_says_what_its_standing_means(site: WebSite, standing: Standing, sentence: str) -> None:
    told = tell(site.database, standing, "1.2.3")

    html = site.reader().get(f"/studies/{told.study_id}").text

    assert sentence in html


def test_a_job_given_up_without_a_report_still_says_why(site: WebSite) -> None:
    told = tell(site.database, Standing.RUNNING, "1.2.3")
    with site.database.write() as session:
        job = session.get_one(Job, told.job_id)
        claim = queue.JobClaim(job.id, job.epoch, job.attempt)
        detail = "no card of this digest here"
        queue.give_up_job(session, claim, at=at(90), reason="model-missing", detail=detail, summary=None)

    html = site.reader().get(f"/studies/{told.study_id}").text

    assert "Model missing" in html
    assert "no card of this digest here" in html


def test_the_reasons_of_a_study_never_selected_stand_beside_each_series(site: WebSite) -> None:
    told = tell(site.database, Standing.NEVER_SELECTED, "1.2.3")
    with site.database.write() as session:
        detail = {"rule": "flair", "analysed": None, "passed over": {"1.2.3.1": "rule-body-part"}}
        study = the_study(session, "1.2.3")
        events.append(session, EventKind.RULE_DECIDED, at=at(30), study=study, detail=detail)

    html = site.reader().get(f"/studies/{told.study_id}").text

    assert "passed over by rule flair: rule body part" in html


def test_a_purged_study_still_has_its_story(site: WebSite) -> None:
    told = tell(site.database, Standing.NO_FINDING, "1.2.3")
    with site.database.write() as session:
        queue.move_study(session, the_study(session), StudyEvent.EXPIRE, at=at(1000))

    html = site.reader().get(f"/studies/{told.study_id}").text

    assert "files deleted by retention" in html
    assert "No finding" in html


@pytest.mark.feature("A1")
def test_looking_at_a_study_is_audited_once_while_the_page_renews_itself(site: WebSite) -> None:
    told = tell(site.database, Standing.RUNNING, "1.2.3")
    first, second = site.reader(), site.reader()

    for _ in range(3):
        first.get(f"/studies/{told.study_id}")
    second.get(f"/studies/{told.study_id}")

    viewed = site.events("study viewed")
    assert len(viewed) == 2
    assert len({one.user for one in viewed}) == 2
    assert {(one.study_instance_uid, one.accession_number) for one in viewed} == {("1.2.3", "A1")}


def test_a_picture_is_served_by_its_number_and_is_a_view(site: WebSite) -> None:
    told = tell(site.database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    data = png()
    add_picture(site, told.job_id, data)

    answer = site.reader().get(f"/pictures/{told.job_id}/0")

    assert answer.headers["Content-Type"] == "image/png"
    assert answer.content == data
    assert len(site.events("study viewed")) == 1


@pytest.mark.parametrize(
    "path",
    [
        "../../fovea.sqlite",
        "/etc/passwd",
        "pictures/../../web.token",
        "instances/aa/" + "a" * 64 + "-" + "0" * 16,
        "",
    ],
)
def test_no_path_in_a_row_leads_out_of_the_pictures(site: WebSite, path: str) -> None:
    told = tell(site.database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    add_picture(site, told.job_id, png(), path or "nowhere")

    assert site.reader().get(f"/pictures/{told.job_id}/0").status_code == 404


def test_what_is_no_picture_is_not_served(site: WebSite) -> None:
    told = tell(site.database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    add_picture(site, told.job_id, b"<html>")
    site.spool.delete(add_picture(site, told.job_id, png()))
    reader = site.reader()

    answers = [reader.get(f"/pictures/{told.job_id}/{number}").status_code for number in range(3)]

    assert answers == [404, 404, 404]


@pytest.mark.parametrize(
    "path",
    ["/pictures/1/..%2f..%2fetc", "/static/../app.py", "/static/%2e%2e/app.py", "/studies/1.2.3", "/pictures/-1/0"],
)
def test_odd_addresses_lead_nowhere(site: WebSite, path: str) -> None:
    assert site.program().get(path).status_code == 404


@pytest.mark.feature("S3")
def test_what_strangers_sent_is_shown_as_text(site: WebSite) -> None:
    told = tell(
        site.database,
        Standing.FINDINGS,
        "1.2.3",
        patient_name=HOSTILE,
        patient_id=HOSTILE,
        accession_number=HOSTILE,
        study_description=HOSTILE,
        series_description=HOSTILE,
    )
    with site.database.write() as session:
        events.append(
            session,
            EventKind.ASSOCIATION_REFUSED,
            at=at(1),
            study=the_study(session),
            peer=HOSTILE,
            detail={HOSTILE: HOSTILE},
        )
        job = session.get_one(Job, told.job_id)
        job.summary = summary("findings", report_text=HOSTILE, quality=[HOSTILE])
        job.detail = HOSTILE
    reader = site.reader()

    pages = [
        reader.get(path).text
        for path in ("/studies", f"/studies/{told.study_id}", "/queue", "/audit?search=1", f"/studies?q={HOSTILE}")
    ]

    for html in pages:
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "&lt;script&gt;" in html or "1.2.3" not in html


@pytest.mark.parametrize("path", ["/studies", "/queue", "/audit?search=1"])
def test_no_page_has_a_script_a_style_of_its_own_or_anything_from_elsewhere(site: WebSite, path: str) -> None:
    tell(site.database, Standing.FINDINGS, "1.2.3")

    html = site.reader().get(path).text

    assert "<script" not in html
    assert "style=" not in html
    assert not re.search(r"\son[a-z]+=", html)
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', html)


@pytest.mark.parametrize("path", ["/studies", "/studies/1", "/queue", "/audit?search=1"])
def test_every_page_is_well_formed_and_every_field_has_a_label(site: WebSite, path: str) -> None:
    told = tell(site.database, Standing.FINDINGS, "1.2.3")
    assert told.job_id is not None
    store(site.database, told.job_id)
    add_picture(site, told.job_id, png())

    html = site.reader().get(path).text

    opened = re.findall(r"<(/?)(table|tbody|thead|tr|section|details|div|form|figure|dl|nav|td|th)\b", html)
    depth: dict[str, int] = {}
    for closing, tag in opened:
        depth[tag] = depth.get(tag, 0) + (-1 if closing else 1)
    assert {tag: count for tag, count in depth.items() if count} == {}
    fields = set(re.findall(r'<(?:input|select) id="([^"]+)"', html))
    assert fields <= set(re.findall(r'<label for="([^"]+)"', html))
    assert all(re.findall(r'<img [^>]*alt="([^"]+)"', html))
    assert '<html lang="en">' in html


@pytest.mark.feature("A3")
def test_the_queue_shows_dead_letters_failed_jobs_and_readiness(site: WebSite) -> None:
    told = tell(site.database, Standing.FAILED, "1.2.3")
    assert told.job_id is not None
    letter = store(site.database, told.job_id, "VIEWER", refused=True)

    html = site.reader().get("/queue").text

    assert "fovea resubmit --delivery" in html
    assert f'<td class="number">{letter}</td>' in html
    assert "C-STORE answered 0xA900" in html
    assert "timed out" in html
    assert "reachable, schema revision" in html


@pytest.mark.feature("A1")
def test_the_audit_page_finds_and_records_the_search(site: WebSite) -> None:
    tell(site.database, Standing.FINDINGS, "1.2.3", accession_number="A77")
    reader = site.reader()

    empty = reader.get("/audit").text
    html = reader.get("/audit", params={"accession_number": "A77"}).text

    assert "Fill in one or more fields" in empty
    assert "3 events, newest first" in html
    assert "study settled" in html
    (queried,) = site.events("audit queried")
    assert queried.detail == {"filter": {"accession_number": "A77"}, "matches": 3}
    assert queried.user is not None
    assert queried.address == "10.1.2.3"


@pytest.mark.feature("A1")
def test_the_export_is_complete_and_recorded(site: WebSite) -> None:
    with site.database.write() as session:
        for number in range(250):
            events.append(session, EventKind.DELIVERY_FAILED, at=at(number), peer="=1+1", job_id=number)
    program = site.program()

    as_json = program.get("/audit.json", params={"peer": "=1+1"})
    as_csv = program.get("/audit.csv", params={"peer": "=1+1"})

    assert [row["job_id"] for row in as_json.json()] == list(range(250))
    rows = list(csv.DictReader(io.StringIO(as_csv.text, newline="")))
    assert [int(row["job_id"]) for row in rows] == list(range(250))
    assert {row["peer"] for row in rows} == {"'=1+1"}
    assert as_csv.headers["Content-Disposition"] == 'attachment; filename="fovea-audit.csv"'
    assert [one.detail["format"] for one in site.events("audit exported")] == ["json", "csv"]


def test_asking_only_for_the_head_of_an_export_is_refused_and_not_recorded(site: WebSite) -> None:
    answer = site.program().head("/audit.csv")

    assert answer.status_code == 405
    assert site.events("audit exported") == ()


def test_the_audit_page_goes_back_in_time(site: WebSite) -> None:
    with site.database.write() as session:
        for number in range(150):
            events.append(session, EventKind.DELIVERY_FAILED, at=at(number), peer="PACS", job_id=1000 + number)
    reader = site.reader()

    first = reader.get("/audit", params={"peer": "PACS"}).text
    older = re.search(r'href="([^"]+)">Older', first)
    assert older is not None
    second = reader.get(older.group(1).replace("&amp;", "&")).text

    jobs = [int(number) for number in re.findall(r'<td class="number">(1\d{3})</td>', first + second)]
    assert jobs == list(range(1149, 999, -1))


@pytest.mark.parametrize("value", ["\x00", "\ud800", "A\x00B", "'; DROP TABLE event; --", "%", "🙂"])
def test_odd_characters_in_a_search_find_nothing_and_break_nothing(tmp_path: Path, database: Database, value: str) -> None:
    site = web_site(tmp_path, database)
    encoded = value.encode("utf-8", "surrogatepass")
    query = "".join(f"%{byte:02x}" for byte in encoded)

    answers = [
        site.reader().get(f"/audit?accession_number={query}&peer={query}&model={query}"),
        site.reader().get(f"/studies?q={query}"),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]


def test_a_database_that_does_not_answer_is_a_page_and_no_trace(tmp_path: Path) -> None:
    site = web_site(tmp_path, Database(f"sqlite:///{tmp_path}/empty.sqlite"))

    answer = site.program().get("/studies")

    assert answer.status_code == 503
    assert "The database does not answer" in answer.text
    assert "sqlite" not in answer.text
    site.database.dispose()


def test_the_style_is_served_without_a_token_and_may_be_kept(site: WebSite) -> None:
    client = site.stranger()

    answer = client.get("/static/style.css")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    assert "max-age" in answer.headers["Cache-Control"]
    assert "url(" not in answer.text
    assert "@import" not in answer.text
