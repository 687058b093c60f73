"""An iterable dataset whose elements are batches, for a DataLoader with `batch_size=None`.

    dataset = lakefeed.torch.IterableDataset("/mnt/lake", "train/**", FeedOptions(256))
    for batch in DataLoader(dataset, batch_size=None, num_workers=4):
        train(batch.views(), batch.labels)

Workers take turns: worker w of n serves every n-th batch of its rank, beginning with the w-th, and
a DataLoader collects them in turns. So the batches that come out, their order and their states are
the same for any number of workers, and `batch.state` of the last one is all that must be saved
(I8): `resume` goes on behind it, also with other workers. Each iteration is the next epoch, in
persistent workers and in new ones (`standing`); one iteration at a time.

Under torchdata's StatefulDataLoader the iterator's own `state_dict` is used; `position` finds the
common state in what such a loader saved, so that another number of workers can go on from there.

The memory budget of the feed is the rank's: n workers share it. Keeps I7, I8 and I9.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch.utils import data

from lakefeed.adapters._conveyor import applied
from lakefeed.adapters._kept import Kept, OpenedFeed
from lakefeed.adapters._places import Place
from lakefeed.adapters.torch.batch import Batch
from lakefeed.adapters.torch.ranks import running, with_rank
from lakefeed.adapters.torch.standing import Standing, Turn
from lakefeed.errors import Invalid
from lakefeed.feed.feed import FeedOptions, Mix
from lakefeed.feed.selection import Select
from lakefeed.feed.sources import Source
from lakefeed.given import check

Transform = Callable[[Batch], Any]


class IterableDataset(data.IterableDataset[Any]):
    """The batches of one rank, an epoch an iteration.

    `transform` is called with each `Batch` in the process that reads it, and its result is the
    element. `group` says where the rank comes from, see `ranks`. The snapshot is fixed at
    construction; the dataset can be pickled unless its source is a lake in no directory.
    """

    def __init__(
        self,
        source: Source,
        select: Select | Mix = "",
        options: FeedOptions | None = None,
        transform: Transform | None = None,
        group: Any = "auto",
    ) -> None:
        super().__init__()
        self.place = Place.of(source)
        self.select = select
        self.transform = transform
        check("options", options, FeedOptions | None)
        check("transform", transform, Transform | None)
        self._options = options or FeedOptions()
        if self._options.epochs not in (1, None):
            raise Invalid("epochs", expected="none: one iteration is one epoch, without end",
                          found=self._options.epochs)  # fmt: skip
        self._group = group
        self._standing = Standing()
        self.kept = Kept()
        self.kept.follow(self)

    @property
    def options(self) -> FeedOptions:
        """The feed's options, with the rank of this process."""
        return with_rank(self._options, self._group)

    def __getstate__(self) -> dict[str, Any]:
        there = {name: value for name, value in self.__dict__.items() if name != "kept"}
        if self._group == "auto" and not running():
            return there  # where it is sent may become a rank
        # The rank is known here; a spawned worker belongs to no process group.
        return {**there, "_options": self.options, "_group": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kept = Kept()
        self.kept.follow(self)

    def __len__(self) -> int:
        """Return how many batches this rank gets in one epoch."""
        with self._opened() as opened:
            return len(opened.feed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""
        with self._opened() as opened:
            return opened.feed.class_names

    def __iter__(self) -> Iteration:
        """Return this worker's share of the next epoch; opens nothing before its first batch."""
        turn = Turn.of_this_process()
        epoch, state = self._standing.begin(turn)
        return Iteration(self, Stop(epoch, state, turn.worker), turn)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, in all workers, persistent ones included."""
        self._standing.set(epoch)

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Let the next iteration go on behind the batch that had this `state`.

        None, the `position` of a loader that had delivered nothing, changes nothing. Call it in the
        main process between iterations. Invalid if the state belongs to other samples, another seed
        or another shuffle.
        """
        if state is None:
            return
        with self._opened() as opened:
            opened.feed.restore(state)
            self._standing.set(int(state["epoch"]), opened.feed.state())

    def begin(self, epoch: int) -> dict[str, Any]:
        """Return the state in front of an epoch."""
        with self._opened() as opened:
            return {**opened.feed.state(), "epoch": epoch}

    def _opened(self) -> OpenedFeed:
        return OpenedFeed(self.place, self.select, self.options)

    def took_up(self, turn: Turn, epoch: int) -> None:
        """Say that a worker serves an epoch that a saved state named, so that the next follows."""
        self._standing.begun(turn, epoch)

    def feed_from(self, stop: Stop, turn: Turn) -> OpenedFeed:
        """Return a feed that goes on from a stop, with a worker's part of the budget.

        A worker among several gets one that ends with the epoch: its next one begins elsewhere. The
        only one gets one without end, which the epoch before has left if it can.
        """
        options = replace(self.options, epochs=None)
        opened = None
        if turn.workers > 1:
            memory_bytes = max(1, options.limits.bytes_max // turn.workers)
            options = replace(options, epochs=stop.epoch + 1, memory_bytes=memory_bytes)
        else:
            opened = self.kept.take(options)
        opened = opened or OpenedFeed(self.place, self.select, options)
        with ExitStack() as failing:
            failing.callback(opened.close)
            options.partition.check(len(opened.feed.selection))
            opened.stand_at(
                stop.state or {**opened.feed.state(), "epoch": stop.epoch, "position": 0}
            )
            if turn.workers > 1:
                opened.feed.take_turns(stop.skip, turn.workers)
            failing.pop_all()
        return opened


class Iteration(Iterator[Any]):
    """One epoch as one worker serves it: an iterator that can say and change where it stands."""

    def __init__(self, dataset: IterableDataset, stop: Stop, turn: Turn) -> None:
        self._dataset = dataset
        self._stop = stop
        self._turn = turn
        self._opened: OpenedFeed | None = None
        self._ended = False
        self._resources = ExitStack()
        # A DataLoader drops an iterator without a word; the feed must not outlive it.
        weakref.finalize(self, self._resources.close)

    def __iter__(self) -> Iteration:
        return self

    def __next__(self) -> Any:
        batch = self.next_batch()
        transform = self._dataset.transform
        return batch if transform is None else applied(transform, batch)

    def next_batch(self) -> Batch:
        """Return the next batch as it is, without the transform."""
        opened = self._opened or self._open()
        if self._ended:
            raise StopIteration
        try:
            batch = Batch.of(next(opened.feed))
        except StopIteration:
            self._resources.close()
            raise
        self._stop = Stop(self._stop.epoch, batch.state, self._turn.workers - 1)
        if self._turn.workers == 1 and batch.state["epoch"] != self._stop.epoch:
            self._leave(opened)
        return batch

    def _open(self) -> OpenedFeed:
        stop = self._stop
        opened = self._dataset.feed_from(stop, self._turn)
        self._resources.callback(opened.close)
        self._opened = opened
        here = opened.feed.state()
        partition, count = opened.options.partition, len(opened.feed.selection)
        served = here["epoch"] == stop.epoch and partition.step(int(here["position"] or 0), count)
        self._ended = not served
        return opened

    def _leave(self, opened: OpenedFeed) -> None:
        """Leave the feed to the next epoch, in front of which it stands."""
        self._ended = True
        self._resources.pop_all()
        self._dataset.kept.keep(opened)

    def state_dict(self) -> dict[str, Any]:
        """Return where this worker stands, as plain JSON; torchdata calls this by name."""
        stop = self._stop
        # As text, because torchdata takes nested states apart to send only what changed.
        return {"epoch": stop.epoch, "state": json.dumps(stop.state), "skip": stop.skip}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, in a worker of the same number of workers."""
        self.close()
        self._stop = Stop(int(saved["epoch"]), json.loads(saved["state"]), int(saved["skip"]))
        self._dataset.took_up(self._turn, self._stop.epoch)

    def close(self) -> None:
        """Stop reading. Works twice."""
        self._opened = None
        self._ended = False
        self._resources.close()


class Stop:
    """Where a worker stands: an epoch, the state behind its last batch, and how many to skip."""

    def __init__(self, epoch: int, state: dict[str, Any] | None, skip: int) -> None:
        self.epoch = epoch
        self.state = state
        self.skip = skip


def position(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state behind the last batch that a StatefulDataLoader delivered.

    `saved` is the loader's `state_dict()`. What comes back goes into `IterableDataset.resume`, for
    a loader with any number of workers; None: nothing was delivered yet. Invalid for a loader that
    does not snapshot at each step.
    """
    if saved.get("_steps_since_snapshot", 0):
        raise Invalid(
            "state of a StatefulDataLoader",
            expected="snapshot_every_n_steps=1",
            found=f"{saved['_steps_since_snapshot']} batches behind the last snapshot",
        )
    if "_snapshot" in saved:
        workers = saved["_snapshot"]["_worker_snapshots"].values()
        stops = [worker["fetcher_state"]["dataset_iter_state"] for worker in workers]
    else:
        stops = [saved["fetcher_state"]["dataset_iter_state"]]
    states = [json.loads(stop["state"]) for stop in stops]
    taken = [state for state in states if state is not None]
    return max(taken, key=lambda state: (state["epoch"], state["position"]), default=None)
