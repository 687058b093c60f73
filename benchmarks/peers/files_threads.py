"""A pool of 64 threads over plain files: the strongest simple loader on a slow volume."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from benchmarks.peers.contest import Delivered, Task, count, listed


def read(path: str) -> bytes:
    """Return a file's bytes."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


class FilesThreads:
    """64 threads, one file each, in a shuffled order."""

    name = "files, 64 threads"
    needs = ()

    def prepare(self, task: Task) -> None:
        """The files are there."""

    def run(self, task: Task) -> Delivered:
        """Keep some batches of reads in flight."""
        paths, chance = listed(task.files), random.Random(1)
        with ThreadPoolExecutor(64) as pool:

            def epoch() -> Iterator[list[bytes]]:
                chance.shuffle(paths)
                return self._batches(pool, paths, task.batch)

            done = count(task, epoch)
            pool.shutdown(cancel_futures=True)
        return done

    def _batches(
        self, pool: ThreadPoolExecutor, paths: list[str], batch: int
    ) -> Iterator[list[bytes]]:
        flight: deque[list[Future[bytes]]] = deque()
        ahead = max(2, 512 // batch)
        for start in range(0, len(paths), batch):
            flight.append([pool.submit(read, path) for path in paths[start : start + batch]])
            if len(flight) > ahead:
                yield [future.result() for future in flight.popleft()]
        while flight:
            yield [future.result() for future in flight.popleft()]
