"""``JSONFormatter``: log records as JSON, one object a line, for whatever collects and searches them.

taut logs with the standard library, and gives its records attributes (``extra``): the connection they are about, and at
its end how it ended and what it has moved.  This formatter writes every attribute that a record was given, taut's and
anybody else's.  A line is always written: what JSON cannot hold is written as text, and what cannot be written as text
by its type.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Mapping
from typing import Any, cast

__all__ = ["JSONFormatter"]

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""The attributes that every record has."""
_RESERVED = frozenset({"time", "level", "logger", "message", "exception", "stack"})
_DEPTH = 8
"""How deep a value may be nested before the rest of it is written as text."""


class JSONFormatter(logging.Formatter):
    """Formats log records as JSON, one object a line: ``time``, ``level``, ``logger``, ``message``, and what was given.

    ``fields``: written in every line as well, the name of the service for example; what a record was given comes first.
    A name that the formatter uses itself gets an underscore behind it.  ``time`` is UTC (ISO 8601); the traceback is in
    ``exception``, and what ``stack_info`` adds in ``stack``.  Raises ``TypeError`` for fields that are no mapping of
    str.
    """

    def __init__(self, fields: Mapping[str, object] | None = None) -> None:
        super().__init__()
        given = cast(object, fields if fields is not None else {})
        if not isinstance(given, Mapping):
            raise TypeError(f"fields must be a mapping of names to values or None, not {given!r}")
        for name in cast("Mapping[object, object]", given):
            if not isinstance(name, str):
                raise TypeError(f"fields must have names of type str, not {name!r}")
        self.fields = {_free(name): value for name, value in cast("Mapping[str, object]", given).items()}

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``, without a newline at its end."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= self.fields
        line |= {_free(name): value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps({name: _plain(value, _DEPTH) for name, value in line.items()}, allow_nan=False)


def _free(name: str) -> str:
    return f"{name}_" if name in _RESERVED else name


def _message(record: logging.LogRecord) -> str:
    """A message that does not fit its arguments is worth a line too."""
    try:
        return record.getMessage()
    except Exception:
        return f"{_text(record.msg)} {_text(record.args)}"


def _plain(value: Any, depth: int) -> Any:
    """What of ``value`` JSON can hold: itself, its parts, or its text."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) in (str, int) or (type(value) is float and math.isfinite(value)):
        return value
    if depth:
        if isinstance(value, Mapping):
            pairs = cast("Mapping[object, object]", value).items()
            return {name if isinstance(name, str) else _text(name): _plain(part, depth - 1) for name, part in pairs}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(part, depth - 1) for part in cast("list[object]", value)]
    return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
