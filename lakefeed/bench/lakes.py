"""How benchmarks open lakes for what is not measured, and what `--select` means.

Every call of such a lake answers in time, or fails. What is measured is read without a deadline,
which would cost it two hand-overs between threads a call; there `ranks` notices that nothing comes
any more.
"""

from __future__ import annotations

from lakefeed.format.rows import Kind
from lakefeed.lake.lake import Lake
from lakefeed.lake.query import Query
from lakefeed.volume.deadline import posix_volume

_FILES = frozenset({Kind.FILE})


def open_lake(where: str, timeout_seconds: float) -> Lake:
    """Return a lake whose volume answers within so many seconds; 0 waits for ever."""
    return Lake.open(posix_volume(where, timeout_seconds))


def query_of(select: str) -> Query:
    """Return the query of a prefix or a glob, files only."""
    if any(char in select for char in "*?["):
        return Query("", select, _FILES)
    return Query(select, None, _FILES)
