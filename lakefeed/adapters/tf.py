"""A tf.data source: whole batches from a feed, ready for `map`, `prefetch` and Keras `fit`.

    train = lakefeed.tf.dataset("/mnt/lake", "train/**", batch_size=64, labels="parent", seed=1)
    train = train.map(
        lambda data, labels: (tf.map_fn(decode, data, fn_output_signature=tf.float32), labels),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(2)
    model.fit(train, epochs=5, shuffle=False)

One element is one batch: a string tensor with each file's bytes and, with labels, an int32 tensor.
TensorFlow copies the bytes into strings of its own, so nothing refers to our memory afterwards.
Elements come in the feed's order, which a seed fixes; each new iteration of the dataset is the next
epoch with an order of its own, counted from 0 for every call of `dataset`.

The snapshot is fixed when the dataset is made. A lake given by its path is opened anew for each
iteration, so the dataset holds no file and no thread in between. Errors of the lake come out of the
iteration as TensorFlow errors whose text names the kind and the file (`Corrupt: 'train/1.png' …`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import tensorflow as tf

from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.selection import resolve
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot

Source = str | os.PathLike[str] | Lake | Snapshot


def dataset(
    source: Source,
    select: str | Sequence[str] = "",
    *,
    batch_size: int = 32,
    shuffle: str | None = "global",
    seed: int = 0,
    drop_last: bool = False,
    labels: str | None = None,
    class_names: Sequence[str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    prefetch: int = 8,
    memory_bytes: int = 1 << 30,
) -> Any:
    """Return a `tf.data.Dataset` of whole batches of a lake's files, of known cardinality.

    `select` is a prefix, a glob or a list of paths; the keywords mean what they mean in
    `FeedOptions`. One iteration is one epoch, and `repeat` goes through the epochs. The dataset
    carries `class_names`, as those of Keras do.
    """
    options = FeedOptions(
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        labels=labels,
        class_names=None if class_names is None else tuple(class_names),
        rank=rank,
        world_size=world_size,
        prefetch=prefetch,
        memory_bytes=memory_bytes,
    )
    with _opened(source) as snapshot:
        number = snapshot.number
        selection = resolve(snapshot, select, options.labelling)
    epochs = itertools.count()

    def batches() -> Iterator[Any]:
        epoch = next(epochs)
        one = replace(options, epochs=epoch + 1)
        with _opened(source, number) as snapshot, Feed(snapshot, selection, one) as feed:
            feed.restore({**feed.state(), "epoch": epoch})
            for batch in feed:
                yield batch.bytes() if batch.labels is None else (batch.bytes(), batch.labels)

    strings = tf.TensorSpec([None], tf.string)
    signature = strings if options.labels is None else (strings, tf.TensorSpec([None], tf.int32))
    count = options.partition.batches(len(selection))
    elements = tf.data.Dataset.from_generator(batches, output_signature=signature)
    elements = elements.apply(tf.data.experimental.assert_cardinality(count))
    elements.class_names = list(selection.class_names)
    return elements


@contextmanager
def _opened(source: Source, number: int | None = None) -> Iterator[Snapshot]:
    """Lend a snapshot of the source: a number, or the newest."""
    if isinstance(source, Snapshot):
        yield source
    elif isinstance(source, Lake):
        yield source.snapshot(number)
    else:
        with Lake.open(source) as lake:
            yield lake.snapshot(number)
