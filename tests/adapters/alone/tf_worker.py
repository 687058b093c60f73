"""One worker of a distributed training; run as a process. TF_CONFIG says which one it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import lakefeed.tf
from tests.adapters.alone.tf_trainer import make_model, numbers, seen

BATCH = 12
EPOCHS = 2
STRIKE = 10  # the step at which a worker that was told to dies


def main(
    lake: str, checkpoints: str, replicas: int, strike: bool, say: Callable[[Any], None]
) -> None:
    """Train for two epochs in whatever strategy the surroundings ask for, or up to the strike."""
    strategy = make_strategy(replicas)
    saved = lakefeed.tf.FeedCheckpoint(checkpoints, every=4)

    def make(**share: Any) -> Any:
        return lakefeed.tf.dataset(lake, "train/**", seed=3, **share).map(numbers).prefetch(4)

    train = lakefeed.tf.distributed(strategy, make, batch_size=BATCH, checkpoint=saved)
    with strategy.scope():
        model = make_model()
    begun = saved.step
    if replicas > 1:
        fit = {"epochs": EPOCHS, "initial_epoch": saved.epoch, "callbacks": [saved]}
        model.fit(train, shuffle=False, verbose=0, **fit)
    else:
        by_hand(strategy, model, train, saved, strike)
    facts = {
        "place": lakefeed.tf.place(),
        "replicas": strategy.num_replicas_in_sync,
        "seen": seen(model),
        "begun": begun,
        "step": saved.step,
        "epoch": saved.epoch,
        "iterations": int(model.optimizer.iterations.value.numpy()),
        "state": dict(saved.state),
        "weight": model.layers[1].kernel.numpy().tolist(),
    }
    say(facts)


def make_strategy(replicas: int) -> Any:
    """Two replicas in this process, or one in each of TF_CONFIG's workers."""
    if replicas == 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(replicas)])


def by_hand(strategy: Any, model: Any, train: Any, saved: Any, strike: bool) -> None:
    """A training loop for several workers, because `fit` of Keras 3 does not begin with them."""

    def replica(number: Any, target: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(number, training=True) - target) ** 2)
        model.optimizer.apply(
            tape.gradient(loss, model.trainable_variables), model.trainable_variables
        )

    @tf.function
    def step(batch: Any) -> None:
        strategy.run(replica, args=batch)

    saved.restore(model)
    while saved.state["epoch"] < EPOCHS:
        for batch in train:
            step(batch)
            saved.advance()
            if saved.step == STRIKE and strike:
                os.kill(os.getpid(), signal.SIGKILL)
        saved.save(model)
