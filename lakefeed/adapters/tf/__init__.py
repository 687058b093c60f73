"""The TensorFlow adapter: a lake's files as a `tf.data.Dataset`, and its position in a checkpoint.

`batches` makes the dataset, `elements` says what one looks like, `source` runs the feed behind it,
`checkpoint` keeps what the model has consumed, `distribute` gives each worker its own share.
"""

from __future__ import annotations

from lakefeed.adapters.tf.batches import dataset
from lakefeed.adapters.tf.checkpoint import FeedCheckpoint
from lakefeed.adapters.tf.distribute import distributed, place
from lakefeed.adapters.tf.elements import ragged, strings
from lakefeed.adapters.tf.memory import keep_freed_memory

__all__ = [
    "FeedCheckpoint",
    "dataset",
    "distributed",
    "keep_freed_memory",
    "place",
    "ragged",
    "strings",
]
