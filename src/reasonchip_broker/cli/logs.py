"""Logging: structlog, one event a line on stderr, JSON for programs and columns for people.

Two roads lead to the same lines: the broker's own logger, which goes straight to stderr, and the standard library's, which the client
and worker libraries, asyncio and a worker's own code use. Nothing that a peer sent can add a line or move the cursor: JSON escapes
it, and for the console `printable` does. A log that can't be written (its reader is gone, the disk is full) is lost; the broker is not.
"""

import json
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from reasonchip_broker.cli.text import printable_value

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Event = MutableMapping[str, Any]


class _Lines:
    """Where rendered lines go."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = msg = write


class _Handler(logging.Handler):
    """The standard library's records, written as the same lines."""

    def __init__(self, lines: _Lines, formatter: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(self.format(record))
        except Exception:
            self._lines.write(f"a log record of {record.name} could not be formatted: {record.msg!r}")


def configure(level: str, style: str, stream: TextIO | None = None) -> Any:
    """Send the process's logs to `stream` (stderr, if None) from `level` on; return the logger for a Broker.

    `style` is json, console, or auto: console on a terminal, JSON elsewhere. Programs get the time in UTC, people that of the day.
    Colours are for terminals, and not if NO_COLOR is set.
    """
    stream = stream if stream is not None else sys.stderr
    interactive = stream.isatty()
    as_json = style == "json" or (style == "auto" and not interactive)
    renderer = [_render_json] if as_json else [_escape, _console(colors=interactive and not os.environ.get("NO_COLOR"))]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso") if as_json else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.processors.format_exc_info,
    ]
    lines = _Lines(stream)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    root = logging.getLogger()
    root.handlers[:] = [_Handler(lines, formatter)]
    root.setLevel(LEVELS[level])
    return structlog.wrap_logger(lines, processors=[*shared, *renderer], wrapper_class=_wrapper(LEVELS[level]))


def _wrapper(level: int) -> Any:
    """structlog's filtering logger, whose methods below `level` do nothing at all; with the name that the broker asks by."""

    class Logger(structlog.make_filtering_bound_logger(level)):  # type: ignore[misc]  # a base class made at run time
        def isEnabledFor(self, wanted: int) -> bool:
            return wanted >= level

    return Logger


def _console(*, colors: bool) -> Any:
    return structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=20, pad_level=False, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )


def _render_json(logger: Any, name: str, event: Event) -> str:
    """One line of printable ASCII: `json` escapes all else."""
    return json.dumps(_in_order(event), default=str)


def _escape(logger: Any, name: str, event: Event) -> Event:
    escaped: Event = printable_value(event)
    if "exception" in escaped:
        # By this name the renderer would give it lines of its own.
        escaped["traceback"] = escaped.pop("exception")
    return escaped


def _in_order(event: Event) -> Event:
    """When, how bad, what; then the rest, as the caller gave it."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}
