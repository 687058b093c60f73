"""WebDataset: tar shards as streams, two worker processes, a shuffle buffer."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, samples
from benchmarks.peers.files_torch import same


class WebDataset:
    """`WebDataset | shuffle | to_tuple | batched` under its own WebLoader."""

    name = "WebDataset, 2 workers"
    needs = ("webdataset", "torch")

    def prepare(self, task: Task) -> None:
        """Write eight shards."""
        import webdataset as wds

        writers = [wds.TarWriter(str(task.where / f"{shard}.tar")) for shard in range(8)]
        for number, data in samples(task.files):
            writers[number % 8].write({"__key__": f"{number:07d}", "bin": data})
        for writer in writers:
            writer.close()

    def run(self, task: Task) -> Delivered:
        """Stream all shards, four to each worker."""
        import webdataset as wds

        shards = sorted(str(path) for path in task.where.glob("*.tar"))
        held = {"img": 512, "tiny": 2048, "big": 16}[task.kind]
        dataset = wds.WebDataset(shards, shardshuffle=8, seed=1).shuffle(held).to_tuple("bin")
        loader = wds.WebLoader(
            dataset.batched(task.batch, collation_fn=same),
            batch_size=None,
            num_workers=2,
            persistent_workers=True,
        )

        def batches() -> Iterator[list[bytes]]:
            for batch in loader:
                yield [one for (one,) in batch]

        return count(task, batches)
