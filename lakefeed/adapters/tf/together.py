"""Several batches with one call of the generator, and each an element of its own again.

TensorFlow asks a generator for its next element with 0.3 ms of Python, during which the feed's
workers wait for the interpreter. So what lies ready is handed over together, flat, in as many
places as there may be batches; places left over are filled with empty batches, and TensorFlow's own
threads, which need no interpreter, take the batches apart. Nobody waits for company: a batch that
comes alone goes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import tensorflow as tf

from lakefeed.feed.batch import Batch

BATCHES_MAX = 4
# They are held beside the feed's budget, so big batches are not worth keeping for each other.
_BYTES_MAX = 16 << 20


def has_room(batches: Sequence[Batch]) -> bool:
    """Tell whether one batch more may go with these."""
    held_bytes = sum(batch.data.nbytes for batch in batches)
    return len(batches) < BATCHES_MAX and held_bytes < _BYTES_MAX


class Together:
    """Up to `BATCHES_MAX` elements as one tuple of tensors; `one` has the specs of an element."""

    def __init__(self, one: Any) -> None:
        self._one = one
        specs = tf.nest.flatten(one)
        self._nothing = [np.empty(0, spec.dtype.as_numpy_dtype) for spec in specs]
        self.signature = (tf.TensorSpec([], tf.int64), *(specs * BATCHES_MAX))

    def pack(self, elements: Sequence[Any]) -> tuple[Any, ...]:
        """Return the elements as `signature` says."""
        flat = [part for each in elements for part in self._flat(each)]
        return (len(elements), *flat, *(self._nothing * (BATCHES_MAX - len(elements))))

    def _flat(self, element: Any) -> list[Any]:
        # As tf.nest does it, but a list of bytes is one tensor.
        if isinstance(element, tuple):
            return [part for each in element for part in self._flat(each)]
        if isinstance(element, dict):
            return [element[name] for name in sorted(element)]
        return [element]

    def unpack(self, count: Any, *tensors: Any) -> Any:
        """Return what was packed as a dataset of `count` elements."""
        width = len(self._nothing)
        places = [tensors[at : at + width] for at in range(0, len(tensors), width)]
        elements = [tf.nest.pack_sequence_as(self._one, place) for place in places]
        datasets = map(tf.data.Dataset.from_tensors, elements)
        return reduce(lambda before, after: before.concatenate(after), datasets).take(count)
