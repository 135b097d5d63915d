"""Logs: JSON lines or text, and no patient in either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from pydicom import Dataset

from dicom_node import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put the process's logging back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """The JSON lines written so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_fields() -> None:
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)

    structlog.get_logger("dicom_node.scp").info("instance stored", study="1.2.3", bytes=17, seconds=0.5)

    (line,) = lines(stream)
    assert line["event"] == "instance stored"
    assert (line["study"], line["bytes"], line["seconds"]) == ("1.2.3", 17, 0.5)
    assert (line["level"], line["logger"]) == ("info", "dicom_node.scp")
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize("json_lines", [True, False], ids=["json", "console"])
@pytest.mark.parametrize(
    "key",
    [
        "patient_name",
        "PatientName",
        "patient_id",
        "Patient's Name",
        "patient_birth_date",
        "birth_date",
        "birthdate",
        "issuer_of_patient_id",
        "OtherPatientIDs",
        "patient",
        "patient_sex",
        "person_name",
        "mrn",
    ],
)
def test_a_field_that_names_a_patient_is_removed(key: str, json_lines: bool) -> None:
    stream = io.StringIO()
    logs.configure(json=json_lines, stream=stream)

    structlog.get_logger("x").warning("instance refused", **{key: "SECRET^JANE"}, nested=[{key: "SECRET^JANE"}])

    assert "SECRET" not in stream.getvalue()
    assert logs.REMOVED in stream.getvalue()
    assert "instance refused" in stream.getvalue()


def test_a_data_set_never_reaches_a_log() -> None:
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)
    dataset = Dataset()
    dataset.PatientName = "SECRET^JANE"
    dataset.PatientBirthDate = "19701231"

    log = structlog.get_logger("x")
    log.warning("odd header", dataset=dataset, element=dataset["PatientName"], listed=(dataset,))
    log.warning(f"odd header {dataset}")
    logging.getLogger("pynetdicom").warning("got %s", dataset)

    text = stream.getvalue()
    assert len(lines(stream)) == 3
    assert "SECRET" not in text
    assert "19701231" not in text


@pytest.mark.parametrize("json_lines", [True, False], ids=["json", "console"])
def test_a_traceback_shows_no_local_variable_and_no_dumped_patient(json_lines: bool) -> None:
    stream = io.StringIO()
    logs.configure(json=json_lines, stream=stream)
    dataset = Dataset()
    dataset.PatientName = "SECRET^JANE"

    def fails(hidden: str) -> None:
        raise ValueError(f"cannot read {dataset}, {len(hidden)} characters")

    local = "^".join(("SECRET", "LOCAL"))
    try:
        fails(local)
    except ValueError:
        structlog.get_logger("x").exception("run failed", job=4)

    text = stream.getvalue()
    assert "SECRET" not in text
    assert "ValueError" in text
    assert "run failed" in text


def test_libraries_are_heard_from_warning_on_in_the_same_form() -> None:
    stream = io.StringIO()
    logs.configure(json=True, stream=stream, level="DEBUG")

    logging.getLogger("pynetdicom.acse").info("chatter")
    logging.getLogger("uvicorn.error").warning("port %d is taken", 80)

    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("port 80 is taken", "warning", "uvicorn.error")


def test_what_is_no_patient_stays() -> None:
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)

    structlog.get_logger("x").info(
        "run ended", study="1.2.3", ae_title="PACS", rejected_pdus=2, input_digest="ab", options={"rows": 3}
    )

    (line,) = lines(stream)
    assert line["options"] == {"rows": 3}
    assert line["ae_title"] == "PACS"
    assert line["rejected_pdus"] == 2
