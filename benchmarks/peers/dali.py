"""DALI on the processor: its file reader, shuffled, without decoding."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, listed


class Dali:
    """`fn.readers.file(random_shuffle=True)`."""

    name = "DALI, file reader"
    needs = ("nvidia.dali",)

    def prepare(self, task: Task) -> None:
        """The files are there."""

    def run(self, task: Task) -> Delivered:
        """Run the pipeline for one epoch."""
        from nvidia.dali import fn, pipeline_def

        paths = listed(task.files)

        @pipeline_def(batch_size=task.batch, num_threads=4, device_id=None)
        def pipeline() -> object:
            data, _ = fn.readers.file(files=paths, random_shuffle=True, initial_fill=1024, seed=1)
            return data

        built = pipeline()
        built.build()

        def batches() -> Iterator[list[object]]:
            # An epoch's last batch may hold samples of the next one; the reader wraps around.
            left = len(paths)
            while left > 0:
                (tensors,) = built.run()
                batch = [tensors.at(at) for at in range(min(len(tensors), left))]
                left -= len(batch)
                yield batch

        return count(task, batches)
