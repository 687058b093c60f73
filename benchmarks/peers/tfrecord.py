"""TFRecord shards through tf.data: native, sequential, mixed in a buffer of 4,096 samples."""

from __future__ import annotations

from benchmarks.peers.contest import Delivered, Task, count, samples

SHARDS = 8


class TfRecord:
    """`interleave(TFRecordDataset) | shuffle | batch`."""

    name = "TFRecord in tf.data"
    needs = ("tensorflow",)

    def prepare(self, task: Task) -> None:
        """Deal the samples out to eight shards."""
        import tensorflow as tf

        names = [str(task.where / f"{shard}.tfrecord") for shard in range(SHARDS)]
        writers = [tf.io.TFRecordWriter(name) for name in names]
        for number, data in samples(task.files):
            writers[number % SHARDS].write(data)
        for writer in writers:
            writer.close()

    def run(self, task: Task) -> Delivered:
        """Read all shards at once."""
        import tensorflow as tf

        names = sorted(str(path) for path in task.where.glob("*.tfrecord"))
        dataset = tf.data.Dataset.from_tensor_slices(names).shuffle(SHARDS, seed=1)
        dataset = dataset.interleave(
            lambda name: tf.data.TFRecordDataset(name, buffer_size=2 << 20),
            cycle_length=SHARDS,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        held = {"img": 1024, "tiny": 4096, "big": 32}[task.kind]
        dataset = dataset.shuffle(held, seed=1).batch(task.batch).prefetch(tf.data.AUTOTUNE)
        return count(task, lambda: (batch.numpy() for batch in dataset))
