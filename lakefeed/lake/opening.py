"""Packs that are not merged yet, and segments, opened at the same time.

Each takes two calls to open and a pack one for its rows. Dozens of them, one after the other, on a
volume that takes 50 ms a call, are ten seconds before the first row. Only saves time: what cannot
be opened here is opened again by whoever wants it, and then says why not (I7).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from lakefeed.errors import LakefeedError, VolumeFailed
from lakefeed.lake.catalogue import READERS_MAX, Catalogue, Source

# Fewer are not worth a thread: a local disk opens one in 0.3 ms.
TOGETHER_MIN = 8
THREADS = 16
# More than a writer leaves to be merged (`merge_after`): their rows could drive out others.
_ROWS_OF_MAX = 64


def open_together(
    catalogue: Catalogue, sources: Sequence[Source], *, rows: bool = True, segments: bool = False
) -> None:
    """Open the packs among these sources, or all of them, the first ones, where many are not open
    yet; read the `rows` of packs that have few."""
    # No more than stay open, or each look would open others.
    chosen = [source for source in sources if source.pack_id or segments][: READERS_MAX // 2]
    chosen = catalogue.not_open(chosen) if len(chosen) >= TOGETHER_MIN else []
    if len(chosen) < TOGETHER_MIN:
        return
    rows = rows and sum(bool(source.pack_id) for source in chosen) <= _ROWS_OF_MAX

    failed = threading.Event()

    def look(source: Source) -> None:
        if failed.is_set():
            return
        try:
            if len(catalogue.reader(source).groups) == 1 and rows and source.pack_id:
                catalogue.cached_rows(source, [0])
        except VolumeFailed:
            # A server that does not answer is waited for once, not once for every few packs.
            failed.set()
        except LakefeedError:
            return

    # Where no thread can be started, whoever comes opens them one by one.
    with suppress(RuntimeError), ThreadPoolExecutor(THREADS, "lakefeed-open") as pool:
        for _ in pool.map(look, chosen):
            pass
