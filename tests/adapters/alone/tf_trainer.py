"""A training that counts in its own weights which samples it took; run as a process to be killed.

The counts are saved and restored with the weights, so a repeated or missing sample after a restart
shows in them, whatever the processes before had done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import lakefeed.tf
from lakefeed.lake.lake import Lake
from tests.feed.lakes import QUIET

SAMPLES = 90


def make_lake(where: Path) -> None:
    """A lake of files that each say their number."""
    with Lake.create(where) as lake, lake.writer(QUIET) as writer:
        for number in range(SAMPLES):
            writer.put(f"train/{number:05d}.txt", f"{number:05d} a sample".encode())


class Counting(keras.layers.Layer):  # type: ignore[misc]
    """Counts the numbers that pass in training."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(
            shape=(SAMPLES,),
            initializer="zeros",
            trainable=False,
            aggregation="sum",  # over the replicas of a strategy
            name="seen",
        )

    def call(self, numbers: Any, training: bool = False) -> Any:
        if training:
            flat = tf.cast(tf.reshape(numbers, [-1]), tf.int32)
            counts = tf.math.bincount(flat, minlength=SAMPLES, maxlength=SAMPLES)
            self.seen.value.assign_add(tf.cast(counts, tf.float32))  # Keras would sum the sums
        return tf.cast(numbers, tf.float32) / SAMPLES


def make_model(**compiled: Any) -> Any:
    """Counting, and one weight to train."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((1,), dtype="int32"), Counting(), keras.layers.Dense(1, use_bias=False)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", **compiled)
    return model


def numbers(data: Any) -> Any:
    """What the files say, as input and target."""
    number = tf.strings.to_number(tf.strings.substr(data, 0, 5), tf.int32)[:, None]
    return number, tf.cast(number, tf.float32)


def seen(model: Any) -> list[int]:
    """How often each sample was trained on."""
    return [int(count) for count in np.asarray(model.layers[0].seen)]


class Telling(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells of each step, so that a parent knows when to strike."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        super().__init__()
        self._say = say

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._say("step")


def main(lake: str, checkpoints: str, epochs: int, every: int, say: Callable[[Any], None]) -> None:
    """Train to the end, from whatever checkpoint there is, and say what it came to."""
    saved = lakefeed.tf.FeedCheckpoint(checkpoints, every=every)
    train = (
        lakefeed.tf.dataset(lake, "train/**", batch_size=4, seed=3, checkpoint=saved)
        .map(numbers, num_parallel_calls=2)
        .prefetch(8)
    )
    model = make_model()
    begun = {"epoch": saved.epoch, "step": saved.step}
    model.fit(
        train,
        epochs=epochs,
        initial_epoch=saved.epoch,
        callbacks=[saved, Telling(say)],
        shuffle=False,
        verbose=0,
    )
    say({"begun": begun, "step": saved.step, "seen": seen(model), "state": dict(saved.state)})
