"""Data to measure on: made samples of a workload's size, and a lake's samples in other formats.

Made samples are incompressible noise from a seed, so that no codec, cache or sparse file can
flatter anybody. Sizes follow the workload's mean and deviation (a normal distribution, cut below at
a tenth of the mean). Copies for other sources come out of the lake by its own export, so
all sources read the very same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc

from lakefeed.bench.apart import Line
from lakefeed.bench.lakes import open_lake, query_of
from lakefeed.bench.sources import Spec
from lakefeed.bench.workloads import Workload
from lakefeed.errors import Invalid
from lakefeed.format.rows import Row
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.transfer.archives import TarTarget, TfrecordTarget
from lakefeed.transfer.directory import DirectoryTarget
from lakefeed.transfer.exporting import ExportOptions, Refuse, Rows, Target, export
from lakefeed.transfer.shards import Shards

# WebDataset and MLPerf's TFRecord files are of about this size.
SHARD_BYTES = 128 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a selection of a lake holds."""

    samples: int
    bytes: int

    @property
    def sample_bytes(self) -> float:
        """The mean size."""
        return self.bytes / self.samples if self.samples else 0.0


def contents(snapshot: Snapshot, select: str) -> Contents:
    """Return how many samples a prefix or a glob selects, and their bytes."""
    samples = size_bytes = 0
    for table in snapshot.find(query_of(select)):
        samples += table.num_rows
        size_bytes += pc.sum(table["size"]).as_py() or 0
    return Contents(samples, int(size_bytes))


def generate(
    lake: Lake,
    workload: Workload,
    samples: int,
    progress: Callable[[int, int], object] = lambda done, size_bytes: None,
    seed: int = 0,
) -> Contents:
    """Put made samples of a workload into a lake, below `WORKLOAD/`; return what was put."""
    if samples < 1:
        raise Invalid("samples", expected="at least 1", found=samples)
    chance = np.random.default_rng(seed)
    least = max(1, workload.sample_bytes // 10)
    total_bytes = 0
    with lake.writer(operation="generate", message=f"{samples} samples of {workload.label}") as put:
        for number in range(samples):
            size = workload.sample_bytes
            if workload.sample_bytes_stdev:
                size = max(least, int(chance.normal(size, workload.sample_bytes_stdev)))
            folder = f"{workload.name}/class{number % 100:02d}"
            put.put(f"{folder}/{number:08d}.{workload.format}", chance.bytes(size))
            total_bytes += size
            progress(number + 1, total_bytes)
    return Contents(samples, total_bytes)


@dataclass(frozen=True, slots=True)
class Copy:
    """What of a lake (`spec`) is copied into which directory, which is made, for how many ranks."""

    spec: Spec
    directory: str
    ranks: int
    timeout_seconds: float


def copy_apart(copy: Copy, line: Line) -> None:
    """Do `copy_out` in a process of its own (`apart`): writing waits for the volume as well."""
    line.waits()
    directory = Path(copy.directory)
    directory.mkdir()
    with open_lake(copy.spec.where, copy.timeout_seconds) as lake:
        copy_out(lake.snapshot(copy.spec.at), copy.spec, directory, copy.ranks, line.waits)


def copy_out(
    snapshot: Snapshot,
    spec: Spec,
    directory: Path,
    ranks: int,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Export what `spec` selects into a directory, in the format of its kind.

    Shards are cut so that every rank gets one. `progress` is called before each file and each
    piece of one.
    """
    total = contents(snapshot, spec.select).bytes
    shard_bytes = min(SHARD_BYTES, max(1, total // (ranks * 2)))
    target: Target
    if spec.kind == "plain":
        target = DirectoryTarget(directory)
    elif spec.kind == "tfrecord":
        target = TfrecordTarget(Shards(str(directory / "data.tfrecord"), shard_bytes))
    elif spec.kind == "webdataset":
        target = TarTarget(Shards(str(directory / "data.tar"), shard_bytes))
    else:
        raise Invalid("source", expected="plain, tfrecord or webdataset", found=spec.kind)
    query = query_of(spec.select)
    asked = ExportOptions(query.prefix, query.glob)
    report = export(snapshot, _Telling(target, progress), asked)
    if report.errors:
        raise Invalid(str(directory), expected="every sample", found=report.problems[0])


@dataclass(frozen=True, slots=True)
class _Telling:
    """A target that tells whenever it is about to wait for its volume once more."""

    target: Target
    tell: Callable[[], None]

    def wants(self, row: Row, name: str) -> bool:
        """Ask the target."""
        self.tell()
        return self.target.wants(row, name)

    def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Let the target store a file."""
        self.tell()
        self.target.put(row, name, self._each(pieces))

    def finish(self, rows: Rows, refuse: Refuse) -> tuple[str, ...]:
        """Let the target finish."""
        self.tell()
        return self.target.finish(lambda: self._each(rows()), refuse)

    def abandon(self) -> None:
        """Let the target go."""
        self.target.abandon()

    def _each(self, things: Iterable[T]) -> Iterator[T]:
        for thing in things:
            yield thing
            self.tell()
