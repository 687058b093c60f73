"""The contestants of `feed_core`, each run alone in a process: the limit, and the feed."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from lakefeed.bench.emulation import KNOWN, Pace, SlowVolume, shared_state
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.order import Shuffle
from lakefeed.feed.selection import resolve
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.volume.base import Volume
from lakefeed.volume.posix import PosixVolume

WINDOW_BYTES = 128 << 20
READ_BYTES = 2 << 20
GAP_BYTES = 16 << 10
THREADS = {"warm": 4, "cold": 8, "far": 64, "nas": 32}

Batches = Iterator[tuple[int, int]]


def opened(where: str, state: str) -> Volume:
    """Return the volume of a cell."""
    volume = PosixVolume(where)
    if state not in KNOWN:
        return volume
    return SlowVolume(volume, Pace(KNOWN[state], shared_state(get_context())))


def feed(volume: Volume, shuffle: str, batch: int, facts: dict[str, float]) -> Batches:
    """Yield samples and bytes of each batch of the feed."""
    options = FeedOptions(batch, shuffle, epochs=None, seed=int(time.time()))
    with Lake.open(volume) as lake, Feed(lake, "", options) as one:
        try:
            for each in one:
                views = each.views()
                yield len(views), each.data.nbytes
        finally:
            stats = one.stats()
            facts["amplification"] = stats.read_amplification
            facts["workers"] = stats.workers
            facts["stages"] = dict(stats.stages)  # type: ignore[assignment]


def limit(volume: Volume, shuffle: str, state: str, facts: dict[str, float]) -> Batches:
    """Yield samples and bytes of each window, read by hand; see `feed_core`."""
    facts["amplification"] = 1.0
    facts["workers"] = threads = THREADS[state]
    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        selection = resolve(snapshot, "")
        count = len(selection)
        numbers = Shuffle.parse(shuffle).samples(np.arange(count), count, (int(time.time()), 0))
        rows = selection.rows(numbers)
        handles = [volume.open(layout.pack_path(pack)) for pack in rows.packs]
        per_window = max(1, int(WINDOW_BYTES / rows.length.mean()))
        spare = deque(memoryview(bytearray(READ_BYTES * 2)) for _ in range(threads * 3))

        def read(start: int) -> Iterator[Future[tuple[int, int]]]:
            pack = rows.pack[start : start + per_window]
            offset = rows.offset[start : start + per_window]
            order = np.lexsort((offset, pack))
            pack, offset = pack[order], offset[order]
            length = rows.length[start : start + per_window][order]
            end = offset + length
            fresh = np.r_[True, (pack[1:] != pack[:-1]) | (offset[1:] - end[:-1] > GAP_BYTES)]
            first = offset[np.flatnonzero(fresh)][np.cumsum(fresh) - 1]
            cell = (offset - first) // READ_BYTES
            fresh[1:] |= cell[1:] != cell[:-1]
            begin = np.flatnonzero(fresh)
            stop = np.r_[begin[1:], len(pack)]
            for a, b in zip(begin.tolist(), stop.tolist(), strict=True):
                yield pool.submit(fetch, int(pack[a]), offset[a:b].tolist(), end[a:b].tolist())

        def fetch(pack: int, starts: list[int], ends: list[int]) -> tuple[int, int]:
            total = ends[-1] - starts[0]
            try:
                buffer = spare.popleft()
            except IndexError:
                buffer = memoryview(bytearray(READ_BYTES * 2))
            if total > len(buffer):
                buffer = memoryview(bytearray(total))
            handles[pack].read_into(starts[0], [buffer[:total]])
            base = starts[0]
            views = [buffer[a - base : b - base] for a, b in zip(starts, ends, strict=True)]
            spare.append(buffer)
            return len(views), sum(map(len, views))

        with ThreadPoolExecutor(threads) as pool:
            while True:
                for start in range(0, count, per_window):
                    pending: deque[Future[tuple[int, int]]] = deque()
                    for future in read(start):
                        pending.append(future)
                        if len(pending) > threads * 2:
                            yield pending.popleft().result()
                    while pending:
                        yield pending.popleft().result()


def main() -> None:
    """Run one contestant for some seconds, or one epoch when cold, and print its facts."""
    name, where, state, shuffle, batch, seconds = sys.argv[1:]
    facts: dict[str, float] = {}
    files = _files(Path(where))
    began = time.perf_counter()
    volume = opened(where, state)
    batches = (
        feed(volume, shuffle, int(batch), facts)
        if name == "feed"
        else limit(volume, shuffle, state, facts)
    )
    next(batches)
    facts["first_seconds"] = time.perf_counter() - began
    samples = total = 0
    start, cpu = time.perf_counter(), time.process_time()
    for count, size in batches:
        samples += count
        total += size
        spent = time.perf_counter() - start
        if spent > float(seconds) or (state == "cold" and samples > files * 0.9):
            break
    used = time.process_time() - cpu
    batches.close()  # type: ignore[attr-defined]
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    facts |= {
        "samples_per_second": samples / spent,
        "bytes_per_second": total / spent,
        "cpu_per_million": used / samples * 1e6,
        "peak_mb": int(peak[1]) / 1024 if peak else 0.0,
    }
    print(json.dumps(facts))


def _files(where: Path) -> int:
    with Lake.open(where) as lake:
        return len(resolve(lake.snapshot(), ""))


if __name__ == "__main__":
    main()
