"""The feed's position beside the weights: what the model consumed, once each, across restarts."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import lakefeed.tf
from lakefeed.adapters.tf import checkpoints
from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.volume.posix import PosixVolume
from tests.adapters.alone import tf_trainer
from tests.adapters.alone.preloaded import Preloaded
from tests.adapters.alone.tf_trainer import SAMPLES, make_lake, make_model, numbers, seen

pytestmark = [
    pytest.mark.tf,
    pytest.mark.slow,
    # h5py asks Keras's variables for an array in numpy's new way, and they know the old one.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

BATCH = 4
STEPS = -(-SAMPLES // BATCH)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("lake")
    make_lake(where)
    return where


def training_data(lake: Path, saved: Any, **options: Any) -> Any:
    data = lakefeed.tf.dataset(lake, batch_size=BATCH, seed=3, checkpoint=saved, **options)
    return data.map(numbers, num_parallel_calls=2).prefetch(4)


class Interrupt(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends training in the middle of an epoch, as a user's Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


class Stop(keras.callbacks.Callback):  # type: ignore[misc]
    """Asks Keras to stop in the middle of an epoch, as one that hears a signal does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        self.model.stop_training = self._left == 0


def fit(lake: Path, where: Path, *more: Any, epochs: int = 2, every: Any = 5) -> tuple[Any, Any]:
    saved = lakefeed.tf.FeedCheckpoint(where, every=every)
    model = make_model()
    data = training_data(lake, saved)
    try:
        model.fit(
            data,
            epochs=epochs,
            initial_epoch=saved.epoch,
            callbacks=[saved, *more],
            shuffle=False,
            verbose=0,
        )
    except KeyboardInterrupt:
        assert more
    return model, saved


def test_kill_9_in_the_middle_of_fit_repeats_and_misses_no_sample(
    lake: Path, tmp_path: Path
) -> None:
    """Real processes: each is killed at some step, the last one trains to the end."""

    def begin(name: str) -> Preloaded:
        arguments = (str(lake), str(tmp_path / "checkpoints"), 3, 3)
        return Preloaded.begin(tf_trainer.main, *arguments, log=tmp_path / name)

    for victim, strike in (("first", 11), ("second", 17)):
        trainer = begin(victim)
        steps = itertools.islice(trainer.sayings(), strike)
        assert [*steps] == ["step"] * strike
        trainer.kill()
        assert trainer.process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.glob("checkpoints/*.position.json"))) in (1, 2), victim
    trainer = begin("last")
    *_, facts = trainer.sayings()
    assert trainer.process.exitcode == 0
    assert facts["begun"]["step"] >= 9 + 15
    assert facts["begun"]["epoch"] == 1
    assert facts["seen"] == [3] * SAMPLES
    assert facts["step"] == 3 * STEPS
    assert (facts["state"]["epoch"], facts["state"]["position"]) == (3, 0)


def test_the_position_is_what_the_model_took_not_what_prefetch_holds(
    lake: Path, tmp_path: Path
) -> None:
    _, saved = fit(lake, tmp_path, Interrupt(after=7), every=5)
    assert saved.step == 7
    assert saved.state["position"] == 7 * BATCH
    kept = lakefeed.tf.FeedCheckpoint(tmp_path)
    assert (kept.epoch, kept.step) == (0, 5)
    first = next(iter(training_data(lake, kept)))[0]
    reference = lakefeed.tf.dataset(lake, batch_size=BATCH, seed=3).map(numbers)
    assert first.numpy().tolist() == list(reference)[5][0].numpy().tolist()


def test_weights_and_position_go_on_together(lake: Path, tmp_path: Path) -> None:
    straight, _ = fit(lake, tmp_path / "straight")
    fit(lake, tmp_path / "parts", Interrupt(after=8))
    fit(lake, tmp_path / "parts", Interrupt(after=STEPS))
    parts, saved = fit(lake, tmp_path / "parts")
    assert seen(parts) == seen(straight) == [2] * SAMPLES
    assert saved.step == 2 * STEPS
    for mine, theirs in zip(parts.get_weights(), straight.get_weights(), strict=True):
        assert mine.tolist() == theirs.tolist()
    _, again = fit(lake, tmp_path / "parts")
    assert again.step == 2 * STEPS  # nothing is left to train


def test_every_epoch_keeps_the_newest_checkpoints_only(lake: Path, tmp_path: Path) -> None:
    for rank in (0, 3):  # which was there when more ranks were at work
        (tmp_path / f"unfinished-{rank}-killed").mkdir()
    model, saved = fit(lake, tmp_path, epochs=4, every="epoch")
    names = sorted(path.name for path in tmp_path.iterdir())
    steps = (3 * STEPS, 4 * STEPS)
    assert names == [
        f"{step:012d}.{kind}" for step in steps for kind in ("position.json", "weights.h5")
    ]
    assert (saved.epoch, seen(model)) == (4, [4] * SAMPLES)


@pytest.mark.parametrize("every", ["epoch", 7])
def test_an_epoch_that_was_stopped_is_not_over(lake: Path, tmp_path: Path, every: Any) -> None:
    _, saved = fit(lake, tmp_path, Stop(after=STEPS + 3), every=every)
    assert (saved.epoch, saved.state["epoch"]) == (1, 1)
    model, saved = fit(lake, tmp_path, every=every)
    assert seen(model) == [2] * SAMPLES
    assert (saved.epoch, saved.step) == (2, 2 * STEPS)


def test_answers_that_are_lost_do_not_end_a_training(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, unlink = PosixVolume.replace, Path.unlink

    def replace_twice(volume: PosixVolume, source: str, target: str) -> None:
        replace(volume, source, target)
        replace(volume, source, target)

    def unlink_twice(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        unlink(path, missing_ok)

    monkeypatch.setattr(PosixVolume, "replace", replace_twice)
    monkeypatch.setattr(Path, "unlink", unlink_twice)
    fit(lake, tmp_path)
    again = lakefeed.tf.FeedCheckpoint(tmp_path)
    assert (again.step, again.epoch) == (2 * STEPS, 2)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_cannot_be_removed_does_not_end_a_training(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 3):
        (tmp_path / f"unfinished-{rank}-killed").mkdir()

    def rmdir(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "another client has a file of it open")

    with monkeypatch.context() as patches:
        patches.setattr(os, "rmdir", rmdir)
        fit(lake, tmp_path)
    assert len(list(tmp_path.glob("unfinished-*"))) > 2
    again = lakefeed.tf.FeedCheckpoint(tmp_path)
    assert (again.step, again.epoch) == (2 * STEPS, 2)
    fit(lake, tmp_path, epochs=3)
    assert [*tmp_path.glob("unfinished-*")] == []


def test_files_of_others_in_the_directory_are_left_alone(lake: Path, tmp_path: Path) -> None:
    theirs = {"best.weights.h5", "zz.position.json", "0.weights.h5"}
    for name in theirs:
        (tmp_path / name).write_bytes(b"theirs")
    fit(lake, tmp_path, epochs=3, every="epoch")
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"theirs"} == theirs
    _, saved = fit(lake, tmp_path, epochs=4, every="epoch")
    assert (saved.epoch, saved.step) == (4, 4 * STEPS)


@pytest.mark.parametrize("steps", [4, 7, 2 * STEPS])
def test_several_steps_an_execution_and_a_built_in_validation(
    lake: Path, tmp_path: Path, steps: int
) -> None:
    saved = lakefeed.tf.FeedCheckpoint(tmp_path, every=4)
    model = make_model(steps_per_execution=steps)
    held_out = lakefeed.tf.dataset(lake, batch_size=32).map(numbers)
    data = training_data(lake, saved)
    model.fit(data, validation_data=held_out, epochs=2, callbacks=[saved], verbose=0, shuffle=False)
    assert seen(model) == [2] * SAMPLES
    assert (saved.step, saved.state["epoch"], saved.state["position"]) == (2 * STEPS, 2, 0)


@pytest.mark.parametrize("share", [{"batch_size": 16}, {"world_size": 4, "rank": 3}], ids=str)
def test_a_rest_that_fills_no_step_is_dropped_and_the_next_epoch_begins(
    lake: Path, tmp_path: Path, share: dict[str, int]
) -> None:
    saved = lakefeed.tf.FeedCheckpoint(tmp_path)
    model = make_model()
    data = training_data(lake, saved, last="drop")
    for number, target in data.take(20):
        model.train_on_batch(number, target)
        saved.advance()
    saved.save(model)
    assert (saved.state["epoch"], saved.state["position"]) == (0, 80)
    options = {"batch_size": BATCH, "seed": 3, "last": "drop", **share}
    saved = lakefeed.tf.FeedCheckpoint(tmp_path)
    data = lakefeed.tf.dataset(lake, checkpoint=saved, **options).map(numbers)
    model.fit(
        data, epochs=2, initial_epoch=saved.epoch, callbacks=[saved], shuffle=False, verbose=0
    )
    assert saved.step == 20 + 2 * (SAMPLES // 16)
    assert (saved.state["epoch"], saved.state["position"]) == (3, 0)


def two_ranks(lake: Path, where: Path) -> list[Any]:
    """A function for each rank, which trains up to an epoch and returns the rank's checkpoint."""
    return [
        functools.partial(fit_share, lake, lakefeed.tf.FeedCheckpoint(where), rank)
        for rank in range(2)
    ]


def fit_share(lake: Path, saved: Any, rank: int, epochs: int) -> Any:
    data = lakefeed.tf.dataset(lake, batch_size=BATCH, rank=rank, world_size=2, checkpoint=saved)
    make_model().fit(
        data.map(numbers),
        epochs=epochs,
        initial_epoch=saved.epoch,
        callbacks=[saved],
        shuffle=False,
        verbose=0,
    )
    return saved


def test_a_rank_above_0_knows_what_was_saved(lake: Path, tmp_path: Path) -> None:
    first, second = two_ranks(lake, tmp_path)
    assert second(1).epoch == 1  # before rank 0 has written anything
    assert first(1).epoch == 1
    for rank in (second, first):
        assert rank(2).epoch == 2


def test_a_rank_above_0_does_not_go_on_from_what_rank_0_never_wrote(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_PUBLISH_SECONDS", 0.0)
    _, second = two_ranks(lake, tmp_path)
    second(1)
    with pytest.raises(NotFound, match="rank 0 to publish it"):
        second(2)


# -- what is refused -------------------------------------------------------------------------------


def test_a_dataset_with_other_steps_than_batches_is_refused(lake: Path, tmp_path: Path) -> None:
    saved = lakefeed.tf.FeedCheckpoint(tmp_path)
    data = lakefeed.tf.dataset(lake, batch_size=BATCH, checkpoint=saved)
    with pytest.raises(Invalid, match="one batch of the dataset a step"):
        make_model().fit(
            data.unbatch().batch(2).map(numbers), callbacks=[saved], verbose=0, shuffle=False
        )


def test_what_does_not_fit_the_saved_run_is_refused(lake: Path, tmp_path: Path) -> None:
    fit(lake, tmp_path, epochs=1)
    saved = lakefeed.tf.FeedCheckpoint(tmp_path)
    with pytest.raises(Invalid, match="feed state's seed, expected 4, found 3"):
        lakefeed.tf.dataset(lake, batch_size=BATCH, seed=4, checkpoint=saved)
    with pytest.raises(Invalid, match="a dataset to follow"):
        make_model().fit(tf.zeros((4, 1)), tf.zeros((4, 1)), callbacks=[saved], verbose=0)
    data = training_data(lake, saved)
    with pytest.raises(Invalid, match="initial_epoch=1"):
        make_model().fit(data, epochs=2, callbacks=[saved], verbose=0, shuffle=False)
    with pytest.raises(Invalid, match="every"):
        lakefeed.tf.FeedCheckpoint(tmp_path, every=0)


def test_weights_that_another_callback_loads_are_refused(lake: Path, tmp_path: Path) -> None:
    def backup() -> Any:
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4)

    fit(lake, tmp_path, backup(), Interrupt(after=6))
    with pytest.raises(Invalid, match="those behind 4, loaded by another callback"):
        fit(lake, tmp_path, backup())


def test_a_backend_that_it_could_not_go_on_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(Invalid, match="torch"):
        lakefeed.tf.FeedCheckpoint(tmp_path)


def test_a_damaged_checkpoint_is_named(lake: Path, tmp_path: Path) -> None:
    fit(lake, tmp_path, epochs=1, every="epoch")
    (position,) = tmp_path.glob("*.position.json")
    whole = position.read_bytes()
    position.write_bytes(whole[:40])
    with pytest.raises(Corrupt, match=position.name):
        lakefeed.tf.FeedCheckpoint(tmp_path)
    position.write_bytes(whole)
    next(tmp_path.glob("*.weights.h5")).unlink()
    with pytest.raises(Corrupt, match="with its weights beside it"):
        lakefeed.tf.FeedCheckpoint(tmp_path)
