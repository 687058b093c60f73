"""A Grain data source: a lake's files by number, where an ArrayRecord file was before.

    source = lakefeed.adapters.grain.DataSource("/mnt/lake", "train/**")
    dataset = grain.MapDataset.source(source).shuffle(seed=1).map(decode).batch(256)

Element i is the bytes of the i-th file of the selection, verified. With `labels` it is a dictionary
of `data`, `label` and `path`. Grain shuffles, shards, batches and checkpoints as ever, and asks for
elements one by one, from its threads or its worker processes; where it asks for many at once
(`_getitems`, what Grain calls batched reads), neighbours are read together.

The snapshot is fixed at construction. A source given by its path opens the lake in each process on
first use, so it can be pickled to workers. Thread-safe, as Grain demands. With a `metrics_port` it
counts for Prometheus what it hands out (see `metered`), in worker processes, too.
"""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.adapters._places import Place
from lakefeed.errors import needing
from lakefeed.feed.feed import FeedOptions
from lakefeed.feed.labels import Labelling
from lakefeed.feed.selection import Select, Selection, resolve
from lakefeed.feed.sources import Source
from lakefeed.feed.stats import Observer
from lakefeed.lake.snapshot import Snapshot

with needing("grain", __name__):
    from lakefeed.metrics.exporter import metered


@dataclass(frozen=True, slots=True)
class _Opened:
    """What one process holds of the lake."""

    pid: int
    snapshot: Snapshot
    selection: Selection
    resources: ExitStack


class DataSource:
    """Random access to the files of a selection, as `grain.sources.RandomAccessDataSource`."""

    def __init__(
        self,
        source: Source,
        select: Select = "",
        *,
        labels: str | None = None,
        class_names: tuple[str, ...] | None = None,
        metrics_port: int | None = None,
    ) -> None:
        self._place = Place.of(source)
        self._select = select
        self._labelling = Labelling(labels, class_names)
        self._opened: _Opened | None = None
        self._observer: Observer | None = None
        if metrics_port is not None:
            self._observer = metered(FeedOptions(), metrics_port).observer

    # -- what Grain asks for ---------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._here().selection)

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self._getitems([operator.index(index)])[0]

    def _getitems(self, indices: Sequence[int]) -> list[Any]:
        """Return several elements; files that lie together are read together."""
        here = self._here()
        count = len(here.selection)
        numbers = np.asarray(indices, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < count):
            raise IndexError(f"an index of {numbers.tolist()} is not in 0 to {count - 1}")
        paths = here.selection.paths(numbers).cast("string")
        began = time.perf_counter()
        located = here.snapshot.locate(paths)
        data = here.snapshot.read_rows(located)
        self._count(located, len(data), time.perf_counter() - began)
        here.selection.rows(numbers)
        labels = here.selection.labels(numbers)
        if labels is None:
            return data
        parts = zip(data, labels.tolist(), paths.to_pylist(), strict=True)
        return [{"data": each, "label": label, "path": path} for each, label, path in parts]

    def __repr__(self) -> str:
        """Say which files these are; Grain refuses a checkpoint of a source of another name."""
        return f"DataSource(select={self._select!r}, digest={self._here().selection.digest})"

    def _count(self, located: pa.Table, samples: int, seconds: float) -> None:
        if self._observer is not None and samples:
            self._observer.reads([seconds], pc.sum(located["length"]).as_py())
            self._observer.delivered(samples, pc.sum(located["size"]).as_py(), 0)

    # -- ours ------------------------------------------------------------------------------------

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        return self._here().selection.class_names

    def close(self) -> None:
        """Close what this process opened; the next access opens it again. Works twice."""
        opened, self._opened = self._opened, None
        if opened is not None and opened.pid == os.getpid():
            opened.resources.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _here(self) -> _Opened:
        """Return the lake as this process has it; two threads may open it twice, one stays."""
        opened = self._opened
        if opened is None or opened.pid != os.getpid():
            resources = ExitStack()
            snapshot = resources.enter_context(self._place.opened())
            selection = resolve(snapshot, self._select, self._labelling)
            opened = self._opened = _Opened(os.getpid(), snapshot, selection, resources)
        return opened
