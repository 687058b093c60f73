"""MosaicML Streaming: MDS shards, two worker processes, shuffled by blocks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, samples
from benchmarks.peers.files_torch import same


class Mds:
    """`StreamingDataset(local, shuffle=True)` under torch's DataLoader."""

    name = "MosaicML Streaming, 2 workers"
    needs = ("torch", "benchmarks.peers.operators", "streaming")

    def prepare(self, task: Task) -> None:
        """Write shards of 64 MiB."""
        importlib.import_module(self.needs[1])
        from streaming import MDSWriter

        with MDSWriter(out=str(task.where), columns={"data": "bytes"}) as writer:
            for _, data in samples(task.files):
                writer.write({"data": data})

    def run(self, task: Task) -> Delivered:
        """Read the local shards."""
        from streaming import StreamingDataset
        from torch.utils.data import DataLoader

        dataset = StreamingDataset(local=str(task.where), shuffle=True, batch_size=task.batch)
        loader = DataLoader(dataset, batch_size=task.batch, num_workers=2, collate_fn=same,
                            persistent_workers=True)  # fmt: skip

        def batches() -> Iterator[list[bytes]]:
            for batch in loader:
                yield [sample["data"] for sample in batch]

        return count(task, batches)
