"""What a resource does at the end of its `with` block: it closes, whatever happened; and that it is
sent to no other process."""

from __future__ import annotations

import _thread
import contextlib
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn, TypeVar

from lakefeed.errors import Invalid

_Self = TypeVar("_Self", bound="Closing")


class _Here(threading.local):
    """What is so of this thread; asking takes no lock."""

    works = False


_here = _Here()


class Closing:
    """A resource to be used in a `with` block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Staying:
    """A resource that is of use in the process that made it alone, so that sending it is refused
    with a word on what to send instead."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise Invalid(
            type(self).__name__,
            expected="to stay in the process that made it",
            hint="send what it was made of (the lake or its path, a snapshot, options), and make "
            "one there",
        )


def beside(close: Callable[[], None]) -> None:
    """Close something in a thread made for it: where the garbage collector asks for it, in the
    middle of anything, no lock may be taken, not even those of `threading` for a thread of its own.

    Nothing is done where the interpreter is about to end, which then does it.
    """
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(close, ())


def work_here() -> None:
    """Say that this thread is one of those that closing something waits for."""
    _here.works = True


def close_from_anywhere(close: Callable[[], None]) -> None:
    """Close something now; `beside` in a thread that closing may wait for, or whose locks it may
    want: there it is the garbage collector that asks."""
    if _here.works:
        beside(close)
    else:
        close()


def ending(running: ExitStack) -> Callable[[], None]:
    """Return what closes an iteration from anywhere, once. The end of the process does it where
    nobody did: a generator that is left in a variable has its turn when its modules are gone."""
    return weakref.finalize(running, close_from_anywhere, running.close)
