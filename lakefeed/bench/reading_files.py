"""Plain files as a rank's source: what a framework's own loader does, without its processes.

The stock loader of PyTorch reads with N workers; each loads whole batches, one file after the
other, two batches ahead (or as many as `prefetch` says, together). Here the workers are threads:
they read the same files by the same calls in the same order, but hand the bytes over without
pickling them, so this baseline is a little better than the original. A mounted lake is read the
same way.

The order of an epoch is the feed's own permutation of the sorted names, and rank r of n takes the
r-th batch of every n: ranks are disjoint (I8).
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from lakefeed.bench.emulation import Pace
from lakefeed.bench.lakes import query_of
from lakefeed.bench.sources import Delivered, Spec
from lakefeed.errors import Invalid, NotFound, from_os_error
from lakefeed.feed.order import permute
from lakefeed.lake.query import glob_to_regex

# torch.utils.data.DataLoader's default prefetch_factor.
BATCHES_AHEAD = 2


class Disk:
    """Opens and reads files of this machine, counted, at the pace of a simulated volume if any."""

    def __init__(self, pace: Pace | None) -> None:
        self._pace = pace
        self._lock = threading.Lock()
        self._reads = 0
        self._read_bytes = 0

    def open(self, path: str) -> int:
        """Return a descriptor."""
        if self._pace is not None:
            self._pace.call()
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise from_os_error(error, path) from error

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`; fewer only at the end of the file."""
        data = os.pread(descriptor, length, offset)
        if self._pace is not None:
            self._pace.call(len(data))
        with self._lock:
            self._reads += 1
            self._read_bytes += len(data)
        return data

    def read_file(self, path: str) -> bytes:
        """Return a file's bytes: open, one read for its size, close."""
        descriptor = self.open(path)
        try:
            return self.read(descriptor, 0, os.fstat(descriptor).st_size)
        except OSError as error:
            raise from_os_error(error, path) from error
        finally:
            os.close(descriptor)

    @property
    def reads(self) -> int:
        """Read calls so far."""
        return self._reads

    @property
    def read_bytes(self) -> int:
        """Bytes read so far."""
        return self._read_bytes


class PlainSource:
    """One file is one sample."""

    def __init__(self, spec: Spec, rank: int, pace: Pace | None) -> None:
        self._spec = spec
        self._rank = rank
        self._disk = Disk(pace)
        self._files = select_files(spec.where, spec.select)
        steps = len(self._files) // (spec.batch_size * spec.world_size)
        if not steps:
            raise Invalid(
                f"files below {spec.where}",
                expected=f"a batch of {spec.batch_size} for each of {spec.world_size} ranks",
                found=f"{len(self._files)} files",
            )
        self._steps = steps
        self._pool = ThreadPoolExecutor(spec.reading.read_threads, "lakefeed-bench-read")
        self._ahead: deque[Future[list[bytes]]] = deque()

    def batches(self) -> Iterator[Delivered]:
        """Yield batches in order; each is read by one thread, several threads run ahead."""
        reading = self._spec.reading
        depth = reading.prefetch or BATCHES_AHEAD * reading.read_threads
        for numbers in self._orders():
            self._ahead.append(self._pool.submit(self._load, numbers))
            if len(self._ahead) <= depth:
                continue
            data = self._ahead.popleft().result()
            yield Delivered(len(data), sum(map(len, data)), data)

    def _orders(self) -> Iterator[NDArray[np.int64]]:
        spec, epoch = self._spec, 0
        while True:
            for step in range(self._steps):
                first = (step * spec.world_size + self._rank) * spec.batch_size
                positions = np.arange(first, first + spec.batch_size, dtype=np.int64)
                if spec.reading.shuffle is None:
                    yield positions
                else:
                    yield permute(positions, len(self._files), (spec.reading.seed, epoch))
            epoch += 1

    def _load(self, numbers: NDArray[np.int64]) -> list[bytes]:
        return [self._disk.read_file(self._files[number]) for number in numbers.tolist()]

    def read_bytes(self) -> int:
        """Return the bytes read so far."""
        return self._disk.read_bytes

    def reads(self) -> int:
        """Return the read calls so far."""
        return self._disk.reads

    def close(self) -> None:
        """Stop reading ahead and wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)


def select_files(directory: str, select: str) -> list[str]:
    """Return the files that a prefix or a glob selects below a directory, as in a lake."""
    query = query_of(select)
    found = find_files(os.path.join(directory, query.directory))
    if query.glob is None:
        return found
    pattern = re.compile(glob_to_regex(query.glob))
    found = [path for path in found if pattern.match(os.path.relpath(path, directory))]
    if not found:
        raise NotFound(f"plain files {select} below {directory}")
    return found


def find_files(directory: str, suffix: str = "") -> list[str]:
    """Return the files below a directory, sorted; NotFound if there is none.

    Links to files are files; links to directories and to nothing are none.
    """
    found, waiting = [], [directory]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.name.endswith(suffix) and (
                        not entry.is_symlink() or entry.is_file()
                    ):
                        found.append(entry.path)
        except OSError as error:
            raise from_os_error(error, f"files below {directory}") from error
    if not found:
        raise NotFound(f"{suffix or 'plain'} files below {directory}")
    return sorted(found)
