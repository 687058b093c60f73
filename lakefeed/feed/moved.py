"""Payloads whose pack is gone because compaction moved them: the snapshot knows where they are.

Asking it costs a look at the newest commit and into the index, so many are asked for together, up
to some megabytes. One that is damaged spoils no other: it is looked for by halves. So is the first
that is nowhere any more; nothing behind it is asked for, because the feed ends there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.errors import Corrupt, NotFound
from lakefeed.lake.snapshot import Snapshot

# They are held beside the budget until they are in their places: what a few reads bring.
_TOGETHER_BYTES = 8 << 20


def read_moved(
    snapshot: Snapshot, paths: pa.Array, sizes: NDArray[np.int64]
) -> Iterator[tuple[int, bytes | Corrupt | NotFound]]:
    """Yield the number of each path and its verified bytes, or why there are none."""
    table = snapshot.locate(paths.cast("string"))
    groups = (np.cumsum(sizes) - sizes) // _TOGETHER_BYTES
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(sizes)]
    for start, end in itertools.pairwise(edges):
        some = table.slice(start, end - start)
        for row, found in enumerate(_read(snapshot, some), start):
            yield row, found
            if isinstance(found, NotFound):
                yield from ((behind, found) for behind in range(row + 1, len(table)))
                return


def _read(snapshot: Snapshot, table: pa.Table) -> Iterator[bytes | Corrupt | NotFound]:
    try:
        found = snapshot.read_rows(table)
    except (Corrupt, NotFound) as error:
        if len(table) == 1:
            yield error
            return
    else:
        yield from found
        return
    half = len(table) // 2
    yield from _read(snapshot, table.slice(0, half))
    yield from _read(snapshot, table.slice(half))
