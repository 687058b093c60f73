"""Two tables of rows side by side: which paths are in one, in the other, in both, and what differs.

Both tables are in memory shape and sorted by path, each path once. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format.rows import empty_table
from lakefeed.lake.catalogue import lower_bound


@dataclass(frozen=True, slots=True)
class Aligned:
    """Row numbers: alone in the left table, alone in the right one, and pairs of both."""

    left_only: np.ndarray
    right_only: np.ndarray
    left: np.ndarray
    right: np.ndarray


def align(left: pa.Table, right: pa.Table) -> Aligned:
    """Return how the rows of two tables pair up by path."""
    at = pc.index_in(left["path"], value_set=right["path"]).combine_chunks()
    paired = np.asarray(at.is_valid())
    partner = np.asarray(at.drop_null()).astype(np.int64)
    alone = np.ones(len(right), bool)
    alone[partner] = False
    return Aligned(np.flatnonzero(~paired), np.flatnonzero(alone), np.flatnonzero(paired), partner)


def unequal(left: pa.Table, right: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Return which rows of two tables of one length differ in any of the columns."""
    differs = np.zeros(len(left), bool)
    for name in columns:
        if name == "attrs":
            differs |= _unequal_attrs(left[name], right[name])
        elif name == "pack":
            here, there = left[name].cast(pa.string()), right[name].cast(pa.string())
            differs |= np.asarray(pc.not_equal(here, there))
        else:
            differs |= np.asarray(left[name]) != np.asarray(right[name])
    return differs


def _unequal_attrs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> np.ndarray:
    # Arrow does not compare maps; most lakes have none, and then nothing is converted.
    differs: np.ndarray = np.asarray(left.is_valid()) != np.asarray(right.is_valid())
    for at in np.flatnonzero(np.asarray(left.is_valid()) & ~differs).tolist():
        differs[at] = dict(left[at].as_py()) != dict(right[at].as_py())
    return differs


def side_by_side(
    old: Iterator[pa.Table], new: Iterator[pa.Table]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the rows of two sorted streams in steps that cover the same range of paths."""
    left, right = next(old, None), next(new, None)
    while left is not None or right is not None:
        last = [table["path"][-1].as_py() for table in (left, right) if table is not None]
        # Up to here both streams are known: the shorter of the two tables ends the step.
        bound = min(last)
        low, left = _cut(left, bound)
        high, right = _cut(right, bound)
        yield low, high
        left = next(old, None) if left is None else left
        right = next(new, None) if right is None else right


def _cut(table: pa.Table | None, bound: str) -> tuple[pa.Table, pa.Table | None]:
    """Return the rows up to and with `bound`, and the rest if there is one."""
    if table is None:
        return empty_table(), None
    end = lower_bound(table["path"], f"{bound}\0")
    return table.slice(0, end), table.slice(end) if end < len(table) else None
