"""FFCV: one `.beton` file, page reader threads. It rarely builds; where it does, it is measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.peers.contest import BATCH, Delivered, Task, count, listed


class _Samples:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[np.ndarray]:
        return (np.fromfile(self.paths[at], np.uint8),)


class Ffcv:
    """`Loader(order=RANDOM)` over a field of bytes."""

    name = "FFCV"
    needs = ("ffcv",)

    def prepare(self, task: Task) -> None:
        """Write one file."""
        from ffcv.fields import BytesField
        from ffcv.writer import DatasetWriter

        writer = DatasetWriter(str(task.where / "data.beton"), {"data": BytesField()})
        writer.from_indexed_dataset(_Samples(listed(task.files)))

    def run(self, task: Task) -> Delivered:
        """Count what the bytes decoder gives: rows as wide as the longest sample."""
        from ffcv.fields.decoders import BytesDecoder
        from ffcv.loader import Loader, OrderOption

        loader = Loader(
            str(task.where / "data.beton"),
            batch_size=BATCH[task.kind],
            num_workers=2,
            order=OrderOption.RANDOM,
            pipelines={"data": [BytesDecoder()]},
        )

        def batches() -> Iterator[np.ndarray]:
            for (batch,) in loader:
                yield batch

        return count(task, batches())
