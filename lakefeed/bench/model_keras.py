"""Real steps in Keras on TensorFlow: the demo's CNN and ResNet-50."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from lakefeed.bench.models import CLASSES, SIDES, Ready


class KerasTrainer:
    """A compiled model whose step returns when its loss is known."""

    def __init__(self, model: str, device: str, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.side = SIDES[model]
        gpus = tf.config.list_physical_devices("GPU")
        self._place = "/GPU:0" if device == "tf-gpu" and gpus else "/CPU:0"
        self.device = "gpu" if self._place == "/GPU:0" else "cpu"
        with tf.device(self._place):
            self._model = _MODELS[model](self.side)
            self._model.compile("sgd", "sparse_categorical_crossentropy")
        self.name = f"Keras {model} on {self.device}"

    def ready(self, pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> Ready:
        """Return a batch as tensors, in the device's memory."""
        with tf.device(self._place):
            return tf.constant(pixels), tf.constant(labels)

    def step(self, batch: Ready) -> float:
        """Train on one batch; return its loss."""
        with tf.device(self._place):
            return float(self._model.train_on_batch(*batch))


def _cnn(side: int) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((side, side, 3)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def _resnet50(side: int) -> Any:
    shape = (side, side, 3)
    return keras.applications.ResNet50(weights=None, input_shape=shape, classes=CLASSES)


_MODELS = {"cnn": _cnn, "resnet50": _resnet50}
