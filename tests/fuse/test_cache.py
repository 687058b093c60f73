"""The cache of payloads that a mount of a slow volume keeps."""

from __future__ import annotations

import pytest

pytest.importorskip("pyfuse3")
trio = pytest.importorskip("trio")

from lakefeed.adapters.fuse.reading import Reads  # noqa: E402
from tests.fuse.test_parts import Slow  # noqa: E402
from tests.lake.tools import new_lake  # noqa: E402


def test_tiny_files_count_with_what_holds_them() -> None:
    async def run() -> None:
        reads = Reads(Slow(), 10_000)
        # Backwards: neighbours in order are read together, and not kept one by one.
        for row in reversed(rows):
            assert await reads.read(snapshot, row, 0, 20) == row.path.encode().ljust(20)
        # A file of 20 bytes takes 300 of memory at least.
        kept = 0
        for row in rows:
            hits = reads.stats.hits
            await reads.read(snapshot, row, 0, 20)
            kept += reads.stats.hits > hits
            if reads.stats.hits == hits:
                break
        assert 10 <= kept <= 40

    with new_lake() as lake, lake.writer() as writer:
        for number in range(100):
            writer.put(f"{number:02d}", b"%02d" % number + b" " * 18)
        writer.flush()
        snapshot = lake.snapshot()
        rows = list(snapshot.ls())
        trio.run(run)
