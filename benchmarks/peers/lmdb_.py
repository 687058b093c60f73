"""LMDB: a mapped B-tree, looked up by key in a shuffled order."""

from __future__ import annotations

import random
from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, samples


class Lmdb:
    """`transaction.get(key)` for shuffled keys."""

    name = "LMDB"
    needs = ("lmdb",)

    def prepare(self, task: Task) -> None:
        """Put every sample under its number."""
        import lmdb

        where = str(task.where / "data")
        with lmdb.open(where, map_size=1 << 40) as store, store.begin(write=True) as transaction:
            for number, data in samples(task.files):
                transaction.put(number.to_bytes(8, "big"), data, append=True)

    def run(self, task: Task) -> Delivered:
        """Get one after the other, as its users do."""
        import lmdb

        store = lmdb.open(str(task.where / "data"), readonly=True, lock=False, readahead=False)
        numbers = list(range(store.stat()["entries"]))
        chance = random.Random(1)

        def batches() -> Iterator[list[bytes]]:
            chance.shuffle(numbers)
            with store.begin() as transaction:
                for start in range(0, len(numbers), task.batch):
                    keys = numbers[start : start + task.batch]
                    yield [transaction.get(key.to_bytes(8, "big")) for key in keys]

        return count(task, batches)
