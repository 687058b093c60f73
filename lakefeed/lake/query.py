"""Which rows a search selects: globs, kinds, sizes and times, evaluated on whole tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Invalid
from lakefeed.format import bridge
from lakefeed.format.rows import Kind
from lakefeed.given import check, check_fields


@dataclass(frozen=True, slots=True)
class Query:
    """Which files `find` returns: all conditions hold. Times are nanoseconds since the epoch."""

    prefix: str = ""
    glob: str | None = None
    kinds: frozenset[Kind] = frozenset({Kind.FILE, Kind.SYMLINK})
    size_min: int | None = None
    size_max: int | None = None
    newer_than_ns: int | None = None
    older_than_ns: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.glob is not None:
            try:
                pc.match_substring_regex(bridge.strings([""]), glob_to_regex(self.glob))
            except UnicodeEncodeError as error:
                raise Invalid(f"glob {self.glob!r}", expected="valid UTF-8") from error
            except pa.ArrowInvalid as error:
                raise Invalid(f"glob {self.glob!r}", expected="sets like [a-z] or [!abc]",
                              found=str(error)) from error  # fmt: skip

    @property
    def directory(self) -> str:
        """The directory below which everything selected lies."""
        return self.prefix or ("" if self.glob is None else _literal_directory(self.glob))


def glob_to_regex(pattern: str) -> str:
    """Return the RE2 expression of a glob: `*` and `?` stay inside a component, `**` crosses them.

    `[...]` is a set of characters, `[!...]` its complement. `**/` also matches no directory at all.
    """
    parts = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        else:
            text, at = _glob_step(pattern, at)
            parts.append(text)
    return f"(?s)^{''.join(parts)}$"


def _glob_step(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at]
    if char == "*":
        return "[^/]*", at + 1
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        end = pattern.find("]", at + 2)
        if end > 0:
            negated = pattern[at + 1] == "!"
            inner = re.sub(r"[\\\[^]", r"\\\g<0>", pattern[at + 1 + negated : end])
            return f"[{'^/' if negated else ''}{inner}]", end + 1
    return re.escape(char), at + 1


def _literal_directory(pattern: str) -> str:
    """Return the directories at the start of a glob that hold no wildcard."""
    pieces = pattern.split("/")
    count = next((i for i, piece in enumerate(pieces) if re.search(r"[*?\[]", piece)), len(pieces))
    return "/".join(pieces[: min(count, len(pieces) - 1)])


def selected(scan: Callable[[str], Iterator[pa.Table]], query: Query | str) -> Iterator[pa.Table]:
    """Yield the rows that a query (or a plain prefix) selects of what a view's `scan` yields."""
    check("query", query, Query | str)
    query = Query(prefix=query) if isinstance(query, str) else query
    for table in scan(query.directory):
        chosen = table.filter(_mask(table, query))
        if len(chosen):
            yield chosen


def _mask(table: pa.Table, query: Query) -> pa.ChunkedArray:
    """Return which rows of a memory table a query selects."""
    kinds = bridge.numbers(np.array([int(kind) for kind in query.kinds], np.int8))
    chosen = pc.is_in(table["kind"], value_set=kinds)
    if query.glob is not None:
        matches = pc.match_substring_regex(table["path"], glob_to_regex(query.glob))
        chosen = pc.and_(chosen, matches)
    for column, compare, limit in (
        ("size", pc.greater_equal, query.size_min),
        ("size", pc.less_equal, query.size_max),
        ("mtime_ns", pc.greater, query.newer_than_ns),
        ("mtime_ns", pc.less, query.older_than_ns),
    ):
        if limit is not None:
            bound = pa.scalar(limit, table[column].type)
            chosen = pc.and_(chosen, compare(table[column], bound))
    return chosen
