"""A user's own training with Keras, measured in one line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import lakefeed.monitor
from lakefeed.bench import reports
from lakefeed.bench.monitoring import measure


@pytest.mark.slow
@pytest.mark.tf
def test_keras_is_measured_in_one_line(tmp_path: Path) -> None:
    def slow() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        never = threading.Event()
        for _ in range(6):
            never.wait(0.03)
            yield np.zeros((8, 4), np.float32), np.zeros(8, np.int64)

    signature = (tf.TensorSpec((8, 4), tf.float32), tf.TensorSpec((8,), tf.int64))
    data = tf.data.Dataset.from_generator(slow, output_signature=signature)
    data = data.apply(tf.data.experimental.assert_cardinality(6))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit = lakefeed.monitor.keras(data, tmp_path / "run.html", name="mine")
    history = model.fit(**fit, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["epochs"], run["steps"], run["samples"]) == (2, 12, 96)
    assert run["sample_bytes"] == 12 * 8 * (16 + 8)
    # The stamp shows what the generator took, inside of Keras's own step.
    assert run["wait_seconds"]["p50"] >= 0.02


@pytest.mark.slow
@pytest.mark.tf
def test_batches_that_keras_takes_together_all_count(tmp_path: Path) -> None:
    arrays = np.zeros((48, 4), np.float32), np.zeros(48, np.int64)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=3)
    data = tf.data.Dataset.from_tensor_slices(arrays).batch(8)
    model.fit(**lakefeed.monitor.keras(data, tmp_path / "run.html"), epochs=2, verbose=0)
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["steps"], run["samples"], run["sample_bytes"]) == (4, 96, 96 * (16 + 8))


@pytest.mark.slow
@pytest.mark.tf
def test_batches_of_an_evaluation_are_none_of_the_trainings(tmp_path: Path) -> None:
    arrays = np.zeros((48, 4), np.float32), np.zeros(48, np.int64)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit = lakefeed.monitor.keras(
        tf.data.Dataset.from_tensor_slices(arrays).batch(8), tmp_path / "run.html"
    )
    model.evaluate(fit["x"], verbose=0)
    model.fit(**fit, epochs=2, validation_data=fit["x"], verbose=0)
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert (run["steps"], run["samples"]) == (12, 96)


@pytest.mark.slow
@pytest.mark.tf
def test_batches_of_tensorflow_are_measured() -> None:
    assert measure((tf.zeros((3, 2), tf.float32), tf.zeros(3, tf.int64))) == (3, 24 + 24)
    assert measure(tf.constant(["ab", "c", ""])) == (3, 3)


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_batches_of_many_tensors_each_are_measured(kind: str, tmp_path: Path) -> None:
    rows = tf.ragged.constant([[1, 2], [3], [4, 5, 6], [7]], tf.int64)
    data = tf.data.Dataset.from_tensor_slices((rows, np.zeros(4, np.int64))).batch(2)
    if kind == "sparse":
        data = data.map(lambda row, label: (row.to_sparse(), label))
    watched = lakefeed.monitor.watch(data, tmp_path / "run.html")
    marked = lakefeed.monitor.keras(data, tmp_path / "keras.html")
    for (mine, _), (theirs, _) in zip(watched, marked["x"], strict=True):
        assert type(mine) is type(theirs)
    run = reports.read(tmp_path / "run.json")["runs"][0]
    assert run["samples"] == 4
    assert run["sample_bytes"] >= 8 * 7 + 8 * 4
    assert [samples for samples, _ in marked["callbacks"][0]._sizes] == [2, 2]
