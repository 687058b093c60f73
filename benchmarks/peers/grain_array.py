"""Grain over ArrayRecord, globally shuffled, 16 or 64 reading threads."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.peers.contest import Delivered, Task, count, samples


class GrainArrayRecord:
    """`MapDataset.source(ArrayRecord) | shuffle | to_iter_dataset`."""

    name = "Grain + ArrayRecord, 64 threads"
    needs = ("grain", "array_record")

    def prepare(self, task: Task) -> None:
        """Write eight files that can be read by record."""
        from array_record.python.array_record_module import ArrayRecordWriter

        names = [str(task.where / f"{shard}.array_record") for shard in range(8)]
        writers = [ArrayRecordWriter(name, "group_size:1,uncompressed") for name in names]
        for number, data in samples(task.files):
            writers[number % 8].write(data)
        for writer in writers:
            writer.close()

    def run(self, task: Task) -> Delivered:
        """Let Grain ask for records from its threads."""
        import grain

        names = sorted(str(path) for path in task.where.glob("*.array_record"))
        source = grain.sources.ArrayRecordDataSource(names)
        read = grain.ReadOptions(num_threads=64, prefetch_buffer_size=512)
        dataset = grain.MapDataset.source(source).shuffle(seed=1).to_iter_dataset(read)

        def batches() -> Iterator[list[bytes]]:
            batch = []
            for data in dataset:
                batch.append(data)
                if len(batch) == task.batch:
                    yield batch
                    batch = []
            yield batch

        return count(task, batches)
