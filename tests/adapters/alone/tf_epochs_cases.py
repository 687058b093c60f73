"""Which epoch of `fit`, or of a loop of one's own, a checkpoint stands for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import lakefeed.tf
from lakefeed.adapters.tf import source
from lakefeed.errors import Invalid
from tests.adapters.alone.tf_checkpoint_cases import BATCH, STEPS, Interrupt, fit, training_data
from tests.adapters.alone.tf_trainer import SAMPLES, make_lake, make_model, numbers, seen

pytestmark = [
    pytest.mark.tf,
    pytest.mark.slow,
    # h5py asks Keras's variables for an array in numpy's new way, and they know the old one.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("lake")
    make_lake(where)
    return where


@pytest.mark.parametrize("every", [7, 5])  # 5: the last step of each stretch is saved as a step
def test_an_endless_dataset_goes_on_in_the_middle_of_an_epoch(
    lake: Path, tmp_path: Path, every: int
) -> None:
    for epochs in (1, 2, 3):
        saved = lakefeed.tf.FeedCheckpoint(tmp_path, every=every)
        model = make_model()
        assert saved.epoch == epochs - 1
        model.fit(
            training_data(lake, saved).repeat(),
            steps_per_epoch=15,
            epochs=epochs,
            initial_epoch=saved.epoch,
            callbacks=[saved],
            shuffle=False,
            verbose=0,
        )
        assert saved.step == 15 * epochs
    epoch, position = divmod(45, STEPS)
    assert (saved.state["epoch"], saved.state["position"]) == (epoch, position * BATCH)
    counts = seen(model)
    assert sorted(set(counts)) == [1, 2]
    assert sum(counts) == 45 * BATCH - (STEPS * BATCH - SAMPLES)


def test_an_endless_dataset_that_reads_ahead_of_an_interrupted_epoch(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_GOES_ON_SECONDS", 120.0)
    steps = STEPS + 7
    for more in ([Interrupt(after=steps)], []):
        saved = lakefeed.tf.FeedCheckpoint(tmp_path, every=5)
        model = make_model()
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(
                training_data(lake, saved).repeat().prefetch(4),
                steps_per_epoch=STEPS,
                epochs=3,
                initial_epoch=saved.epoch,
                callbacks=[saved, *more],
                shuffle=False,
                verbose=0,
            )
    assert (saved.epoch, saved.step) == (3, steps + 2 * STEPS)
    assert sorted(seen(model)) == [3] * (SAMPLES - 7 * BATCH) + [4] * (7 * BATCH)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", ["endless", "unknown"])
def test_an_epoch_that_keras_takes_to_be_as_short_as_a_rest_is_refused(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(source, "_GOES_ON_SECONDS", 0.0)
    fit(lake, tmp_path, Interrupt(after=STEPS - 3))
    saved = lakefeed.tf.FeedCheckpoint(tmp_path)
    data = lakefeed.tf.dataset(lake, batch_size=BATCH, seed=3, checkpoint=saved).map(numbers)
    if kind == "endless":
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # nobody asks ahead
        data = data.repeat().with_options(options)
    else:
        data = data.filter(lambda *_: True)
    with pytest.raises(Invalid, match="the rest of an epoch for a whole one"):
        make_model().fit(
            data,
            epochs=4,
            steps_per_epoch=STEPS if kind == "endless" else None,
            callbacks=[saved],
            shuffle=False,
            verbose=0,
        )


def test_a_model_with_an_optimizer_of_its_own(lake: Path, tmp_path: Path) -> None:
    class Own(keras.Sequential):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            number, target = data
            return {"loss": tf.reduce_mean((self(number, training=True) - target) ** 2)}

    for epochs in (1, 2):
        model = Own([keras.Input((1,), dtype="int32"), *make_model().layers])
        model.compile(optimizer=None)
        saved = lakefeed.tf.FeedCheckpoint(tmp_path)
        model.fit(
            training_data(lake, saved),
            epochs=epochs,
            initial_epoch=saved.epoch,
            callbacks=[saved],
            shuffle=False,
            verbose=0,
        )
    assert seen(model) == [2] * SAMPLES


def test_a_training_loop_of_ones_own(lake: Path, tmp_path: Path) -> None:
    model = make_model()
    for _ in range(2):
        saved = lakefeed.tf.FeedCheckpoint(tmp_path)
        data = training_data(lake, saved)
        saved.restore(model)
        for number, target in data.take(6):
            model.train_on_batch(number, target)
            saved.advance()
        saved.save(model)
    assert saved.step == 12
    assert sum(seen(model)) == 12 * BATCH
    assert max(seen(model)) == 1


def test_a_training_loop_of_ones_own_by_epochs(lake: Path, tmp_path: Path) -> None:
    model = make_model()
    for until in (2, 4):
        saved = lakefeed.tf.FeedCheckpoint(tmp_path)
        data = training_data(lake, saved)
        saved.restore(model)
        for _ in range(saved.epoch, until):
            for number, target in data:
                model.train_on_batch(number, target)
                saved.advance()
            saved.save(model)
        assert saved.epoch == until
    assert seen(model) == [4] * SAMPLES


def test_a_loop_of_ones_own_behind_a_fit_counts_the_feeds_epochs(
    lake: Path, tmp_path: Path
) -> None:
    model, saved = fit(lake, tmp_path, epochs=1)
    data = training_data(lake, saved)
    saved.restore(model)
    for _ in range(saved.epoch, 3):
        for number, target in data:
            model.train_on_batch(number, target)
            saved.advance()
    saved.save(model)
    assert saved.epoch == 3


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_stretch_that_the_dataset_ended_is_over(lake: Path, tmp_path: Path) -> None:
    """Without `repeat`, Keras goes to the next epoch at the end of the data."""
    for _ in range(2):
        saved = lakefeed.tf.FeedCheckpoint(tmp_path, every=4)
        make_model().fit(
            training_data(lake, saved),
            steps_per_epoch=10,
            epochs=3,
            initial_epoch=saved.epoch,
            callbacks=[saved],
            shuffle=False,
            verbose=0,
        )
        assert (saved.epoch, saved.step) == (3, STEPS)
