"""Keras: a callback for the steps, and a mark at the end of the dataset for the waits.

With TensorFlow behind it, Keras takes the next batch inside its compiled train step, where no
callback looks. So `mark` puts a stamp behind the last stage of the dataset: from the beginning of a
step to the stamp of its batch is waiting. Without the mark a step is all compute, and the report
cannot tell.

With `steps_per_execution=N` Keras calls back for N batches at once. They count as one step, whose
waiting is that for its first batch: when the model was done with one of the others nobody sees.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lakefeed.bench.monitoring import Monitor


class KerasMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Measures `fit`; writes the report at the end of each epoch."""

    def __init__(self, monitor: Monitor | None = None) -> None:
        super().__init__()
        self.monitor = monitor or Monitor()
        self._stamp = 0.0
        self._sizes: list[tuple[int, int]] = []
        self._waiting = 0  # of the sizes, those that a validation found
        self._began = 0.0

    def mark(self, dataset: Any) -> Any:
        """Return a tf.data.Dataset that tells this callback when each batch was there."""

        def stamp(*parts: Any) -> np.int64:
            if not self._sizes:
                self._stamp = time.monotonic()
            self._sizes.append(self.monitor.measure(list(parts)))
            return np.int64(0)

        def behind(*parts: Any) -> Any:
            # Ragged and sparse ones are several, none as long as the batch: they come last.
            whole = [leaf for leaf in tf.nest.flatten(parts) if isinstance(leaf, tf.Tensor)]
            leaves = tf.nest.flatten(parts, expand_composites=True)
            seen = [*whole, *(leaf for leaf in leaves if not any(leaf is one for one in whole))]
            done = tf.numpy_function(stamp, seen, tf.int64, stateful=True)
            with tf.control_dependencies([done]):
                kept = [tf.identity(leaf) for leaf in leaves]
            packed = tf.nest.pack_sequence_as(parts, kept, expand_composites=True)
            return packed if len(packed) > 1 else packed[0]

        options = tf.data.Options()
        # TensorFlow would put a buffer behind the stamp, and the waits would vanish in it.
        options.experimental_optimization.inject_prefetch = False
        return dataset.map(behind).with_options(options)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the batches that no step of a training took (`evaluate`, `predict`)."""
        self._sizes.clear()

    def on_test_begin(self, logs: Any = None) -> None:
        """Begin a validation, which may take batches of the same dataset."""
        self._waiting = len(self._sizes)

    def on_test_end(self, logs: Any = None) -> None:
        """Forget what it took."""
        del self._sizes[self._waiting :]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch."""
        self.monitor.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Begin a step."""
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a step."""
        loaded = max(self._began, self._stamp)
        sizes, self._sizes = self._sizes, []
        samples, size_bytes = (sum(column) for column in zip((0, 0), *sizes, strict=True))
        self.monitor.step(self._began, loaded, time.monotonic(), (samples, size_bytes))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the report."""
        self.monitor.write()

    def on_train_end(self, logs: Any = None) -> None:
        """Write it for the last time, and stop measuring."""
        self.monitor.close()
