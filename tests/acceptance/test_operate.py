"""What the people beside the node see and do: audit, explanation, status, dead letters, settings, the web page, the processes."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.states import DeliveryState
from tests import peers, studies
from tests.acceptance.conftest import Hospital
from tests.acceptance.patients import Case, one_case
from tests.node import Node, command_line
from tests.studies import Plan
from tests.waiting import wait_until

STORY = (
    "instances received",
    "study settled",
    "rule decided",
    "job created",
    "job started",
    "job ended",
    "result created",
    "delivery attempted",
    "delivery succeeded",
)

TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'event'"

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def analysed(hospital: Hospital) -> Case:
    """A study that went through."""
    case = one_case("audit", "audited", accession_number="AUDIT1", who=studies.Patient("AUDIT-ID", "Secret^Name"))
    peers.storescu(hospital.node.port, case.datasets, hospital.folder / "audited")
    hospital.node.await_delivered(case.study_instance_uid)
    return case


# ------------------------------------------------------------------------------------------------ audit


@pytest.mark.feature("A1")
def test_the_audit_tells_an_accession_numbers_story_in_order(hospital: Hospital, analysed: Case) -> None:
    answer = hospital.node.fovea("audit", "--accession", analysed.accession_number, "--json")

    assert answer.returncode == 0, answer.stderr
    rows: list[dict[str, Any]] = json.loads(answer.stdout)
    kinds = [row["kind"] for row in rows]
    places = [kinds.index(kind) for kind in STORY]
    assert places == sorted(places)
    moments = [rows[place]["at"] for place in places]  # one step after the other; two processes may tell theirs at once
    assert moments == sorted(moments)
    assert {row["study_instance_uid"] for row in rows} == {analysed.study_instance_uid}
    received = next(row for row in rows if row["kind"] == "instances received")
    assert (received["peer"], received["address"]) == ("MODALITY", "127.0.0.1")
    assert received["detail"]["instances"] == len(analysed.datasets)
    ended = next(row for row in rows if row["kind"] == "job ended")
    assert ended["model"].startswith("brain-flair ")
    assert len(ended["model_digest"]) == 64
    delivered = next(row for row in rows if row["kind"] == "delivery succeeded")
    assert delivered["peer"] == "pacs"


@pytest.mark.feature("A1")
def test_the_audit_is_also_a_table_and_csv_and_asking_is_audited(hospital: Hospital, analysed: Case) -> None:
    table = hospital.node.fovea("audit", "--accession", analysed.accession_number)
    as_csv = hospital.node.fovea("audit", "--accession", analysed.accession_number, "--csv")
    asked = hospital.node.fovea("audit", "--kind", "audit exported", "--json")

    assert table.returncode == as_csv.returncode == asked.returncode == 0, table.stderr + as_csv.stderr
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert next(row["kind"] for row in rows if row["kind"] in STORY) == STORY[0]
    assert {"delivery succeeded", "study settled"} <= {row["kind"] for row in rows}
    assert all(kind in table.stdout for kind in STORY)
    filters = [row["detail"]["filter"] for row in json.loads(asked.stdout)]
    assert {"accession_number": analysed.accession_number} in filters


@pytest.mark.feature("A2")
def test_a_row_changed_behind_the_nodes_back_is_named(hospital: Hospital, analysed: Case, tmp_path: Path) -> None:
    copied = _copy_of(hospital.node, tmp_path)
    before = hospital.node.fovea("audit", "verify", config=copied.config)
    with sqlite3.connect(copied.spool.parent / "fovea.sqlite") as database:
        triggers = [name for (name,) in database.execute(TRIGGERS)]
        for name in triggers:
            database.execute(f"DROP TRIGGER {name}")
        (row,) = database.execute("SELECT min(id) FROM event WHERE kind = 'study settled'").fetchone()
        database.execute("UPDATE event SET patient_id = 'somebody else' WHERE id = ?", (row,))
    database.close()

    after = hospital.node.fovea("audit", "verify", config=copied.config)

    assert before.returncode == 0, before.stdout + before.stderr
    assert triggers
    assert after.returncode == 1
    assert f"event {row} (study settled) was changed" in after.stdout


@pytest.mark.feature("A2")
def test_the_database_itself_refuses_to_change_an_event(hospital: Hospital, analysed: Case, tmp_path: Path) -> None:
    copied = _copy_of(hospital.node, tmp_path)
    database = sqlite3.connect(copied.spool.parent / "fovea.sqlite")

    for statement in ("UPDATE event SET outcome = 'success'", "DELETE FROM event"):
        with pytest.raises(sqlite3.DatabaseError):
            database.execute(statement)
    database.close()


def _copy_of(node: Node, folder: Path) -> Node:
    """A node that is not running, with a copy of the other's database and a configuration that names it."""
    copied = Node(folder / "copy", targets=node.targets, rules=node.rules, peers=node.peers)
    copied.spool.mkdir(parents=True, mode=0o700)
    with sqlite3.connect(node.spool.parent / "fovea.sqlite") as source:
        target = sqlite3.connect(copied.spool.parent / "fovea.sqlite")
        source.backup(target)
        target.close()
    source.close()
    copied.write_configuration()
    return copied


@pytest.mark.feature("A1")
def test_no_patient_name_is_in_log_metrics_or_file_names(hospital: Hospital, analysed: Case) -> None:
    _, metrics = hospital.node.get("/metrics")
    log = (hospital.node.folder / "node.log").read_text(errors="replace")
    files = "\n".join(str(path) for path in hospital.node.folder.rglob("*"))

    for text in (metrics, log, files):
        for secret in ("Secret", "AUDIT-ID", "19600102"):
            assert secret not in text


# ------------------------------------------------------------------------------------------------ looking


@pytest.mark.feature("D3")
def test_explain_says_which_series_was_taken_and_where_results_go(hospital: Hospital, analysed: Case) -> None:
    text = hospital.node.fovea("explain", analysed.accession_number)
    as_json = hospital.node.fovea("explain", analysed.study_instance_uid, "--json")

    assert text.returncode == as_json.returncode == 0, text.stderr + as_json.stderr
    assert "rule brain, model brain-flair: analyses" in text.stdout
    assert "results go to pacs" in text.stdout
    rules = {rule["rule"]: rule for rule in json.loads(as_json.stdout)["rules"]}
    assert rules["research"]["outcome"] == "does not apply"
    assert [series["verdict"] for series in rules["brain"]["series"]] == ["analysed"]


@pytest.mark.feature("D3")
def test_explain_is_a_dry_run_of_changed_rules(hospital: Hospital, analysed: Case, tmp_path: Path) -> None:
    changed = tmp_path / "changed.toml"
    text = hospital.node.config.read_text(encoding="utf-8")
    changed.write_text(text.replace('name = "brain"\n', 'name = "brain"\necho_time_ms = [200.0, 300.0]\n'), encoding="utf-8")

    answer = hospital.node.fovea("explain", analysed.accession_number, config=changed)

    assert answer.returncode == 0, answer.stderr
    assert "selects nothing" in answer.stdout
    assert "echo time 90 ms" in answer.stdout


@pytest.mark.feature("A3")
def test_status_and_web_page_show_the_study(hospital: Hospital, analysed: Case) -> None:
    status = hospital.node.fovea("status", "--json")
    talk = hospital.node.fovea("status")
    number = hospital.node.told(analysed.study_instance_uid).study.id

    assert status.returncode == talk.returncode == 0, status.stderr + talk.stderr
    assert "SETTLED" in {one["state"] for one in json.loads(status.stdout)["studies"]}  # the newest; others came after this one
    assert hospital.node.told(analysed.study_instance_uid).study.state == "SETTLED"
    for path in ("/studies", f"/studies/{number}", "/queue", "/audit"):
        code, body = hospital.node.get(path, hospital.node.token)
        assert code == 200, path
        assert "<html" in body
    assert analysed.accession_number in hospital.node.get("/studies", hospital.node.token)[1]


@pytest.mark.feature("A3")
def test_the_web_page_needs_its_token(hospital: Hospital, analysed: Case) -> None:
    assert hospital.node.get("/studies")[0] == 401
    assert hospital.node.get("/studies", "x" * 43)[0] == 401
    assert hospital.node.get("/audit")[0] == 401
    assert analysed.accession_number not in hospital.node.get("/studies")[1]


@pytest.mark.feature("A4")
def test_machines_can_watch_the_node(hospital: Hospital, analysed: Case) -> None:
    health = hospital.node.get("/healthz")
    ready, checks = hospital.node.get("/readyz")
    code, metrics = hospital.node.get("/metrics")

    assert health[0] == 200
    assert ready == 200, checks
    assert json.loads(checks)["ready"] is True
    assert code == 200
    assert "fovea_" in metrics


# ------------------------------------------------------------------------------------------------ acting


@pytest.mark.feature("V1")
def test_a_dead_letter_is_shown_and_resubmitted(hospital: Hospital, tmp_path: Path) -> None:
    plan = Plan(slices=8, rows=32, columns=32, study="research", accession_number="DEAD1")  # refused: quick
    node, moody, uid = hospital.node, hospital.moody, plan.study_instance_uid
    peers.storescu(node.port, studies.series(plan), tmp_path, calling="RESEARCH")
    letter = wait_until("the delivery is a dead letter", lambda: _dead_letter(node, uid), 120)
    status = node.fovea("status")
    answers_refused = list(moody.taken)

    moody.status = 0x0000
    resubmitted = node.fovea("resubmit", "--delivery", str(letter))
    job = node.await_delivered(uid)

    assert answers_refused == []
    assert f"dead letter {letter} to moody" in status.stdout
    assert resubmitted.returncode == 0, resubmitted.stderr
    assert {str(one.SOPInstanceUID) for one in moody.taken} == {one.sop_instance_uid for one in job.results}
    assert [one.state for one in job.deliveries] == [DeliveryState.STORED]
    kinds = [kind for kind, _ in node.events(uid)]
    assert kinds.index("delivery failed") < kinds.index("delivery resubmitted") < kinds.index("delivery succeeded")


def _dead_letter(node: Node, study_instance_uid: str) -> int | None:
    story = node.story(study_instance_uid)
    failed = [one.id for job in story.jobs for one in job.deliveries if one.state is DeliveryState.FAILED] if story else []
    return failed[0] if failed else None


@pytest.mark.feature("O3")
@pytest.mark.parametrize(
    "wrong, path",
    [
        ("[receive]\nsettle_after_s = -1\n", "receive.settle_after_s"),
        ("[receive]\nsettle_afer_s = 3\n", "receive.settle_afer_s"),
        ('[[rules]]\nname = "x"\nmodel = "nobody"\ndestinations = ["y"]\n', "rules.0.model"),
        ('[[peers]]\nae_title = "A"\naddresses = ["not an address"]\n', "peers.0.addresses.0"),
    ],
)
def test_a_wrong_configuration_is_refused_by_the_keys_path(hospital: Hospital, tmp_path: Path, wrong: str, path: str) -> None:
    config = tmp_path / "fovea.toml"
    config.write_text(wrong, encoding="utf-8")

    answer = hospital.node.fovea("settings", "--check", config=config)

    assert answer.returncode == 2
    assert path in answer.stderr.replace("\n", "")


@pytest.mark.feature("O3")
def test_the_configuration_of_the_running_node_is_valid(hospital: Hospital) -> None:
    answer = hospital.node.fovea("settings", "--check")

    assert answer.returncode == 0
    assert "valid" in answer.stdout


# ------------------------------------------------------------------------------------------------ processes


@pytest.mark.feature("S2")
def test_only_the_children_of_the_worker_load_the_network_library(hospital: Hospital, analysed: Case) -> None:
    roles = {name: hospital.node.role(name) for name in ("listen", "work", "web")}
    child = wait_until("a child waits warm", lambda: _warm_child(roles["work"]), 60)

    assert "libtorch" in child
    for name, process in roles.items():
        maps = _maps(process)
        assert "libc.so" in maps
        assert "libtorch" not in maps, f"{name} has loaded torch"


def _warm_child(worker: psutil.Process) -> str | None:
    for one in worker.children(recursive=True):
        if "dicom_node.child" in command_line(one):
            maps = _maps(one)
            if "libtorch" in maps:
                return maps
    return None


def _maps(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
