"""A feed that runs on takes no more memory: a short soak; `benchmarks/soak.py` runs for as long."""

from __future__ import annotations

import gc
import os
from collections import deque
from pathlib import Path

import pytest

from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1500, 60_000], ids=["small", "big"])
def test_buffers_come_back(tmp_path: Path, size: int) -> None:
    files = 60_000_000 // size // 6
    with Lake.create(tmp_path) as lake, lake.writer() as writer:
        for number in range(files):
            writer.put(f"{number:06d}", os.urandom(size))
    options = FeedOptions(32, "runs=16", epochs=None, memory_bytes="16MiB")
    with Feed(tmp_path, "", options) as feed:
        kept: deque[object] = deque(maxlen=5)
        epochs = [0]
        while len(epochs) < 14:
            batch = next(feed)
            kept.append(batch.arrow() if len(epochs) % 2 else batch.views()[:2])
            if batch.cursor.epoch > len(epochs):
                gc.collect()
                epochs.append(resident_bytes())
        # Ten epochs of 10 MB: without buffers coming back this would be 100 MB.
        assert epochs[-1] - epochs[3] < 40_000_000
        assert feed.stats().peak_bytes <= 16 << 20
