"""The rows and labels of samples of which some are empty and only fill a batch up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lakefeed.feed.labels import NO_LABEL, Labels
from lakefeed.feed.planning import EMPTY
from lakefeed.feed.selection import Selection
from lakefeed.feed.table import Rows

_Numbers = NDArray[np.int64]


def rows_of(selection: Selection, numbers: _Numbers) -> Rows:
    """Return the rows of some samples; empty ones have rows without bytes."""
    there = numbers != EMPTY
    if there.all():
        return selection.rows(numbers)
    rows = selection.rows(numbers[there])
    if not len(rows):
        return _nothing(rows, len(numbers))
    wide = rows.take(np.maximum(np.cumsum(there) - 1, 0))
    length, size = np.where(there, wide.length, 0), np.where(there, wide.size, 0)
    return replace(wide, length=length, size=size, packed=wide.packed & there)


def _nothing(rows: Rows, count: int) -> Rows:
    zeros = np.zeros(count, np.int64)
    return Rows(rows.packs, zeros, zeros, zeros, zeros, zeros.astype(np.uint32),
                zeros.astype(np.bool_))  # fmt: skip


def labels_of(selection: Selection, numbers: _Numbers) -> Labels | None:
    """Return the labels of some samples, `NO_LABEL` for empty ones; None if there are no labels."""
    there = numbers != EMPTY
    if there.all():
        return selection.labels(numbers)
    found = selection.labels(numbers[there])
    if found is None:
        return None
    labels = np.full(len(numbers), NO_LABEL, np.int32)
    labels[there] = found
    return labels
