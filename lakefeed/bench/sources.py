"""Where a rank's batches come from: one interface for lakes, plain files, archives and nothing.

A `Source` is described by a frozen `Spec` that crosses process boundaries, opened inside a rank
(`opening`), and gives batches without end: the harness counts steps and epochs. A batch is told by
its number of samples and its bytes, for what an emulated accelerator does with them is to wait.

`null` gives the same memory again and again: what it reaches is the ceiling of the harness itself,
and every AU is shown beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lakefeed.bench.emulation import Delays
from lakefeed.feed.options import FeedOptions

KINDS = ("lake", "plain", "mount", "tfrecord", "webdataset", "bare", "null")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source reads: the loader's knobs, as far as it has them.

    Invalid for what no feed would take, whichever source it is for.
    """

    shuffle: str | None = "global"
    seed: int = 0
    read_threads: int = 8
    # As many batches as eight workers of PyTorch's loader hold, two each: a lake that read further
    # ahead would take a shared volume's bandwidth for batches that a short run never consumes.
    # None: as many as fit into `memory_bytes`.
    prefetch: int | None = 16
    memory_bytes: int = 1 << 30
    window: int | None = None  # with shuffle "runs=K", of a lake

    def __post_init__(self) -> None:
        FeedOptions(shuffle=self.shuffle, window=self.window, seed=self.seed)


@dataclass(frozen=True, slots=True)
class Spec:
    """A source, wholly described: what, from where, how much for whom."""

    kind: str
    where: str = ""
    select: str = ""
    at: int | str | None = None
    batch_size: int = 1
    sample_bytes: int = 1
    world_size: int = 1
    reading: Reading = field(default_factory=Reading)
    delays: Delays | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """One batch as the harness sees it; `data` keeps its bytes alive."""

    samples: int
    size_bytes: int
    data: object = None


class Source(Protocol):
    """An open source of one rank."""

    def batches(self) -> Iterator[Delivered]:
        """Yield this rank's batches, epoch after epoch, without end."""

    def read_bytes(self) -> int:
        """Return the bytes read from the volume so far."""

    def reads(self) -> int:
        """Return the read calls to the volume so far."""

    def close(self) -> None:
        """Let go of everything. Works twice."""


class NullSource:
    """The same memory for ever: storage that costs nothing."""

    def __init__(self, spec: Spec) -> None:
        self._samples = spec.batch_size
        self._batch = np.zeros(spec.batch_size * min(spec.sample_bytes, 1 << 20), np.uint8)
        self._bytes = spec.batch_size * spec.sample_bytes

    def batches(self) -> Iterator[Delivered]:
        """Yield the same batch for ever."""
        while True:
            yield Delivered(self._samples, self._bytes, self._batch)

    def read_bytes(self) -> int:
        """Return 0: nothing is read."""
        return 0

    def reads(self) -> int:
        """Return 0: nothing is read."""
        return 0

    def close(self) -> None:
        """Nothing to let go of."""
