"""Lance: rows taken by number, globally shuffled, in batches."""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, samples


class Lance:
    """`dataset.take(shuffled numbers)`."""

    name = "Lance, take"
    needs = ("lance",)

    def prepare(self, task: Task) -> None:
        """Write one dataset from a stream of record batches."""
        import lance
        import pyarrow as pa

        schema = pa.schema([("data", pa.large_binary())])

        def batches() -> Iterator[pa.RecordBatch]:
            held: list[bytes] = []
            for _, data in samples(task.files):
                held.append(data)
                if len(held) == 64:
                    yield pa.record_batch([pa.array(held, pa.large_binary())], schema=schema)
                    held.clear()
            if held:
                yield pa.record_batch([pa.array(held, pa.large_binary())], schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        lance.write_dataset(reader, str(task.where / "data.lance"))

    def run(self, task: Task) -> Delivered:
        """Take batches of row numbers."""
        import lance

        dataset = lance.dataset(str(task.where / "data.lance"))
        numbers = list(range(dataset.count_rows()))
        chance = random.Random(1)

        def batches() -> Iterator[list[bytes]]:
            chance.shuffle(numbers)
            for start in range(0, len(numbers), task.batch):
                table = dataset.take(numbers[start : start + task.batch], columns=["data"])
                yield table["data"].to_pylist()

        return count(task, batches)
