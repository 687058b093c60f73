"""A loader's iterations: each is one epoch, the next one or the rest of one that was restored.

The position is that of the last item handed out, whatever lies ready behind it. A loader serves one
iteration at a time; a newer one ends it. One that is never asked for an item was none: frameworks
make one only to see if they can. The loader says where an iteration's items come from (`_items`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lakefeed.closing import Closing, ending


@dataclass(frozen=True, slots=True)
class Position:
    """Where a loader stands: behind the item with this state, None: at the epoch's beginning."""

    epoch: int
    state: dict[str, Any] | None = None


class Epochs(Closing):
    """Iterations over epochs; what one of them holds is given back when it ends."""

    def __init__(self) -> None:
        self._position = Position(0)
        self._next = Position(0)  # where the next iteration begins
        self._running: ExitStack | None = None

    @abstractmethod
    def _items(self, running: ExitStack) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield what comes behind the position, each with its state; `running` closes it."""

    def _stand_at(self, position: Position) -> None:
        """Let the next iteration begin here."""
        self._position = self._next = position

    def __iter__(self) -> Iterator[Any]:
        """Yield the next epoch, or what is left of a restored one; ends an earlier iteration."""
        self._stop()
        self._running = running = ExitStack()
        return self._iteration(running)

    def _iteration(self, running: ExitStack) -> Iterator[Any]:
        end = ending(running)
        try:
            if self._running is not running:
                return  # a newer iteration has begun before this one was asked for anything
            self._position, epoch = self._next, self._next.epoch
            self._next = Position(epoch + 1)
            for state, item in self._items(running):
                if self._running is not running:
                    return  # a newer iteration has taken over
                self._position = Position(epoch, state)
                yield item
                del item  # the consumer decides how long a batch lives
        finally:
            end()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()
