"""FFCV: one `.beton` file, page reader threads. It builds only beside OpenCV and turbojpeg."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.peers.contest import Delivered, Task, listed, tally


class _Samples:
    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        data = np.fromfile(self.paths[at], np.uint8)
        return data, len(data)


class Ffcv:
    """`Loader(order=RANDOM)` over a field of bytes and one with their number.

    It gives rows as wide as the longest sample, the rest of each row left as it was.
    """

    name = "FFCV"
    needs = ("ffcv", "ffcv.loader")

    def prepare(self, task: Task) -> None:
        """Write one file."""
        from ffcv.fields import BytesField, IntField
        from ffcv.writer import DatasetWriter

        fields = {"data": BytesField(), "size": IntField()}
        # A page must hold the longest sample.
        writer = DatasetWriter(
            str(task.where / "data.beton"), fields, num_workers=1, page_size=8 << 20
        )
        writer.from_indexed_dataset(_Samples(listed(task.files)))

    def run(self, task: Task) -> Delivered:
        """Count what the bytes decoder gives."""
        from ffcv.fields.decoders import BytesDecoder, IntDecoder
        from ffcv.loader import Loader, OrderOption

        loader = Loader(
            str(task.where / "data.beton"),
            batch_size=task.batch,
            num_workers=2,
            order=OrderOption.RANDOM,
            drop_last=False,
            pipelines={"data": [BytesDecoder()], "size": [IntDecoder()]},
        )

        def epoch() -> Iterator[tuple[int, int]]:
            for rows, sizes in loader:
                yield len(rows), int(sizes.sum())

        return tally(task, epoch)
