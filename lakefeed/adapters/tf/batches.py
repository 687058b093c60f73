"""A tf.data source: whole batches from a feed, ready for `map`, `prefetch` and Keras `fit`.

    train = lakefeed.tf.dataset("/mnt/lake", "train/**", batch_size=64, labels="parent", seed=1)
    train = train.map(
        lambda data, labels: (tf.map_fn(decode, data, fn_output_signature=tf.float32), labels),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(2)
    model.fit(train, epochs=5, shuffle=False)

One element is one batch (`elements` says how its bytes come) and, with labels, an int32 tensor.
Elements come in the feed's order, which a seed fixes; each new iteration of the dataset is the next
epoch with an order of its own, counted from 0 for every call of `dataset`, or from where a
checkpoint says.

The snapshot is fixed when the dataset is made. One feed serves all epochs: while the last batches
of one are consumed it reads the first of the next. It is closed when the dataset is gone, and a
minute after the last epoch (`lakefeed.adapters._kept`). Errors of the lake come out of the
iteration as TensorFlow errors whose text names the kind and the file (`Corrupt: 'train/1.png' …`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import tensorflow as tf

from lakefeed.adapters.tf.checkpoint import FeedCheckpoint
from lakefeed.adapters.tf.distribute import place
from lakefeed.adapters.tf.elements import BYTES, check_elements, element, signature
from lakefeed.adapters.tf.memory import keep_freed_memory
from lakefeed.adapters.tf.source import Source
from lakefeed.adapters.tf.together import Together
from lakefeed.errors import Invalid
from lakefeed.feed.feed import FeedOptions, Mix
from lakefeed.feed.selection import Select
from lakefeed.feed.sources import Source as Origin
from lakefeed.given import check
from lakefeed.metrics.exporter import metered

# An iteration is an epoch, and `repeat` says how many: `epochs` is not for the user to set.
_FIELDS = tuple(field.name for field in fields(FeedOptions) if field.name != "epochs")


def dataset(
    source: Origin,
    select: Select | Mix = "",
    *,
    elements: str = BYTES,
    checkpoint: FeedCheckpoint | None = None,
    metrics_port: int | None = None,
    **options: Any,
) -> Any:
    """Return a `tf.data.Dataset` of whole batches of a lake's files, of known cardinality.

    `select` is a prefix, a glob, a list of paths, a `Where` or a `Mix`. `options` are those of
    `FeedOptions`, by name: `batch_size`, `shuffle`, `seed`, `labels`, ...; without `rank` and
    `world_size` each worker that TF_CONFIG names gets its own share. One iteration is one epoch,
    and `repeat` goes through the epochs. The dataset carries `class_names`, as those of Keras do.

    With a `metrics_port` this process serves Prometheus metrics there (see `metered`).

    With a `checkpoint` it begins where the model that the checkpoint keeps left off: the first
    iteration is then what is left of an epoch. Elements of "bytes" make this process's malloc
    reuse freed memory (see `keep_freed_memory`), which is worth a factor of three.
    """
    check_elements(elements)
    check("checkpoint", checkpoint, FeedCheckpoint | None)
    feed_with = feed_options(options)
    if metrics_port is not None:
        feed_with = metered(feed_with, metrics_port)
    feed = Source(source, select, feed_with)
    if checkpoint is not None:
        checkpoint.bind(feed)

    def several() -> Iterator[Any]:
        if elements == BYTES:
            keep_freed_memory()  # here, because TensorFlow undoes it when it makes a generator
        for batches in feed.run():
            yield together.pack([element(batch, elements) for batch in batches])

    together = Together(signature(elements, feed.labelled))
    # One iteration is one call of `several`, and may be short (the rest of an epoch), which
    # assert_cardinality would refuse. An endless repeat cut to an epoch's length has a known
    # cardinality too, and ends early when a call comes back empty, as the one behind a short run.
    made = tf.data.Dataset.from_generator(several, output_signature=together.signature)
    whole = made.flat_map(together.unpack).repeat().take(feed.batches_per_epoch)
    # Every worker reads its own share already: TensorFlow must not leave out parts of it.
    sharding = tf.data.Options()
    sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    whole = whole.with_options(sharding)
    whole.class_names = list(feed.class_names)
    # Not with the generator: TensorFlow's registry of functions never lets that go.
    feed.follow(whole)
    return whole


def feed_options(options: dict[str, Any]) -> FeedOptions:
    """Return options by name as FeedOptions, the rank from TF_CONFIG unless given."""
    unknown = sorted(set(options) - set(_FIELDS))
    if unknown:
        raise Invalid(
            f"option {unknown[0]!r} of lakefeed.tf.dataset", expected=f"one of {', '.join(_FIELDS)}"
        )
    if "rank" not in options and "world_size" not in options:
        options["rank"], options["world_size"] = place()
    options["epochs"] = None
    return FeedOptions(**options)
