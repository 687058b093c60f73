"""LeNet on small pictures, fed from a lake or from plain files: the same model, seed and steps.

`from_lake` is what a user of lakefeed writes: the dataset gives whole batches of encoded files, and
a `map` decodes them. `from_files` is what most tutorials write. Everything behind them is shared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import lakefeed.tf
from lakefeed.lake.snapshot import Snapshot

AUTOTUNE = tf.data.AUTOTUNE


@dataclass(frozen=True, slots=True)
class Recipe:
    """What stays equal between two trainings."""

    class_names: tuple[str, ...]
    side: int
    channels: int
    batch_size: int
    epochs: int
    seed: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training pictures came to."""

    seconds: float
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float


# -- pictures in -----------------------------------------------------------------------------------


def from_lake(snapshot: Snapshot, select: str, recipe: Recipe, shuffle: str | None) -> Any:
    """Return a dataset of decoded batches read from the lake."""
    batches = lakefeed.tf.dataset(
        snapshot,
        select,
        batch_size=recipe.batch_size,
        shuffle=shuffle,
        seed=recipe.seed,
        labels="parent",
        class_names=recipe.class_names,
    )

    decode = _decoder(recipe)

    def decoded(data: Any, label: Any) -> Any:
        return decode(data), label

    # For tiny pictures taking the batches apart is quicker than tf.map_fn over each of them. It
    # forgets how many there are, though, and Keras warns about datasets of unknown length.
    pictures = batches.unbatch().map(decoded, num_parallel_calls=AUTOTUNE)
    again = pictures.batch(recipe.batch_size)
    count = tf.data.experimental.assert_cardinality(batches.cardinality())
    return again.apply(count).prefetch(2)


def from_files(files: Sequence[tuple[Path, str]], recipe: Recipe, shuffle: bool) -> Any:
    """Return a dataset of decoded batches read from plain files, the usual way."""
    numbers = [recipe.class_names.index(name) for _, name in files]
    paths = [str(path) for path, _ in files]
    items = tf.data.Dataset.from_tensor_slices((paths, np.array(numbers, np.int32)))
    if shuffle:
        items = items.shuffle(len(files), seed=recipe.seed)
    decode = _decoder(recipe)

    def load(path: Any, label: Any) -> Any:
        return decode(tf.io.read_file(path)), label

    return items.map(load, num_parallel_calls=AUTOTUNE).batch(recipe.batch_size).prefetch(2)


def decodable(data: bytes) -> bool:
    """Tell whether TensorFlow decodes these bytes as one picture; folders hold others too."""
    try:
        picture = tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return bool(picture.shape.rank == 3)


def _decoder(recipe: Recipe) -> Callable[[Any], Any]:
    def decode(data: Any) -> Any:
        picture = tf.io.decode_image(data, channels=recipe.channels, expand_animations=False)
        picture = tf.image.resize(picture, (recipe.side, recipe.side))
        return tf.ensure_shape(picture / 255.0, (recipe.side, recipe.side, recipe.channels))

    return decode


# -- a model out -----------------------------------------------------------------------------------


def make_model(recipe: Recipe) -> Any:
    """Return LeNet-5 with today's activations, its weights drawn from the recipe's seed."""
    keras.utils.set_random_seed(recipe.seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((recipe.side, recipe.side, recipe.channels)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(len(recipe.class_names), activation="softmax"),
        ],
        name="lenet",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(
    model: Any, data: Any, held_out: Any, epochs: int, report: Callable[[int, Epoch], None]
) -> list[Epoch]:
    """Train for some epochs and return how each went; `report` hears of it at once."""
    progress = _Progress(report)
    model.fit(
        data,
        validation_data=held_out,
        epochs=epochs,
        callbacks=[progress],
        shuffle=False,  # the dataset has its own order
        verbose=0,
    )
    return progress.epochs


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Times the epochs; validation is not counted."""

    def __init__(self, report: Callable[[int, Epoch], None]) -> None:
        super().__init__()
        self._report = report
        self._began = 0.0
        self._seconds = 0.0
        self.epochs: list[Epoch] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        self._seconds = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        done = Epoch(
            self._seconds,
            float(logs["loss"]),
            float(logs["accuracy"]),
            float(logs["val_loss"]),
            float(logs["val_accuracy"]),
        )
        self.epochs.append(done)
        self._report(epoch, done)


def predict(model: Any, data: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the true and the predicted class numbers, in the order of the dataset."""
    truth, guesses = [], []
    for pictures, labels in data:
        truth.append(labels.numpy())
        guesses.append(model.predict_on_batch(pictures).argmax(axis=1))
    return np.concatenate(truth).astype(np.int64), np.concatenate(guesses).astype(np.int64)


def same_weights(one: Any, other: Any) -> bool:
    """Tell whether two models have bit for bit the same weights."""
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


# -- reading alone ---------------------------------------------------------------------------------


def reading_seconds(make: Callable[[], Any]) -> float:
    """Return the median time of three passes over undecoded pictures."""
    data = make()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in data:
            pass
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def raw_from_lake(snapshot: Snapshot, recipe: Recipe) -> Any:
    """Return the training pictures' bytes, batch by batch, shuffled, from the lake."""
    return lakefeed.tf.dataset(
        snapshot, "train/**", batch_size=recipe.batch_size, seed=recipe.seed
    ).prefetch(2)


def raw_from_files(paths: Sequence[Path], recipe: Recipe) -> Any:
    """Return the training pictures' bytes, batch by batch, shuffled, from plain files."""
    items = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    items = items.shuffle(len(paths), seed=recipe.seed)
    return items.map(tf.io.read_file, AUTOTUNE).batch(recipe.batch_size).prefetch(2)
