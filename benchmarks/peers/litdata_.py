"""LitData: chunks of 64 MB, two worker processes, shuffled by chunk and inside."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.contest import Delivered, Task, count, listed


def copied(batch: list[memoryview]) -> list[bytes]:
    """LitData gives views into its chunk, which cannot be sent to another process."""
    return [bytes(view) for view in batch]


def load(path: str) -> bytes:
    """Return the sample that a file is."""
    return Path(path).read_bytes()


class LitData:
    """`StreamingDataset(shuffle=True)` under its own StreamingDataLoader."""

    name = "LitData, 2 workers"
    needs = ("litdata", "torch")

    def prepare(self, task: Task) -> None:
        """Optimize with one worker."""
        import litdata

        litdata.optimize(
            fn=load, inputs=listed(task.files), output_dir=str(task.where), chunk_bytes="64MB",
            num_workers=1,
        )  # fmt: skip

    def run(self, task: Task) -> Delivered:
        """Read the chunks where they are."""
        import litdata

        dataset = litdata.StreamingDataset(str(task.where), shuffle=True, seed=1)
        loader = litdata.StreamingDataLoader(
            dataset, batch_size=task.batch, num_workers=2, collate_fn=copied
        )
        return count(task, lambda: loader)
