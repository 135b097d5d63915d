"""Logs: events in lower-case words plus fields, as JSON lines for a collector or in colour for a person, on
stderr.

No patient in them: fields whose name says patient are replaced before anything is written, data sets and
elements never appear as values, and dumped attributes of group 0010 are cut out of messages and tracebacks
of libraries too.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import IO

import structlog
from pydicom import Dataset
from pydicom.dataelem import DataElement
from structlog.typing import EventDict, Processor, WrappedLogger

REMOVED = "[removed]"
_PATIENT_FIELD = re.compile(
    r"patient(?!studyexists$|digest$)|birthdate|birthtime|dateofbirth|otherids|^pid$|^mrn$|^dob$|militaryrank"
    r"|personname|responsibleperson"
)
_DUMPED = re.compile(r"\(0010,\s?[0-9A-Fa-f]{4}\)[^\n]*")
_LOUD = ("pynetdicom", "pydicom", "highdicom", "alembic", "apscheduler", "uvicorn", "PIL", "asyncio")


def configure(*, json: bool | None = None, level: str = "INFO", stream: IO[str] | None = None) -> None:
    """Send all logs, those of libraries too, to `stream` (stderr): JSON lines, or text for a console.

    Where `json` is not said, a terminal gets text and everything else gets JSON lines.
    Libraries are heard from WARNING on: pynetdicom at DEBUG would write out whole data sets.
    """
    target = sys.stderr if stream is None else stream
    as_json = not target.isatty() if json is None else json
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_common(), processors=_last(json=as_json, colors=target.isatty()))
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _LOUD:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.captureWarnings(True)


def remove_patients(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: the event without anything that names a patient."""
    return {key: REMOVED if _names_patient(key) else _clean(value) for key, value in event.items()}


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _last(*, json: bool, colors: bool) -> list[Processor]:
    """Tracebacks become text before patients are removed, so they are cleaned too; locals are not shown."""
    first: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        if json
        else structlog.processors.format_exc_info,
        remove_patients,
    ]
    if json:
        return [*first, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    return [*first, structlog.dev.ConsoleRenderer(colors=colors)]


def _names_patient(key: object) -> bool:
    return _PATIENT_FIELD.search(re.sub(r"[^a-z]", "", str(key).lower())) is not None


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _DUMPED.sub(f"(0010,xxxx) {REMOVED}", value)
    if isinstance(value, Dataset | DataElement):
        return REMOVED
    if isinstance(value, Mapping):
        return {key: REMOVED if _names_patient(key) else _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _clean(str(value))
