"""A loader's iterations: each is one epoch, the next one or the rest of one that was restored.

The position is that of the last item handed out, whatever lies ready behind it. A loader serves one
iteration at a time; a newer one ends it. One that is never asked for an item was none: frameworks
make one only to see if they can. The loader says where an iteration's items come from (`_items`).

An error, or an interrupt, breaks an iteration off. Asked for more it says so: to be at its end
would be an epoch that is short without a word.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lakefeed.closing import Closing, ending
from lakefeed.errors import Invalid


@dataclass(frozen=True, slots=True)
class Position:
    """Where a loader stands: behind the item with this state, None: at the epoch's beginning."""

    epoch: int
    state: dict[str, Any] | None = None


class Epochs(Closing):
    """Iterations over epochs; what one of them holds is given back when it ends."""

    def __init__(self) -> None:
        self.position = Position(0)  # behind the last item handed out
        self._next = Position(0)  # where the next iteration begins
        self._running: ExitStack | None = None

    @abstractmethod
    def _items(self, running: ExitStack) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield what comes behind the position, each with its state; `running` closes it."""

    def _stand_at(self, position: Position) -> None:
        """Let the next iteration begin here."""
        self.position = self._next = position

    def __iter__(self) -> Iterator[Any]:
        """Yield the next epoch, or what is left of a restored one; ends an earlier iteration."""
        self._stop()
        self._running = running = ExitStack()
        return _Iteration(self, self._iteration(running))

    def _iteration(self, running: ExitStack) -> Generator[tuple[Position, Any], None, None]:
        end = ending(running)
        try:
            if self._running is not running:
                return  # a newer iteration has begun before this one was asked for anything
            self.position, epoch = self._next, self._next.epoch
            self._next = Position(epoch + 1)
            for state, item in self._items(running):
                if self._running is not running:
                    return  # a newer iteration has taken over
                yield Position(epoch, state), item
                del item  # the consumer decides how long a batch lives
        finally:
            end()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()


class _Iteration(Iterator[Any]):
    """One epoch, or what is left of it."""

    def __init__(self, epochs: Epochs, items: Generator[tuple[Position, Any], None, None]) -> None:
        self._epochs = epochs
        self._items = items
        self._broken_by: str | None = None

    def __next__(self) -> Any:
        if self._broken_by is not None:
            raise Invalid(
                "iteration of a loader",
                expected="one that was not broken off",
                found=self._broken_by,
                hint="give the loader its own state back and begin another one, which goes on "
                "behind the last batch",
            )
        try:
            position, item = next(self._items)
        except StopIteration:
            raise
        except BaseException as error:
            self._broken_by = type(error).__name__
            self._items.close()
            raise
        self._epochs.position = position  # last: an interrupt would come before, or behind
        return item

    def close(self) -> None:
        """End it here. Works twice."""
        self._items.close()
