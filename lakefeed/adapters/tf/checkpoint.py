"""A Keras callback that keeps the weights and the feed's position together, and goes on from both.

    saved = lakefeed.tf.FeedCheckpoint("run/checkpoints", every=500)
    train = lakefeed.tf.dataset(lake, "train/**", labels="parent", checkpoint=saved).map(...)
    model.fit(train, epochs=20, initial_epoch=saved.epoch, callbacks=[saved], shuffle=False)

The position is that of the batches the model has *consumed*: what `prefetch` and `map` hold in
between is served again after a restart. Weights (with the optimizer's) and position are one
checkpoint (`checkpoints`), so no sample is repeated or missing in what the weights have seen (I8).

All ranks read the same directory when they begin; from its first save on a rank above 0 knows by
itself what was saved last, and only waits for rank 0 to publish it.
"""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack
from typing import Any

import keras

from lakefeed.adapters.tf.checkpoints import Checkpoints
from lakefeed.adapters.tf.source import Consumed, Source, State, number
from lakefeed.errors import Invalid

# What Keras says at the end of the rest of an epoch, although training goes on.
_SHORT_EPOCH = "Your input ran out of data"
_ENDLESS = -1  # tf.data's cardinality of a dataset that repeats


class FeedCheckpoint(keras.callbacks.Callback):
    """Saves every `every` steps or at each end of an epoch, and at the end of training.

    The newest `keep` checkpoints stay.

    Give it to the training dataset (`checkpoint=`) and to `fit` (`callbacks=`), with
    `initial_epoch=saved.epoch`. A training loop of your own calls `restore(model)` before it,
    `advance()` behind each step and `save(model)` when it likes.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, every: int | str = "epoch", keep: int = 2
    ) -> None:
        super().__init__()
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise Invalid("every", expected='"epoch" or steps from 1', found=repr(every))
        if keep < 1:
            raise Invalid("keep", expected="at least 1", found=keep)
        if keras.backend.backend() != "tensorflow":
            raise Invalid(
                "Keras's backend",
                expected="tensorflow",
                found=keras.backend.backend(),
                hint="save the state of a PyTorch or JAX Loader in a loop of your own",
            )
        self.batches_per_step = 1
        self.counted: int | None = None  # steps of an epoch as Keras counts them (`distributed`)
        self._checkpoints = Checkpoints(directory, keep)
        self._every = every
        self._saved = self._checkpoints.newest()
        self._has_saved = False  # this process itself
        self._step = 0 if self._saved is None else int(self._saved["step"])
        self._consumed: Consumed | None = None
        self._source: Source | None = None
        self._epoch: int | None = None  # of `fit`, once it has begun its first one
        self._short = False  # this epoch of `fit` ends before Keras expects it
        self._goes_on = False  # the dataset repeats, so an epoch of `fit` is none of the feed
        self._seen = 0  # steps of this epoch of `fit`
        self._unsaved = 0  # steps since the last save
        self._iterations = 0  # the optimizer's, with the weights that training begins with
        self._quiet = ExitStack()

    # -- where training stands -------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch to begin with: give it to `fit` as `initial_epoch`."""
        return 0 if self._saved is None else int(self._saved["epoch"])

    @property
    def step(self) -> int:
        """How many steps the model has taken, over all runs."""
        return self._step

    @property
    def state(self) -> State:
        """Where a feed has to go on: behind the last batch that the model consumed."""
        return self._position().state

    def bind(self, source: Source) -> None:
        """Follow the feed of a dataset; `dataset(checkpoint=...)` calls it."""
        self._source = source
        self._consumed = Consumed(source, None if self._saved is None else self._saved["feed"])

    def advance(self, steps: int = 1, *, at_most: bool = False) -> None:
        """Count steps as taken by the model; with `at_most` they end with the epoch's batches.

        Invalid when the dataset never handed out so many batches.
        """
        at_most = at_most or self.batches_per_step > 1
        batches = self._position().advance(steps * self.batches_per_step, at_most=at_most)
        taken = -(-batches // self.batches_per_step)
        self._step += taken
        self._unsaved += taken
        self._seen += steps

    def _position(self) -> Consumed:
        if self._consumed is None:
            raise Invalid(
                f"FeedCheckpoint in {self._checkpoints.directory}",
                expected="a dataset to follow",
                found="none",
                hint="give it to lakefeed.tf.dataset as checkpoint=",
            )
        return self._consumed

    # -- saving and restoring --------------------------------------------------------------------

    def save(self, model: Any) -> None:
        """Keep the model's weights and the position behind its last batch, as one checkpoint."""
        state, rank = dict(self._position().state), self._feed.rank
        epoch = self._fit_epoch(state)
        self._saved = self._checkpoints.save(
            model.save_weights, {"step": self._step, "epoch": epoch, "feed": state}, rank
        )
        self._has_saved, self._unsaved = True, 0
        if rank == 0:
            self._checkpoints.tidy(self._feed.world_size)

    def restore(self, model: Any) -> bool:
        """Go back to the newest checkpoint, weights and position; False when there is none."""
        self._epoch = None
        if self._feed.rank == 0 or not self._has_saved:
            self._saved = self._checkpoints.newest()
        if self._saved is None:
            self._position().begin()
            return False
        if not model.built:
            raise Invalid(
                f"model {model.name!r}",
                expected="a built one, to load weights into",
                found="one that has seen no input",
                hint="call model.build(...) or begin it with keras.Input",
            )
        weights = self._checkpoints.weights(self._saved)
        with model.distribute_strategy.scope():
            if model.optimizer is not None and not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            model.load_weights(weights)
        self._step, self._unsaved = int(self._saved["step"]), 0
        self.bind(self._feed)
        return True

    @property
    def _feed(self) -> Source:
        self._position()
        assert self._source is not None
        return self._source

    def _fit_epoch(self, state: State) -> int:
        """Return the epoch that `fit` has to begin with behind this position.

        Behind an epoch it is the next one; an epoch that was stopped before its end goes on. A loop
        of one's own counts the feed's epochs.
        """
        if self._epoch is None:
            return number(state, "epoch")
        return self._epoch + self._is_over(state)

    def _is_over(self, state: State) -> bool:
        """Tell whether the epoch of `fit` has had all its steps."""
        if self._by_epochs():
            return self._seen > 0 and state["position"] == 0
        steps = self.params["steps"]
        return steps is not None and self._seen >= steps

    def _by_epochs(self) -> bool:
        """Tell whether an epoch of `fit` is one of the feed, not a stretch of an endless one."""
        if self._goes_on:
            return False
        steps = -(-self._feed.batches_per_epoch // self.batches_per_step)
        return (self.params or {}).get("steps") in (None, steps, self.counted)

    def _repeats(self) -> bool:
        """Tell whether the dataset goes on behind the feed's epoch that has just ended."""
        return self._position().goes_on() if self.counted is None else self.counted == _ENDLESS

    # -- what Keras calls ------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Load the weights, and let the dataset begin where they were saved."""
        self._goes_on = False
        self.restore(self.model)
        self._iterations = _iterations(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Check that `fit` begins with the epoch and the weights that were saved."""
        if self._epoch is None:
            self._check_begin(epoch)
        self._epoch, self._seen = epoch, 0
        is_rest, is_shared = self.state["position"] != 0, self.batches_per_step > 1
        self._short = self._by_epochs() and (is_rest or is_shared)
        if self._short:
            self._quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=_SHORT_EPOCH)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """End an epoch before Keras asks for a batch too many.

        It expects more than the rest of an interrupted one, and of several replicas a step for each
        batch.

        Keras would find out by itself. But its step counts an iteration of the optimizer, and draws
        random numbers, before it notices that there is no data; StopIteration is its own way out.
        """
        if self._short and self._seen and self.state["position"] == 0:
            if not self._repeats():
                raise StopIteration
            # Ended, it would begin anew behind what it has read ahead, and Keras would take the
            # steps so far for all that it has.
            self._goes_on, self._short = True, False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count what the step consumed; with `steps_per_execution` Keras calls once for several."""
        self.advance(batch + 1 - self._seen, at_most=self.model.steps_per_execution > 1)
        if self._every != "epoch" and self._unsaved >= int(self._every):
            self.save(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep the epoch, if that is what was asked for."""
        self._quiet.close()
        self._short = False
        if self._by_epochs() and self.state["position"] != 0 and not self.model.stop_training:
            raise Invalid(
                f"epoch {epoch} of fit",
                expected="all batches of an epoch of the feed",
                found=f"{self._seen} steps: Keras has taken the rest of an epoch for a whole one",
                hint="leave repeat() and steps_per_epoch out, and keep the cardinality known",
            )
        # A stretch that was not stopped is short where a dataset without `repeat` had no more.
        is_over = self._is_over(self.state) or not self.model.stop_training
        self._epoch, self._seen = epoch + is_over, 0
        if self._every == "epoch":
            self.save(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        """Keep what was trained since the last save."""
        self._quiet.close()
        if self._unsaved:
            self.save(self.model)

    def _check_begin(self, epoch: int) -> None:
        """Invalid where another callback, or the caller, has `fit` begin elsewhere."""
        if self._saved is not None and epoch != self.epoch:
            raise Invalid(
                f"fit with the checkpoint in {self._checkpoints.directory}",
                expected=f"initial_epoch={self.epoch}",
                found=epoch,
                hint="pass initial_epoch=saved.epoch, and no BackupAndRestore, which sets another",
            )
        iterations = _iterations(self.model)
        if iterations != self._iterations:
            raise Invalid(
                f"fit with the checkpoint in {self._checkpoints.directory}",
                expected=f"the weights behind {self._iterations} iterations of the optimizer",
                found=f"those behind {iterations}, loaded by another callback",
                hint="leave BackupAndRestore and its like out: the position would not be theirs",
            )


def _iterations(model: Any) -> int:
    """Return how many steps a model's optimizer took; 0 of one that Keras does not know."""
    return 0 if model.optimizer is None else int(model.optimizer.iterations.value.numpy())
