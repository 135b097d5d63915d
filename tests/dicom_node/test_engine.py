"""The engine against children that behave and children that do not: killed in time, told apart, never in the way of the next."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from dicom_node.engine import Engine, Limits, RunFailed
from dicom_node.outcome import OutputOptions, Reason, RunRequest, SeriesInput, request_from_json, request_to_json

LIMITS = Limits(memory_mb=512, timeout_s=60.0, threads=1)

PREAMBLE = """
import json, os, struct, sys, time
def frame(data):
    sys.stdout.buffer.write(struct.pack(">Q", len(data)) + data); sys.stdout.buffer.flush()
def request():
    size = struct.unpack(">Q", sys.stdin.buffer.read(8))[0]
    return json.loads(sys.stdin.buffer.read(size))
"""


PARENT = """
import time
from dicom_node.engine import Engine, Limits
engine = Engine(Limits(512, 60, 1))
engine.warm_up()
print(engine._warm.pid, flush=True)
time.sleep(600)
"""


def request() -> RunRequest:
    return RunRequest(
        job_id=1, study_instance_uid="1.2", revision=1, rule="flair",
        analysed=(SeriesInput("1.2.3", 3, "FLAIR", "MR", ("/nowhere",)),), passed_over=(), bundle="/nowhere",
        model_digest="0" * 64,
        recipe="", recipe_digest="1" * 64, input_digest="2" * 64, device="cpu", threads=1, output=OutputOptions(),
        taken_series_numbers=(1, 2), refusal=Reason("contrast", "echo time 3 ms"),
    )  # fmt: skip


def engine_with(tmp_path: Path, body: str, limits: Limits = LIMITS) -> Engine:
    script = tmp_path / "child.py"
    script.write_text(PREAMBLE + textwrap.dedent(body), encoding="utf-8")
    return Engine(limits, (sys.executable, str(script)))


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_request_crosses_the_border_unchanged() -> None:
    assert request_from_json(request_to_json(request())) == request()


@pytest.mark.slow
def test_a_child_that_hangs_is_killed_at_its_limit(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "frame(b'ready'); request(); time.sleep(600)", Limits(512, 1.0, 1))
    before = children()
    started = time.monotonic()

    with pytest.raises(RunFailed) as raised:
        engine.run(request())

    assert raised.value.kind == "timed out"
    assert raised.value.worth_retrying
    assert time.monotonic() - started < 30
    assert children() <= before


def test_a_child_that_is_killed_by_the_kernel_has_died_of_its_input(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "frame(b'ready'); request(); os.kill(os.getpid(), 9)")

    with pytest.raises(RunFailed) as raised:
        engine.run(request())

    assert (raised.value.kind, raised.value.worth_retrying) == ("died", True)
    assert "signal 9" in raised.value.detail


def test_a_child_that_dies_before_it_is_ready_is_a_crash(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "sys.exit(3)")

    with pytest.raises(RunFailed, match="status 3"):
        engine.run(request())


def test_an_error_of_the_program_is_not_tried_again(tmp_path: Path) -> None:
    body = "frame(b'ready'); request(); frame(b'error'); frame(json.dumps({'kind': 'error', 'detail': 'ValueError'}).encode())"

    with pytest.raises(RunFailed) as raised:
        engine_with(tmp_path, body).run(request())

    assert (raised.value.kind, raised.value.worth_retrying) == ("error", False)


@pytest.mark.slow
def test_a_run_whose_job_was_taken_away_is_ended(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "frame(b'ready'); request(); time.sleep(600)", Limits(512, 60.0, 1))

    with pytest.raises(RunFailed) as raised:
        engine.run(request(), keep_alive=lambda: False)

    assert raised.value.kind == "lost"


def test_the_engine_serves_the_next_request_after_a_crash(tmp_path: Path) -> None:
    engine = engine_with(
        tmp_path,
        f"""
        frame(b'ready'); request()
        marker = {str(tmp_path / "second")!r}
        if not os.path.exists(marker):
            open(marker, 'w').close(); os._exit(7)
        frame(b'error'); frame(json.dumps({{'kind': 'out of memory', 'detail': 'second'}}).encode())
        """,
    )

    with pytest.raises(RunFailed, match="status 7"):
        engine.run(request())
    with pytest.raises(RunFailed, match="out of memory: second"):
        engine.run(request())


def test_closing_the_engine_ends_the_warm_child(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, "frame(b'ready'); request()")
    before = children()
    engine.warm_up()
    assert children() - before

    engine.close()

    assert children() <= before


@pytest.mark.slow
def test_the_real_child_keeps_its_memory_limit_and_says_so(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\n"
        "import dicom_node.run as real\n"
        "def hungry(request):\n"
        "    return [bytearray(64 << 20) for _ in range(64)]\n"
        "real.run = hungry\n"
        "from dicom_node.child import main\n"
        "main()\n",
        encoding="utf-8",
    )

    with pytest.raises(RunFailed) as raised:
        Engine(Limits(memory_mb=512, timeout_s=60, threads=1), (sys.executable, str(probe))).run(request())

    assert raised.value.kind == "out of memory"
    assert raised.value.peak_memory_mb is not None
    assert raised.value.peak_memory_mb < 2048


@pytest.mark.slow
def test_the_real_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = psutil.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
        ],
        stdout=-1,
    )
    child = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.wait()
    parent.stdout.close()

    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == []
