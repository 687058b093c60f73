"""The limit: ranges of 2 MiB by bare `preadv` into reused buffers, then views. No loader at all.

One file holds all samples one behind the other, and their bounds are known beforehand. Some
threads read ranges in a shuffled order; what a range holds becomes memoryviews. No checksum, no
batches.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.peers.contest import Delivered, Task, count, samples

RANGE_BYTES = 2 << 20
# As many requests in flight as serve each condition best.
THREADS = {"warm": 4, "cold": 16, "far": 64, "nas": 32}


class Limit:
    """What the volume gives to anybody, in large requests."""

    name = "limit: bare preadv"
    needs = ()

    def prepare(self, task: Task) -> None:
        """Write the samples and their bounds."""
        bounds = [0]
        with (task.where / "data").open("wb") as file:
            for _, data in samples(task.files):
                file.write(data)
                bounds.append(bounds[-1] + len(data))
        np.save(task.where / "bounds.npy", np.array(bounds, np.int64))

    def run(self, task: Task) -> Delivered:
        """Read ranges that end where a sample ends, in a shuffled order."""
        bounds = np.load(task.where / "bounds.npy")
        # Cut behind the last sample that begins in each range.
        cuts = [0, *np.flatnonzero(np.diff(bounds[:-1] // RANGE_BYTES)) + 1, len(bounds) - 1]
        ranges = list(itertools.pairwise(cuts))
        chance, threads = random.Random(1), THREADS[task.condition]
        largest = max(int(bounds[high] - bounds[low]) for low, high in ranges)
        buffers = deque(memoryview(bytearray(largest)) for _ in range(threads + 4))
        handle = os.open(task.where / "data", os.O_RDONLY)

        def fetch(low: int, high: int) -> tuple[memoryview, list[int]]:
            buffer = buffers.popleft()
            edges = (bounds[low : high + 1] - bounds[low]).tolist()
            os.preadv(handle, [buffer[: edges[-1]]], int(bounds[low]))
            return buffer, edges

        def batches() -> Iterator[list[memoryview]]:
            flight: deque[object] = deque()
            chance.shuffle(ranges)
            for low, high in ranges:
                flight.append(pool.submit(fetch, int(low), int(high)))
                if len(flight) > threads:
                    yield from self._taken(flight, buffers)
            while flight:
                yield from self._taken(flight, buffers)

        with ThreadPoolExecutor(threads) as pool:
            done = count(task, batches)
            pool.shutdown(cancel_futures=True)
        os.close(handle)
        return done

    def _taken(self, flight: deque, buffers: deque[memoryview]) -> Iterator[list[memoryview]]:
        buffer, edges = flight.popleft().result()
        yield [buffer[start:end] for start, end in itertools.pairwise(edges)]
        buffers.append(buffer)
