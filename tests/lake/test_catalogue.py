"""What is kept of the index in memory, and how that is counted."""

from __future__ import annotations

import weakref

from lakefeed.lake.catalogue import Catalogue, sources_of
from lakefeed.lake.files import OpenFiles
from tests.lake.tools import QUIET, new_lake


def test_rows_of_many_small_packs_count_with_the_tables_that_hold_them() -> None:
    """A daemon decodes a few rows for each commit, and their bytes are next to nothing."""
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            for number in range(40):
                writer.put(f"{number}", b"")
                writer.flush()
        catalogue = Catalogue(OpenFiles(lake.volume), cache_bytes=100_000)
        tables = [
            weakref.ref(catalogue.cached_rows(source, [0])[0])
            for source in sources_of(lake.snapshot().state)
        ]
        # A table of one row takes 12 kB, measured over thousands of them.
        assert 4 <= sum(table() is not None for table in tables) <= 10
