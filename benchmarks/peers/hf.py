"""Hugging Face datasets: Arrow files, mapped, globally shuffled by an index."""

from __future__ import annotations

from benchmarks.peers.contest import Delivered, Task, count, samples


class HuggingFace:
    """`load_from_disk().shuffle().iter(batch_size)`."""

    name = "Hugging Face datasets"
    needs = ("datasets",)

    def prepare(self, task: Task) -> None:
        """Write Arrow shards through a generator."""
        import datasets

        features = datasets.Features({"data": datasets.Value("large_binary")})
        dataset = datasets.Dataset.from_generator(
            lambda: ({"data": data} for _, data in samples(task.files)),
            features=features,
            cache_dir=str(task.where / "cache"),
            writer_batch_size=256,
        )
        dataset.save_to_disk(str(task.where / "saved"), num_proc=None)

    def run(self, task: Task) -> Delivered:
        """Iterate in batches over the shuffled index."""
        import datasets

        dataset = datasets.load_from_disk(str(task.where / "saved"), keep_in_memory=False)
        dataset = dataset.shuffle(seed=1, keep_in_memory=True)
        return count(task, lambda: (batch["data"] for batch in dataset.iter(batch_size=task.batch)))
