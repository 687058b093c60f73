"""Which samples make up which batches: a pure walk along the order from any position.

An epoch is cut into steps, a step into the ranks' shares (`partition`), a share's positions become
sample numbers (`order`, or `mixing` for several selections). Nothing is remembered on the way: the
walk from a cursor is the same whether it began there or came there (I8). Many batches are drafted
at once, because a vector operation on a thousand positions costs hardly more than one on ten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lakefeed.feed.cursor import Cursor
from lakefeed.feed.order import Key, Shuffle
from lakefeed.feed.partition import Partition

# A sample number that stands for an empty sample, which only fills a batch up.
EMPTY = -1

# From positions of an epoch to sample numbers.
Order = Callable[[NDArray[np.int64], Key], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Draft:
    """Some batches of an epoch in a row: batch i has numbers[splits[i] : splits[i + 1]], the first
    `real[i]` of them samples of its own, which stand from position low[i] on, and the rest fill;
    behind it the feed stands at cursors[i]."""

    epoch: int
    numbers: NDArray[np.int64]
    splits: list[int]
    low: list[int]
    real: list[int]
    cursors: list[Cursor]

    def __len__(self) -> int:
        return len(self.cursors)

    def first(self, batches: int) -> Draft:
        """Return the first batches of the draft."""
        end = self.splits[batches]
        return Draft(self.epoch, self.numbers[:end], self.splits[: batches + 1],
                     self.low[:batches], self.real[:batches], self.cursors[:batches])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How `count` samples are served; epochs [0, `epochs`) exist, None: there is no last one.

    `every` n-th batch is served: n processes that share a rank take turns.
    """

    count: int
    partition: Partition
    epochs: int | None
    shuffle: Shuffle
    order: Order
    every: int = 1

    def draft(self, cursor: Cursor, samples_max: int, skip: int = 0) -> Draft | None:
        """Return this rank's next batches, of about `samples_max` samples; None: there are none.

        At least one batch, all of one epoch. Where the order has windows it ends with one, unless
        another whole one fits: reads that were worth merging are merged inside a window, and a part
        of it would read the same stretches as the rest. The first `skip` batches are left out, and
        then `every` - 1 behind each: whoever goes on behind a draft leaves out as many.
        """
        if not self.partition.batches(self.count):
            return None
        pieces: list[NDArray[np.int64]] = []
        splits, low, real = [0], list[int](), list[int]()
        cursors: list[Cursor] = []
        first, window_end = cursor, 0
        while splits[-1] < samples_max or not cursors:
            if self.epochs is not None and cursor.epoch >= self.epochs:
                break
            step = self.partition.step(cursor.position, self.count)
            if step is None:
                cursor = self._behind(cursor, self.count)
                continue
            if cursors and cursor.epoch != first.epoch:
                break
            if cursors and step.low >= window_end:
                share = (step.high - step.low) / (step.next - cursor.position) / self.every
                if splits[-1] + self.shuffle.window * share > samples_max:
                    break
                window_end = self._window_end(step.low)
            if skip:
                skip, cursor = skip - 1, self._behind(cursor, step.next)
                continue
            if not cursors:
                first, window_end = cursor, self._window_end(cursor.position)
            pieces.append(np.arange(step.low, step.high, dtype=np.int64))
            pieces.append(self._fill(step.fill, step.filled))
            splits.append(splits[-1] + step.high - step.low + step.filled)
            low.append(step.low)
            real.append(step.high - step.low)
            skip, cursor = self.every - 1, self._behind(cursor, step.next)
            cursors.append(cursor)
        if not cursors:
            return None
        numbers = self._numbers(np.concatenate(pieces), first)
        return Draft(first.epoch, numbers, splits, low, real, cursors)

    def _window_end(self, position: int) -> int:
        window = self.shuffle.window
        return (position // window + 1) * window if window else self.count

    def _fill(self, start: int, count: int) -> NDArray[np.int64]:
        if self.partition.last == "repeat":
            return np.arange(start, start + count, dtype=np.int64) % self.count
        return np.full(count, EMPTY, np.int64)

    def _numbers(self, positions: NDArray[np.int64], cursor: Cursor) -> NDArray[np.int64]:
        there = positions != EMPTY
        key = (cursor.seed, cursor.epoch)
        if there.all():
            return self.order(positions, key)
        numbers = np.full(len(positions), EMPTY, np.int64)
        numbers[there] = self.order(positions[there], key)
        return numbers

    def _behind(self, cursor: Cursor, position: int) -> Cursor:
        """Return the cursor moved to a position, or to the next epoch if no step begins there."""
        if self.partition.step(position, self.count) is None:
            return replace(cursor, epoch=cursor.epoch + 1, position=0)
        return replace(cursor, position=position)
