"""One log line, one JSON object: what log collectors read without being told how; or one text.

Names come from volumes and inboxes, and may hold anything: none of them ends a line or speaks to a
terminal. Keys of the JSON: time (ISO 8601, UTC), level, message, logger; whatever the line adds
(lake, job, token, files, path); and the traceback of an error that nobody foresaw.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

_ADDED = (
    "lake",
    "job",
    "token",
    "port",
    "inbox",
    "path",
    "pack",
    "reason",
    "files",
    "bytes",
    "snapshot",
)


def log_to_stderr(formatter: logging.Formatter, level: int | str, *, anew: bool = False) -> None:
    """Send what is logged to stderr; where that was arranged before, only if it is to be `anew`."""
    handler = _StderrHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level, force=anew)


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # from Python 3.11 on
    """Writes to what stderr is by then: whoever calls a command in its own process may give it
    another one, and close that behind it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


class JsonFormatter(logging.Formatter):
    """Formats records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        facts: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        known = ((name, record.__dict__.get(name)) for name in _ADDED)
        added = {name: fact for name, fact in known if fact not in (None, "")}
        if record.exc_info:
            added["traceback"] = self.formatException(record.exc_info)
        # A name in an inbox need not be UTF-8; JSON has escapes for what it has instead.
        line = json.dumps({**facts, **added}, ensure_ascii=False)
        return line.encode(errors="backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """Formats records as text, one line each; behind it the traceback, if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback, indented: a name in its error may hold line ends, too."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def printable(text: str) -> str:
    """Return a text with escapes for line ends, control characters and what is no character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
