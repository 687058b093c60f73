"""Which samples make up which batch: a pure walk along the order from any position.

An epoch is cut into steps, a step into the ranks' shares (`order.Partition`), a share's positions
become sample numbers (`order.Shuffle`). Nothing is remembered on the way: the walk from a cursor is
the same whether it began there or came there (I8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid
from lakefeed.feed.batch import Cursor
from lakefeed.feed.order import Partition, Shuffle


@dataclass(frozen=True, slots=True)
class Assignment:
    """The samples of one batch, and where the feed stands behind it."""

    numbers: NDArray[np.int64]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Plan:
    """How `count` samples are served; epochs [0, `epochs`) exist, None: there is no last one."""

    count: int
    partition: Partition
    epochs: int | None

    def assignments(self, cursor: Cursor) -> Iterator[Assignment]:
        """Yield this rank's batches from a cursor on; a share without samples is no batch.

        Invalid when the rank would get nothing at all in a whole epoch.
        """
        if not self.partition.batches(self.count):
            raise Invalid(
                f"rank {self.partition.rank} of {self.partition.world_size}",
                expected="at least one batch in an epoch",
                found=f"{self.count} samples",
                hint="use a smaller batch_size or world_size, or drop_last=False",
            )
        shuffle = Shuffle.parse(cursor.shuffle)
        while self.epochs is None or cursor.epoch < self.epochs:
            key = (cursor.seed, cursor.epoch)
            step = self.partition.step(cursor.position, self.count)
            cursor = self._behind(cursor, self.count if step is None else step.next)
            if step is not None and step.high > step.low:
                positions = np.arange(step.low, step.high, dtype=np.int64)
                yield Assignment(shuffle.samples(positions, self.count, key), cursor)

    def _behind(self, cursor: Cursor, position: int) -> Cursor:
        """Return the cursor moved to a position, or to the next epoch if no step begins there."""
        if self.partition.step(position, self.count) is None:
            return replace(cursor, epoch=cursor.epoch + 1, position=0)
        return replace(cursor, position=position)
