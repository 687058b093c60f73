"""tf.data over plain files, with as many in flight as AUTOTUNE chooses, or 64."""

from __future__ import annotations

from benchmarks.peers.contest import Delivered, Task, count, listed


class FilesTf:
    """`list | shuffle | map(read_file) | batch`."""

    name = "tf.data files, AUTOTUNE"
    needs = ("tensorflow",)
    width: int | None = None

    def prepare(self, task: Task) -> None:
        """The files are there."""

    def run(self, task: Task) -> Delivered:
        """Read each file by `tf.io.read_file`."""
        import tensorflow as tf

        paths = listed(task.files)
        dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=1)
        width = tf.data.AUTOTUNE if self.width is None else self.width
        dataset = dataset.map(tf.io.read_file, num_parallel_calls=width, deterministic=False)
        dataset = dataset.batch(task.batch).prefetch(tf.data.AUTOTUNE)
        return count(task, lambda: (batch.numpy() for batch in dataset))


class FilesTf64(FilesTf):
    """The same, 64 wide."""

    name = "tf.data files, 64 wide"
    width = 64
