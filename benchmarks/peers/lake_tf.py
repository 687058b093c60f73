"""lakefeed in tf.data: batches as one buffer, or as strings; globally shuffled, and by runs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, tally
from benchmarks.peers.lake_feed import LakeFeed


class LakeTfBuffer(LakeFeed):
    """`elements="buffer"`: the feed's memory and where each sample ends."""

    name = "lakefeed tf buffer, runs=8"
    needs = ("tensorflow",)
    shuffle = "runs=8"
    elements = "buffer"

    def run(self, task: Task) -> Delivered:
        """Iterate over the dataset."""
        import lakefeed.tf

        options = self.options(task)
        dataset = lakefeed.tf.dataset(
            self.lake(task),
            elements=self.elements,
            batch_size=options.batch_size,
            shuffle=options.shuffle,
            seed=options.seed,
            memory_bytes=options.memory_bytes,
        )
        if self.elements == "bytes":
            return count(task, lambda: (batch.numpy() for batch in dataset))

        def epoch() -> Iterator[tuple[int, int]]:
            for one in dataset:
                edges = one["row_splits"].numpy()
                yield len(edges) - 1, int(edges[-1])

        return tally(task, epoch)


class LakeTfBytes(LakeTfBuffer):
    """`elements="bytes"`: tf.string, ready for tf.io.decode_jpeg."""

    name = "lakefeed tf bytes, runs=8"
    elements = "bytes"
