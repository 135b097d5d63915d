"""Statements that run for every object received: compiled once, then given to the driver's own cursor.

SQLAlchemy's way to the driver costs several times what the database needs for a row. The text and the conversion of each
parameter are SQLAlchemy's, asked for once; what remains for each row is one call of the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.sql.dml import UpdateBase


class Prepared:
    """One INSERT, UPDATE or DELETE in one dialect; every value in it is a named parameter."""

    def __init__(self, statement: UpdateBase, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        """`columns` are those of an INSERT that are given values."""
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self._text = str(compiled)
        self._order: list[str] | None = compiled.positiontup if compiled.positional else None
        self._converters: list[tuple[str, Callable[[Any], Any]]] = []
        for name, parameter in compiled.binds.items():
            converter = parameter.type.dialect_impl(dialect).bind_processor(dialect)
            if converter is not None:
                self._converters.append((name, converter))

    def run(self, cursor: Any, parameters: Mapping[str, Any]) -> int:
        """Run it on the driver's cursor; the number of rows changed. Raises the driver's own errors."""
        values = dict(parameters)
        for name, convert in self._converters:
            values[name] = convert(values[name])
        cursor.execute(self._text, values if self._order is None else [values[name] for name in self._order])
        return int(cursor.rowcount)
